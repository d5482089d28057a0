"""Metrics of other packages for the cells of a run, computed from its records; runs no model."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from jopa.benchmark.records import CellRecord, FinishedCell, Run
from jopa.evaluation.metric import Metric, measured
from jopa.evaluation.metrics import METRICS


def with_plugin_metrics(run: Run) -> Run:
    """The run with a value of each metric of another package in every finished cell.

    Raises:
        ScoringError: a metric's own code fails, or gives what is no number; the message names metric and cell.
    """
    metrics = [metric for metric in METRICS.plugins.values() if metric.compute is not None]
    if not metrics:
        return run
    return replace(run, cells=tuple(_measured(cell, metrics) for cell in run.cells))


def _measured(cell: CellRecord, metrics: list[Metric]) -> CellRecord:
    if not isinstance(cell, FinishedCell):
        return cell
    values = {metric.name: measured(metric, cell) for metric in metrics}
    return msgspec.structs.replace(cell, metrics=cell.metrics | values)
