"""The content of the paper's tables, from the records of a run.

    faithfulness    every metric, methods × data sets, for one k                (Tables 1, 6 and 8)
    differences     each method minus the baseline, with a paired interval      (Table 1)
    cost            FFE, evaluations and seconds of the searches                (Table 2)
    iterations      log p without the current set after some proposals          (Table 5)
    seeds           spread of each method's mean over the seeds                 (Table 7)

A table that the records cannot fill is None. Sees records; runs no model and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from jopa.benchmark.records import CellRecord, FinishedCell, Run
from jopa.evaluation.metrics import METRICS
from jopa.reports.estimates import RESAMPLES, Group, Measure, bootstrap_intervals, groups, trace_value
from jopa.reports.inference import MIN_PROMPTS
from jopa.reports.notes import bold, few_prompts_note, left_out, partial_note
from jopa.reports.typesetting import APART, LESS, MORE, Column, Number, Row, Spread, Table

ITERATIONS = (1, 5, 10, 15, 20, 30, 40, 50)
"""The columns of the paper's Table 5."""
COSTS = {"ffe": "FFE", "evaluations": "evaluations", "seconds": "seconds"}
"""FFE first: it is the same on every machine and under every load."""


def all_tables(run: Run) -> tuple[Table, ...]:
    """Every table that the records can fill, those of one k together."""
    per_k = [make(run, k) for k in ks(run) for make in (faithfulness, differences, iterations, seeds)]
    return tuple(table for table in [*per_k, cost(run)] if table is not None)


def ks(run: Run) -> tuple[int, ...]:
    """Every k that has a finished cell."""
    return tuple(sorted({cell.key.k for cell in run.done}))


def labels(run: Run) -> tuple[str, ...]:
    """The methods as tables call them: the experiment's in its order, then any that only cells name."""
    known = [method.label for method in run.experiment.methods]
    return tuple(dict.fromkeys([*known, *(cell.key.method for cell in run.cells)]))


def grouped(
    run: Run,
    cells: Sequence[CellRecord],
    measures: Sequence[Measure],
    *,
    method_of: Callable[[CellRecord], str] = lambda cell: cell.key.method,
    order: Sequence[str] | None = None,
    prompts: Iterable[tuple[str, str, str]] | None = None,
) -> list[Group]:
    """Cells in groups, in the experiment's order of models, data sets and (unless told otherwise) methods.

    The prompts of a group are those of the run, or those given, and those that its cells name.
    """
    models, sets = ([entry.name for entry in part] for part in (run.experiment.models, run.experiment.data))
    rows = labels(run) if order is None else order
    all_prompts = run.examples if prompts is None else prompts
    found = groups(cells, measures, prompts=all_prompts, method_of=method_of, order=rows)
    return sorted(found, key=lambda group: (_place(group.model, models), _place(group.data, sets)))


def metric_groups(run: Run, k: int) -> tuple[list[str], list[Group]]:
    """The names of the metrics that the cells of one k have, and the cells' groups with these as measures."""
    cells = [cell for cell in run.cells if cell.key.k == k]
    done = [cell for cell in cells if isinstance(cell, FinishedCell)]
    names = [name for name in METRICS if any(cell.metrics.get(name) is not None for cell in done)]
    return names, grouped(run, cells, [_metric(name) for name in names]) if done else []


def faithfulness(run: Run, k: int) -> Table | None:
    """Mean and standard error of every metric over prompts, the best in bold (Tables 1, 6 and 8)."""
    names, found = metric_groups(run, k)
    if not names or not found:
        return None
    columns = _metric_columns(names)
    return _table(
        f"faithfulness-k{k}",
        f"Faithfulness with k = {k} {_units(run, k)} removed (as Table 1 of the paper)",
        columns,
        [row for group in found for row in _mean_rows(group, columns)],
        "standard_error",
        [f"Mean ± standard error over prompts; removal '{run.experiment.removal}'. {bold(found)}", *left_out(found)],
        k=k,
    )


