"""The paper's figures from the records of a run.

    pr-by-k        probability ratio against k                               (Figure 5)
    convergence    log p without the current set against steps, evaluations and FFE  (Figure 6)
    comparison     every metric of every method                              (Figures 7, 8 and 9)

Computes numbers from records; `drawing` draws them. Runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from jopa.benchmark.records import FinishedCell, Run
from jopa.reports.drawing import Bars, Curve, Panel, draw_bars, draw_lines, style
from jopa.reports.estimates import Estimate, Group, estimate, trace_value
from jopa.reports.tables import faithfulness, grouped, ks, labels, metric_groups, search_removals, traced
from jopa.reports.typesetting import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN_K = 3  # the paper's
AXES = {0: "search steps", 2: "evaluations", 3: "model work (FFE)"}
"""Columns of a trace, and what they count."""

_POINTS = 60


@dataclass(frozen=True)
class Picture:
    """A figure to be written: its file name without the ending, its title, a caption and the drawing."""

    stem: str
    title: str
    caption: str
    drawing: Figure


def all_figures(run: Run) -> tuple[Picture, ...]:
    """Every figure that the records can fill.

    Raises:
        SettingError: matplotlib is not installed.
    """
    with style():
        return _with_own_stems((*comparisons(run), *pr_by_k(run), *convergence(run)))


def main_k(run: Run) -> int | None:
    """The k that a comparison shows: the paper's 3 if it was run, else the largest."""
    found = ks(run)
    return MAIN_K if MAIN_K in found else max(found, default=None)


def comparisons(run: Run) -> Iterator[Picture]:
    """Bars of every metric for each model and data set, at one k (Figures 7, 8 and 9)."""
    k = main_k(run)
    table = faithfulness(run, k) if k is not None else None
    if table is None:
        return
    baseline = run.experiment.baseline
    for model, data in dict.fromkeys((row.model, row.data) for row in table.rows):
        methods, bars = comparison_bars(table, model, data)
        yield Picture(
            f"comparison-{_stem(model, data)}-k{k}",
            f"{model}, {data}: every metric, k = {k}",
            "Mean over the prompts that all compared methods finished; whiskers: one standard error. ↓ lower, ↑ higher "
            f"is more faithful.{f' Filled: {baseline}.' if baseline else ''} As Figures 7 to 9 of the paper.",
            draw_bars(methods, bars, baseline),
        )


def comparison_bars(table: Table, model: str, data: str) -> tuple[list[str], list[Bars]]:
    """The methods of a model and data set, and a panel of bars for each column of a table."""
    rows = [row for row in table.rows if (row.model, row.data) == (model, data)]
    numbers = [
        tuple(Estimate(n.mean, n.spread, n.n) if (n := row.numbers[i]) else None for row in rows)
        for i in range(len(table.columns))
    ]
    return [row.method for row in rows], [
        Bars(column.heading, values) for column, values in zip(table.columns, numbers, strict=True)
    ]


def pr_by_k(run: Run) -> Iterator[Picture]:
    """PR against k, a panel for each data set, over the prompts that all methods finished at every k (Figure 5)."""
    if len(ks(run)) < 2:
        return
    panels: dict[str, list[Panel]] = {}
    by_k = {k: metric_groups(run, k) for k in ks(run)}
    for model, data in dict.fromkeys((g.model, g.data) for _, found in by_k.values() for g in found):
        points: dict[str, dict[int, Estimate]] = {}
        here = {k: (names, _find(found, model, data)) for k, (names, found) in by_k.items()}
        shared = _shared_prompts([group for _, group in here.values() if group])
        for k, (names, group) in here.items():
            for method in group.full if group and "pr" in names else ():
                assert group is not None
                if value := estimate(group.series(method, names.index("pr"), shared)):
                    points.setdefault(method, {})[k] = value
        curves = tuple(Curve(m, tuple(found), tuple(found.values())) for m, found in points.items())
        if any(len(curve.x) > 1 for curve in curves):
            title = f"{data} ({_prompts(len(shared))})"
            panels.setdefault(model, []).append(Panel(title, "k, units removed", "PR ↓", curves, at=ks(run)))
    for model, found in panels.items():
        yield Picture(
            f"pr-by-k-{_stem(model)}",
            f"{model}: probability ratio against k",
            "Mean PR over the prompts that all compared methods finished at every k, with a band of one standard "
            "error; lower is more faithful, 1 = nothing changed. As Figure 5 of the paper.",
            draw_lines(found, labels(run), run.experiment.baseline, columns=min(3, len(found))),
        )


