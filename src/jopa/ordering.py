"""The one rule by which values are compared, so that rounding decides nothing: of values that tie, the first wins.

Two values tie if they differ by at most `TOLERANCE` times a scale:

    the best of values in nats    the magnitude of the best value, at least 1 nat
    a ranking                     the largest magnitude of all its values; at least 1 nat where they are known as nats

A ranking takes all values that tie with the highest of those left, puts the lower index first among them, and continues
with the rest. (With rounding to a grid, any value could lie near a boundary; here the only boundary is below each
group.)

The tolerance is larger than the differences that processors, numbers of threads and batch sizes cause in float32
log-probabilities, and smaller than a difference that means something. Knows numbers and errors: no scorer, no search.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from jopa.errors import ScoringError

TOLERANCE = 1e-5
"""The largest difference of two values that tie, as a share of their scale."""
NAT = 1.0
"""The least scale of log-probabilities, of their differences and of their expected values."""


def tolerance(*values: float, least_scale: float = NAT) -> float:
    """The difference up to which values of this magnitude tie."""
    return TOLERANCE * max(least_scale, *(abs(value) for value in values if math.isfinite(value)), 0.0)


def is_lower(value: float, before: float) -> bool:
    """Whether a log-probability is lower than another by more than rounding."""
    return value < before - tolerance(value, before)


def first_highest(values: Sequence[float]) -> int:
    """The first index whose value, in nats, ties with the highest."""
    least = max(values)
    least -= tolerance(least)
    return next(i for i, value in enumerate(values) if value >= least)


def first_lowest(values: Sequence[float]) -> int:
    """The first index whose value, in nats, ties with the lowest."""
    return first_highest([-value for value in values])


def ranked(values: Sequence[float], first: int | None = None, *, least_scale: float = 0.0) -> list[int]:
    """Indices from the highest value to the lowest; of values that tie, the lower index first.

    Args:
        values: what to rank by.
        first: how many indices to return; all by default.
        least_scale: the scale of the tolerance, if no value has a larger magnitude.

    Raises:
        ScoringError: a value is NaN, which has no rank.
    """
    if any(value != value for value in values):
        raise ScoringError("a value to rank by is NaN: the model's numbers overflow; try dtype float32")
    margin = tolerance(*values, least_scale=least_scale)
    wanted = len(values) if first is None else min(first, len(values))
    if wanted == 0:
        return []
    least = -math.inf if wanted == len(values) else heapq.nlargest(wanted, values)[-1] - margin
    order = sorted((i for i, value in enumerate(values) if value >= least), key=lambda i: -values[i])
    found: list[int] = []
    while len(found) < wanted:
        begin = end = len(found)
        while end < len(order) and values[order[end]] >= values[order[begin]] - margin:
            end += 1
        found += sorted(order[begin:end])
    return found[:wanted]


class LowestSet:
    """The set with the lowest log-probability of those added; of sets that tie, the lexicographically first.

    Attributes:
        units: the set; None before any was added.
        log_prob: its log-probability, in nats.
    """

    def __init__(self) -> None:
        self.units: frozenset[int] | None = None
        self.log_prob = math.inf
        self._lowest = math.inf
        self._tied: dict[frozenset[int], float] = {}
        """Sets that tie with the lowest."""

    def add(self, units: frozenset[int], log_prob: float) -> bool:
        """Add a scored set. Returns whether the chosen set is another one than before."""
        before = self.units
        if log_prob < self._lowest:
            self._lowest = log_prob
            most = log_prob + tolerance(log_prob)
            self._tied = {other: value for other, value in self._tied.items() if value <= most}
            if self.units not in self._tied:
                self.units = min(self._tied, key=sorted, default=None)
        if log_prob <= self._lowest + tolerance(self._lowest):
            self._tied[units] = log_prob
            if self.units is None or sorted(units) < sorted(self.units):
                self.units = units
        if self.units is not None:
            self.log_prob = self._tied[self.units]
        return self.units != before