def differences(run: Run, k: int) -> Table | None:
    """Each method minus the baseline on the prompts that both have, with a paired bootstrap interval (Table 1)."""
    baseline = run.experiment.baseline
    if baseline is None:
        return None
    names, found = metric_groups(run, k)
    columns = _metric_columns(names)
    compared = [
        (group, method)
        for group in found
        for method in group.methods
        if method != baseline and group.finished[method] and group.finished.get(baseline)
    ]
    paired = [[group.paired(method, baseline, i) for i in range(len(names))] for group, method in compared]
    ends = _intervals([values for series in paired for values in series])
    rows = []
    for (group, method), series in zip(compared, paired, strict=True):
        numbers = tuple(
            Number(fmean(values), None, len(values), *limits, mark=_mark(column, *limits)) if values else None
            for values, limits, column in zip(series, ends, columns)  # noqa: B905 - `ends` goes on with the next row
        )
        ends = ends[len(names) :]
        rows.append(Row(group.model, group.data, method, max(map(len, series)), numbers, method not in group.full))
    if not any(row.n for row in rows):
        return None
    note = (
        f"Mean of method − {baseline} over the prompts that both finished [95 % percentile interval, paired bootstrap "
        f"over prompts, {RESAMPLES:,} resamples, seed 0]. {LESS} less faithful than {baseline}, {MORE} more faithful: "
        "the interval leaves out zero. Not corrected for the number of comparisons: the p-values, in a table of their "
        f"own, are.{few_prompts_note(number.n for row in rows for number in row.numbers if number)}"
    )
    title = f"Difference from {baseline}, k = {k} {_units(run, k)} removed"
    return _table(f"differences-k{k}", title, columns, rows, "interval", [note, *partial_note(rows)], k=k)


def cost(run: Run) -> Table | None:
    """FFE, evaluations and seconds of each search (Table 2); a search that answered several k counts once.

    Where searches answered different sets of k, each set has rows of its own, and only these are compared: their means
    are over the prompts that they have in common.
    """
    names = labels(run)
    once = {(cell.key._replace(k=0), cell.ks): cell for cell in run.done}
    cells = sorted(once.values(), key=lambda cell: (_place(cell.key.method, names), cell.ks))
    if not cells:
        return None
    answered = {cell.ks for cell in cells}

    def row(cell: CellRecord) -> str:
        assert isinstance(cell, FinishedCell)
        told = f", k = {', '.join(map(str, cell.ks))}" if len(answered) > 1 else ""
        return f"{cell.key.method}{told}"

    order = list(dict.fromkeys(map(row, cells)))
    apart = seconds_apart(run, cells)
    titles = COSTS | ({"seconds": f"{COSTS['seconds']} {APART}"} if apart else {})
    columns = [Column(name, title) for name, title in titles.items()]
    measures: list[Measure] = [lambda cell: cell.ffe, lambda cell: cell.evaluations, lambda cell: cell.seconds]
    found = [
        group
        for own in sorted(answered)
        for group in grouped(
            run,
            [cell for cell in cells if cell.ks == own],
            measures,
            method_of=row,
            order=order,
            prompts=None if len(answered) == 1 else (),
        )
    ]
    notes = [
        "Mean ± standard error over prompts, of the search alone (no generation, no metrics). Evaluations: prompts "
        "with units removed that the model scored. FFE: model work in full-forward equivalents, one forward over "
        "prompt and output."
    ]
    if any(len(together) > 1 for together in answered):
        notes[0] += " Where one search answered several k, this is its whole cost."
    if len(answered) > 1:
        notes[0] += " Rows of the same k are compared: their means are over the prompts that they have in common."
    if apart:
        notes.append(f"{APART} not comparable with one another: {apart}. FFE and evaluations are.")
    models, sets = ([entry.name for entry in part] for part in (run.experiment.models, run.experiment.data))
    rows = sorted(
        (row for group in found for row in _mean_rows(group, columns)),
        key=lambda row: (
            _place(row.model, models),
            row.model,
            _place(row.data, sets),
            row.data,
            order.index(row.method),
        ),
    )
    title = "Cost of the searches (as Table 2 of the paper)"
    return _table("cost", title, columns, rows, "standard_error", [*notes, *left_out(found)])


