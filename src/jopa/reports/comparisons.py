"""Tables of what the comparisons of a run can show, and of which metrics separate the methods.

    corrected      Holm-corrected p-values of each method against the baseline
    visible        the smallest difference that each comparison could have seen
    reliability    how reliably each metric puts the methods in an order

A table that the records cannot fill is None. Sees records; runs no model and writes no file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from jopa.benchmark.records import Run
from jopa.evaluation.metrics import METRICS
from jopa.reports.estimates import Group
from jopa.reports.inference import (
    EXACT,
    FLIPS,
    LEVEL,
    SEPARATES,
    Reliability,
    holm,
    reliability,
    sign_flip_p,
    visible_difference,
)
from jopa.reports.notes import few_prompts_note, partial_note
from jopa.reports.tables import ks, metric_groups
from jopa.reports.typesetting import LESS, MORE, Column, Number, Row, Table


def comparison_tables(run: Run) -> tuple[Table, ...]:
    """Every table of this file that the records can fill, those of one k together."""
    made = [make(run, k) for k in ks(run) for make in (corrected, visible, reliability_table)]
    return tuple(table for table in made if table is not None)


def corrected(run: Run, k: int) -> Table | None:
    """The p-value of each method's difference from the baseline, corrected within each metric."""
    compared, names = _compared(run, k)
    places: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
    for row, (group, _, series) in enumerate(compared):
        for i, values in enumerate(series):
            if len(values) > 1:
                places[group.model, i].append((row, sign_flip_p(values)))
    found: dict[tuple[int, int], float] = {}
    for (_, i), family in places.items():
        for (row, _), p in zip(family, holm([p for _, p in family]), strict=True):
            found[row, i] = p
    if not found:
        return None
    baseline = run.experiment.baseline
    rows = []
    for row, (group, method, series) in enumerate(compared):
        numbers = []
        for i, (name, values) in enumerate(zip(names, series, strict=True)):
            p = found.get((row, i))
            better = (sum(values) < 0) == (METRICS[name].better == "lower")
            mark = "" if p is None or p >= LEVEL else MORE if better else LESS
            numbers.append(None if p is None else Number(p, None, len(values), mark=mark))
        rows.append(
            Row(group.model, group.data, method, max(map(len, series)), tuple(numbers), method not in group.full)
        )
    note = (
        f"Two-sided p-values of the paired difference from {baseline}: sign-flip permutation test over prompts (all "
        f"patterns up to {EXACT} prompts, {FLIPS:,} seeded ones beyond). Corrected by Holm for all methods and data "
        f"sets of a model within one metric. Below {LEVEL}: {LESS} less faithful than {baseline}, {MORE} more faithful."
        f"{few_prompts_note(number.n for row in rows for number in row.numbers if number)}"
    )
    title = f"Corrected p-values of the differences from {baseline}, k = {k}"
    columns = tuple(replace(column, above_zero=True) for column in _columns(names))
    return Table(f"p-values-k{k}", title, columns, tuple(rows), "none", (note, *partial_note(rows)), k=k)


def visible(run: Run, k: int) -> Table | None:
    """The smallest difference from the baseline that each comparison could have seen."""
    compared, names = _compared(run, k)
    rows, any_number = [], False
    for group, method, series in compared:
        sizes = [visible_difference(values) for values in series]
        any_number |= any(size is not None for size in sizes)
        pairs = zip(sizes, series, strict=True)
        numbers = tuple(None if size is None else Number(size, None, len(values)) for size, values in pairs)
        rows.append(Row(group.model, group.data, method, max(map(len, series)), numbers, method not in group.full))
    if not any_number:
        return None
    baseline = run.experiment.baseline
    note = (
        f"The mean difference from {baseline}, in either direction, that a paired two-sided t-test at 5 % would have "
        "found with 80 % power, given the spread of the differences over these prompts. A difference that is "
        "smaller may exist and be missed. For one comparison: the correction for many makes it larger."
    )
    title = f"Smallest visible difference from {baseline}, k = {k}"
    return Table(f"visible-k{k}", title, _columns(names), tuple(rows), "none", (note, *partial_note(rows)), k=k)


def reliability_table(run: Run, k: int) -> Table | None:
    """How reliably each metric puts the methods in an order, chance left out."""
    names, found = metric_groups(run, k)
    rows, weak = [], []
    shown: list[tuple[str, Callable[[Reliability], float]]] = [
        ("reliability of the means", lambda item: item.of_means),
        ("of a single prompt", lambda item: item.of_one),
        ("prompts needed for 0.8", lambda item: item.prompts_needed),
    ]
    chance = {method.label for method in run.experiment.methods if method.name == "random"}
    for group in found:
        methods = [method for method in group.full if method not in chance]
        items = [_reliability(group, methods, i) for i in range(len(names))]
        n = max((item.n for item in items if item), default=0)
        for label, value in shown if n else []:
            numbers = tuple(
                Number(value(item), None, item.n) if item and math.isfinite(value(item)) else None for item in items
            )
            rows.append(Row(group.model, group.data, label, n, numbers))
        cannot = [
            METRICS[name].title for name, item in zip(names, items, strict=True) if item and item.of_means < SEPARATES
        ]
        if cannot:
            weak.append(
                f"{group.model}, {group.data}: {', '.join(cannot)} cannot separate the methods on these prompts."
            )
    if not rows:
        return None
    notes = [
        "Reliability of the order of the methods (random left out): the share of the variance of the methods' means "
        "that is no chance of which prompts were drawn, 1 − MS(residual) / MS(methods). Of a single prompt: the "
        "intraclass correlation ICC(C,1). Prompts needed: by the Spearman–Brown formula; none where no number of "
        f"prompts would do. Below {SEPARATES} a metric is said not to separate the methods.",
        *weak,
    ]
    title = f"Which metrics separate the methods, k = {k}"
    return Table(f"reliability-k{k}", title, _columns(names), tuple(rows), "none", tuple(notes), k=k)


def _compared(run: Run, k: int) -> tuple[list[tuple[Group, str, list[list[float]]]], list[str]]:
    """Each method but the baseline, with its paired differences by metric, and the metrics' names."""
    baseline = run.experiment.baseline
    names, found = metric_groups(run, k) if baseline is not None else ([], [])
    compared = []
    for group in found:
        if baseline is None or not group.finished.get(baseline):
            continue
        for method in group.methods:
            if method != baseline and group.finished[method]:
                series = [group.paired(method, baseline, i) for i in range(len(names))]
                compared.append((group, method, series))
    return compared, names


def _reliability(group: Group, methods: Sequence[str], measure: int) -> Reliability | None:
    import numpy as np

    prompts = group.common(measure)
    values = [group.series(method, measure, prompts) for method in methods]
    return reliability(np.array(values)) if methods and prompts else None


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name, METRICS[name].title) for name in names)
