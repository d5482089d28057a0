"""From the cells of a benchmark run to numbers: means over prompts, their errors, and paired differences.

    value of a prompt    the mean over the seeds that the method ran with
    mean                 over the prompts that every method of the group finished, so that all rows have the same
    standard error       standard deviation over those prompts (n − 1) / √n; none for a single prompt
    paired interval      percentile bootstrap of the mean difference over prompts (Efron & Tibshirani 1993, chapter 13)

A method that finished less than half as many prompts as the method that finished most does not restrict these prompts:
it is "partial", its mean is over the others' prompts that it has, and it is never called best.

Knows records, nothing of tables and models.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from jopa.benchmark.records import CellRecord, FinishedCell

if TYPE_CHECKING:
    import numpy
    from jaxtyping import Float

Measure = Callable[[FinishedCell], float | None]
"""A number of a finished cell; None where the cell has none."""

RESAMPLES = 10_000
_AT_ONCE = 4_000_000  # entries of resampled counts in memory together
_PARTIAL = 0.5


class Estimate(NamedTuple):
    """A mean over prompts; `spread` is None where there is a single value."""

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """All cells of one model and one data set that are compared with one another.

    Attributes:
        model: its name in the experiment.
        data: likewise.
        methods: the rows, in order.
        prompts: names of all prompts of the model and data set, in order.
        values: by method, prompt and seed, one number a measure; finished cells only.
        failed: by method, the prompts with a failed cell.
        n_measures: how many numbers a value has.
    """

    model: str
    data: str
    methods: tuple[str, ...]
    prompts: tuple[str, ...]
    values: dict[str, dict[str, dict[int, tuple[float | None, ...]]]]
    failed: dict[str, set[str]]
    n_measures: int

    @cached_property
    def finished(self) -> dict[str, tuple[str, ...]]:
        """By method, the prompts finished under every seed that the method was run with."""
        seeds = {
            method: {seed for by_seed in prompts.values() for seed in by_seed}
            for method, prompts in self.values.items()
        }
        return {
            method: tuple(
                prompt
                for prompt in self.prompts
                if prompt not in self.failed[method] and self.values[method].get(prompt, {}).keys() == seeds[method]
            )
            if seeds[method]
            else ()
            for method in self.methods
        }

    @cached_property
    def full(self) -> tuple[str, ...]:
        """The methods that finished enough prompts to be compared."""
        most = max(len(prompts) for prompts in self.finished.values())
        return tuple(m for m, prompts in self.finished.items() if prompts and len(prompts) >= _PARTIAL * most)

    @cached_property
    def _averages(self) -> dict[str, dict[str, tuple[float | None, ...]]]:
        """By method and finished prompt, each measure's mean over the seeds."""
        return {
            method: {
                prompt: tuple(_mean(column) for column in zip(*self.values[method][prompt].values(), strict=True))
                for prompt in prompts
            }
            for method, prompts in self.finished.items()
        }

    def has(self, method: str, prompt: str, measure: int) -> bool:
        """Whether the method finished the prompt and gave this number."""
        return self._averages[method].get(prompt, {measure: None})[measure] is not None

    @cached_property
    def _common(self) -> dict[int, tuple[str, ...]]:
        return {}

    def common(self, measure: int) -> tuple[str, ...]:
        """The prompts for which every full method has this number."""
        if measure not in self._common:
            shared = (p for p in self.prompts if self.full and all(self.has(m, p, measure) for m in self.full))
            self._common[measure] = tuple(shared)
        return self._common[measure]

    def series(self, method: str, measure: int, prompts: Iterable[str]) -> list[float]:
        """The method's value of each of the prompts; prompts without one are left out."""
        found = (self._averages[method].get(prompt) for prompt in prompts)
        return [value for row in found if row is not None and (value := row[measure]) is not None]

    def estimate(self, method: str, measure: int) -> Estimate | None:
        """Mean and standard error over the common prompts; None without any."""
        return estimate(self.series(method, measure, self.common(measure)))

    def over_seeds(self, method: str, measure: int) -> Estimate | None:
        """Mean and standard deviation, over seeds, of each seed's mean over prompts; `n` counts seeds (Table 7).

        None where the method was not run with two seeds.
        """
        chosen = [p for p in self.finished[method] if self.has(method, p, measure)]
        seeds = sorted({seed for prompt in chosen for seed in self.values[method][prompt]})
        if len(seeds) < 2:
            return None
        means = [_mean([self.values[method][prompt][seed][measure] for prompt in chosen]) for seed in seeds]
        found = estimate([mean for mean in means if mean is not None])
        if found is None or found.spread is None:
            return None
        return found._replace(spread=found.spread * math.sqrt(found.n))

    def paired(self, method: str, baseline: str, measure: int) -> list[float]:
        """Method minus baseline on each prompt that both have."""
        both = [p for p in self.prompts if self.has(method, p, measure) and self.has(baseline, p, measure)]
        pairs = zip(self.series(method, measure, both), self.series(baseline, measure, both), strict=True)
        return [own - other for own, other in pairs]