def start_of(run: Run, cell: CellRecord) -> int:
    """The number of the start of the command, from 1, that finished a cell, by their dates."""
    return max(1, sum(session.date <= cell.date for session in run.sessions))


def seconds_apart(run: Run, cells: Sequence[CellRecord]) -> str:
    """Why the seconds of these cells cannot be compared with one another; empty where they can be compared."""
    starts = {start_of(run, cell) for cell in cells}
    workers = {cell.worker for cell in cells}
    loads = [session.machine.get("load") for session in run.sessions]
    busy = [load for load in loads if isinstance(load, int | float) and load >= _BUSY]
    reasons = [
        f"they come from {len(starts)} starts of the command" if len(starts) > 1 else "",
        f"they come from {len(workers)} processes" if len(workers) > 1 and len(workers) > len(starts) else "",
        f"other work kept up to {max(busy):g} cores busy when the run started" if busy else "",
    ]
    return "; ".join(filter(None, reasons))


def traced(run: Run, k: int) -> list[CellRecord]:
    """The cells of one k, done and failed, of methods whose records hold a search of at least one step."""
    cells = [cell for cell in run.cells if cell.key.k == k]
    searching = {cell.key.method for cell in cells if isinstance(cell, FinishedCell) and _steps(cell) >= 1}
    return [cell for cell in cells if cell.key.method in searching]


def iterations(run: Run, k: int) -> Table | None:
    """Mean log p without the current set after some numbers of proposals, in nats (Table 5)."""
    cells = traced(run, k)
    last = max((_steps(cell) for cell in cells if isinstance(cell, FinishedCell)), default=0)
    columns = [Column(f"iteration_{i}", str(i), "lower") for i in ITERATIONS if i <= last]
    if len(columns) < 2:
        return None
    measures: list[Measure] = [lambda cell, i=i: trace_value(cell.trace, i) for i in ITERATIONS if i <= last]
    found = grouped(run, cells, measures)
    notes = [
        f"log p(output) in nats with the set removed that the search held after some steps, under the search's own "
        f"removal ({search_removals(run, cells)}). Mean ± standard error over prompts; lower is better. A search that "
        f"had ended keeps its last value. {bold(found)}",
        *left_out(found),
    ]
    title = f"log p after each number of iterations, k = {k} (as Table 5 of the paper)"
    rows = [row for group in found for row in _mean_rows(group, columns)]
    return _table(f"iterations-k{k}", title, columns, rows, "standard_error", notes, k=k)


def seeds(run: Run, k: int) -> Table | None:
    """Mean and standard deviation over seeds of each seed's mean over prompts (Table 7)."""
    names, found = metric_groups(run, k)
    columns = _metric_columns(names)
    rows = []
    for group in found:
        for method in group.methods:
            numbers = [group.over_seeds(method, i) for i in range(len(columns))]
            if any(numbers):
                n = max(number.n for number in numbers if number)
                entries = tuple(Number(*number) if number else None for number in numbers)
                rows.append(Row(group.model, group.data, method, n, entries))
    if not rows:
        return None
    note = (
        "Mean ± standard deviation, over seeds, of the mean over the prompts that the method finished with every seed."
    )
    title = f"Variation over seeds, k = {k} (as Table 7 of the paper)"
    return _table(f"seeds-k{k}", title, columns, rows, "standard_deviation", [note], counted="seeds", k=k)


