"""The cells of a benchmark run as CSV: one row a cell, nothing rounded, for programs and spreadsheets.

Log-probabilities, joint effect and synergy are in nats. `start` counts the starts of the command from 1: seconds of
different starts, or of different workers, are not comparable. Texts of strangers are escaped as in the tables' CSV.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from jopa.benchmark.records import FinishedCell
from jopa.reports.tables import start_of
from jopa.reports.typesetting import csv_name

if TYPE_CHECKING:
    from jopa.benchmark.records import CellRecord, Run

KEY = ("model", "data", "example", "method", "k", "seed")
MEASURED = (
    *("removal", "search_removal", "units", "output_tokens", "removed", "removed_texts"),
    *("log_prob", "log_prob_removed", "joint", "synergy", "search_log_prob_removed", "certificate", "stop"),
    *("evaluations", "ffe", "seconds"),
)


def cells_csv(run: Run) -> str:
    """One row a cell, finished or failed; what a failed cell has not is empty."""
    metrics = list(dict.fromkeys(name for cell in run.done for name in cell.metrics))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    others = {*KEY, *MEASURED, "status", "start", "worker", "date", "error"}
    titles = [csv_name(f"{name} (metric)" if name in others else name) for name in metrics]
    writer.writerow([*KEY, "status", *titles, *MEASURED, "start", "worker", "date", "error"])
    for cell in run.cells:
        writer.writerow([*_key(cell), *_measured(cell, metrics), start_of(run, cell), *_origin(cell)])
    return file.getvalue()


def _key(cell: CellRecord) -> list[object]:
    return [csv_name(value) if isinstance(value, str) else value for value in cell.key]


def _measured(cell: CellRecord, metrics: list[str]) -> list[object]:
    """Status, metrics and what was measured."""
    if not isinstance(cell, FinishedCell):
        return ["failed", *[""] * (len(metrics) + len(MEASURED))]
    values = [getattr(cell, name) for name in MEASURED]
    texts = [
        csv_name(json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value)
        if isinstance(value, str | tuple)
        else value
        for value in values
    ]
    return ["done", *(cell.metrics.get(name) for name in metrics), *texts]


def _origin(cell: CellRecord) -> list[str]:
    error = "" if isinstance(cell, FinishedCell) else cell.error
    return [csv_name(cell.worker), csv_name(cell.date), csv_name(error)]
