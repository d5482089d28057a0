"""A scorer read from a function of the removed set: planted problems without a model."""

from collections.abc import Callable
from itertools import combinations

import torch

import jopa


class TableScorer:
    """log p(y) as a function of the removed units; counts what it is asked."""

    def __init__(self, n_units: int, log_prob: Callable[[frozenset[int]], float]) -> None:
        self.n_units = n_units
        self.log_prob = log_prob
        self.asked: list[frozenset[int]] = []

    @property
    def ffe(self) -> float:
        return float(len(self.asked))

    def log_probs(self, keep: torch.Tensor) -> torch.Tensor:
        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += removed
        return torch.tensor([[self.log_prob(units)] for units in removed])


class TableScorerWithGradient(TableScorer):
    """The same with a gradient: what each unit's removal does alone, to first order."""

    def mask_gradient(self, keep: torch.Tensor) -> torch.Tensor:
        removed = frozenset((~keep).nonzero()[:, 0].tolist())
        here = self.log_prob(removed)
        return torch.tensor([here - self.log_prob(removed ^ {i}) for i in range(self.n_units)])


def redundant_pair(removed: frozenset[int]) -> float:
    """The doctor and his patient (units 2 and 5): either alone nearly says it all, so only both together matter.

    Alone, units 0 and 1 have the larger effect, so any method that ranks units one by one chooses them.
    """
    alone = {0: 0.3, 1: 0.2, 2: 0.05, 5: 0.05}
    return -1.0 - sum(alone.get(unit, 0.0) for unit in removed) - 5.0 * ({2, 5} <= removed)


def best_sets(scorer: TableScorer, k: int) -> set[frozenset[int]]:
    """All sets of k units with the lowest log-probability, by looking at every one."""
    values = {frozenset(s): scorer.log_prob(frozenset(s)) for s in combinations(range(scorer.n_units), k)}
    return {units for units, value in values.items() if value == min(values.values())}


def problem(n_units: int, log_prob: Callable[[frozenset[int]], float]) -> jopa.Problem:
    return jopa.Problem(TableScorerWithGradient(n_units, log_prob))