def search_removals(run: Run, cells: Sequence[CellRecord]) -> str:
    """How the searches removed units: one word, or one for each method where they differ."""
    used = {c.key.method: c.search_removal for c in cells if isinstance(c, FinishedCell)}
    if len(set(used.values())) == 1:
        return f"'{next(iter(used.values()))}'"
    return ", ".join(f"{label} '{used[label]}'" for label in labels(run) if label in used)


_BUSY = 0.5
"""From this load of the machine on, in cores, seconds are marked."""


def _metric(name: str) -> Measure:
    return lambda cell: cell.metrics.get(name)


def _metric_columns(names: Sequence[str]) -> list[Column]:
    return [Column(name, METRICS[name].title, METRICS[name].better) for name in names]


def _steps(cell: FinishedCell) -> int:
    """The number of steps of a finished cell's search."""
    return cell.trace[-1][0] if cell.trace else 0


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def _units(run: Run, k: int) -> str:
    unit = run.experiment.unit
    return unit if k == 1 else f"{unit}s"


def _mean_rows(group: Group, columns: Sequence[Column]) -> list[Row]:
    """A row for each method: mean and standard error of every column over the common prompts."""
    rows, best = [], _clearly_best(group, columns)
    for method in group.methods:
        found = [group.estimate(method, i) for i in range(len(columns))]
        n = max((number.n for number in found if number), default=0)
        numbers = tuple(
            Number(*number, best=method == winner) if number else None
            for number, winner in zip(found, best, strict=True)
        )
        rows.append(Row(group.model, group.data, method, n, numbers, n > 0 and method not in group.full))
    return rows


def _table(
    stem: str, title: str, columns: list[Column], rows: list[Row], spread: Spread, notes: list[str], **more: Any
) -> Table:
    """The table, with as many decimals in each column as its values need."""
    shown = []
    for i, column in enumerate(columns):
        largest = max((abs(number.mean) for row in rows if (number := row.numbers[i])), default=0.0)
        shown.append(replace(column, digits=3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0))
    return Table(stem, title, tuple(shown), tuple(rows), spread, tuple(notes), **more)


def _clearly_best(group: Group, columns: Sequence[Column]) -> list[str | None]:
    """For each column the method that is significantly better than every other one, or None.

    Compared are the full methods, on their common prompts; the interval of each paired difference leaves out zero.
    """
    leaders: list[str | None] = []
    differences: list[list[float]] = []
    for i, column in enumerate(columns):
        values = {method: group.series(method, i, group.common(i)) for method in group.full}
        if not column.better or len(values) < 2 or not group.common(i):
            leaders.append(None)
            continue
        choose = min if column.better == "lower" else max
        leader = choose(values, key=lambda method: fmean(values[method]))
        leaders.append(leader)
        for method in values:
            if method != leader:
                differences.append([own - other for own, other in zip(values[leader], values[method], strict=True)])
    limits = iter(_intervals(differences))
    best: list[str | None] = []
    for leader, column in zip(leaders, columns, strict=True):
        marks = [_mark(column, *next(limits)) for _ in group.full[1:]] if leader else [""]
        best.append(leader if all(mark == MORE for mark in marks) else None)
    return best


def _intervals(series: Sequence[Sequence[float]]) -> list[tuple[float | None, float | None]]:
    """The bootstrap interval of each series; none for fewer than `MIN_PROMPTS` values. Series of one length share
    resamples."""
    import numpy as np

    found: list[tuple[float | None, float | None]] = [(None, None)] * len(series)
    for length in {len(values) for values in series if len(values) >= MIN_PROMPTS}:
        places = [i for i, values in enumerate(series) if len(values) == length]
        limits = bootstrap_intervals(np.array([series[i] for i in places]).T)
        for i, (low, high) in zip(places, limits.tolist(), strict=True):
            found[i] = (low, high)
    return found


def _mark(column: Column, low: float | None, high: float | None) -> str:
    """What an interval of method − baseline says about the method."""
    if low is None or high is None or low <= 0 <= high:
        return ""
    return MORE if (high < 0) == (column.better == "lower") else LESS