def convergence(run: Run) -> Iterator[Picture]:
    """log p without the current set of each search, against steps, evaluations and FFE (Figure 6)."""
    k = main_k(run)
    cells = traced(run, k) if k is not None else []
    traces: dict[tuple, dict[int, Sequence[Sequence[float]]]] = {}
    for cell in cells:
        if isinstance(cell, FinishedCell):
            key = cell.key
            by_seed = traces.setdefault((key.model, key.data, key.method, key.example), {})
            by_seed[key.seed] = cell.trace
    panels: dict[str, list[Panel]] = {}
    for group in grouped(run, cells, []) if cells else []:
        shared = _shared_prompts([group])
        if not shared:
            continue
        for column, axis in AXES.items():
            curves = [
                _curve(m, [list(traces[group.model, group.data, m, p].values()) for p in shared], column)
                for m in group.full
            ]
            title = f"{group.data} ({_prompts(len(shared))})"
            panels.setdefault(group.model, []).append(Panel(title, axis, "log p(output), nats ↓", tuple(curves)))
    for model, found in panels.items():
        yield Picture(
            f"convergence-{_stem(model)}-k{k}",
            f"{model}: convergence of the searches, k = {k}",
            f"Mean log p of the output with the set removed that the search held (removal of the search: "
            f"{search_removals(run, cells)}), with a band of one standard error over prompts. A line begins where "
            "every prompt's search has a first set, and a search that had ended keeps its last value. As Figure 6 of "
            "the paper.",
            draw_lines(found, labels(run), run.experiment.baseline, columns=len(AXES)),
        )


def _curve(method: str, prompts: Sequence[Sequence[Sequence[Sequence[float]]]], column: int) -> Curve:
    """A method's mean over prompts (and, for each, over seeds) of its searches' current log p, along one axis."""
    every = [trace for traces in prompts for trace in traces]
    first, last = max(trace[0][column] for trace in every), max(trace[-1][column] for trace in every)
    places = sorted({first + (last - first) * i / (_POINTS - 1) for i in range(_POINTS)})
    means = []
    for at in places:
        held = [[trace_value(trace, at, column) for trace in traces] for traces in prompts]
        means.append(estimate([math.fsum(v for v in values if v is not None) / len(values) for values in held]))
    return Curve(method, tuple(places), tuple(value for value in means if value is not None))


def _shared_prompts(found: Sequence[Group]) -> list[str]:
    """The prompts that every compared method of every group finished."""
    return [
        prompt
        for prompt in (found[0].prompts if found else ())
        if all(prompt in group.finished[method] for group in found for method in group.full)
    ]


def _find(found: Sequence[Group], model: str, data: str) -> Group | None:
    return next((group for group in found if (group.model, group.data) == (model, data)), None)


def _prompts(n: int) -> str:
    return f"{n} prompt{'s' if n != 1 else ''}"


def _with_own_stems(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """The pictures, with a number behind a stem that another one has: different names can give the same, and a file
    system may not tell large letters from small ones."""
    taken: set[str] = set()
    found = []
    for picture in pictures:
        stems = (picture.stem + (f"-{number}" if number > 1 else "") for number in count(1))
        stem = next(stem for stem in stems if stem.casefold() not in taken)
        taken.add(stem.casefold())
        found.append(replace(picture, stem=stem))
    return tuple(found)


def _stem(*names: str) -> str:
    """A part of a file name from names that may hold anything."""
    return "-".join("".join(char if char.isalnum() or char in "._-" else "_" for char in name)[:60] for name in names)
