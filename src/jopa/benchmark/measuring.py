"""Metrics of other packages for the cells of a run, computed from its records; runs no model."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from jopa.benchmark.records import CellRecord, FinishedCell, Run
from jopa.errors import ScoringError
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
    try:
        values = {metric.name: measured(metric, cell) for metric in metrics}
    except ScoringError as error:
        key = cell.key
        where = f"{key.model}, {key.data}, prompt {key.example}, {key.method}, k = {key.k}, seed {key.seed}"
        raise ScoringError(f"{error} (cell: {where}); give None where it has no value") from error
    return msgspec.structs.replace(cell, metrics=cell.metrics | values)