def groups(
    cells: Iterable[CellRecord],
    measures: Sequence[Measure],
    *,
    prompts: Iterable[tuple[str, str, str]] = (),
    method_of: Callable[[CellRecord], str] = lambda cell: cell.key.method,
    order: Sequence[str] = (),
) -> list[Group]:
    """Sort cells into groups by model and data set, in the order of their first cells.

    Args:
        cells: done and failed ones; every (example, method, seed) once.
        measures: what to take from a finished cell.
        prompts: (model, data, example) of every prompt of the run, for those that no cell names yet.
        method_of: the row that a cell belongs to.
        order: rows in this order; rows that are not in it come last.
    """
    found: dict[tuple[str, str], tuple[dict, dict, dict]] = {}
    cells = list(cells)
    rows = list(dict.fromkeys(map(method_of, cells)))
    rows.sort(key=lambda row: order.index(row) if row in order else len(order))
    for cell in cells:
        key, row = cell.key, method_of(cell)
        examples, values, failed = found.setdefault((key.model, key.data), ({}, {}, {}))
        examples[key.example] = None
        values.setdefault(row, {})
        failed.setdefault(row, set())
        if isinstance(cell, FinishedCell):
            values[row].setdefault(key.example, {})[key.seed] = tuple(measure(cell) for measure in measures)
        else:
            failed[row].add(key.example)
    for model, data, example in prompts:
        if (model, data) in found:
            found[model, data][0][example] = None
    return [
        Group(model, data, tuple(row for row in rows if row in values), tuple(examples), values, failed, len(measures))
        for (model, data), (examples, values, failed) in found.items()
    ]


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error of the mean; None of nothing."""
    import numpy as np

    if not values:
        return None
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), spread, len(values))


def resampled_counts(n: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Float[numpy.ndarray, "some n"]]:
    """How often each of n prompts is drawn in each bootstrap resample, in pieces of many resamples."""
    import numpy as np

    random = np.random.default_rng(seed)
    piece = max(1, min(resamples, _AT_ONCE // n))
    for start in range(0, resamples, piece):
        rows = min(piece, resamples - start)
        drawn = random.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def bootstrap_intervals(
    differences: Float[numpy.ndarray, "prompts measures"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[numpy.ndarray, "measures 2"]:
    """95 % percentile interval of each measure's mean difference, prompts drawn with replacement."""
    import numpy as np

    n = len(differences)
    means = [counts @ differences / n for counts in resampled_counts(n, resamples=resamples, seed=seed)]
    return np.percentile(np.concatenate(means), (2.5, 97.5), axis=0).T


def trace_value(trace: Sequence[Sequence[float]], at: float, column: int = 0) -> float | None:
    """log p without the current set of a search at a step (column 0), evaluation (2) or FFE (3), in nats.

    A search that had ended keeps its last value; before its first it has none.
    """
    place = bisect_right(trace, at, key=lambda row: row[column])
    return trace[place - 1][1] if place else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is missing or there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
