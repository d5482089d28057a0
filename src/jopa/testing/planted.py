"""Problems whose best sets are known, on which every method is tried."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from jopa.testing.table_scorers import LogProb, TableScorer


@dataclass(frozen=True)
class PlantedProblem:
    """A problem that was made up.

    Attributes:
        n_units: number of units.
        log_prob: log p(y) in nats, as a function of the removed units.
    """

    n_units: int
    log_prob: LogProb


def dominant(removed: frozenset[int]) -> float:
    """Unit 3 is nearly all that matters."""
    return -1.0 - 4.0 * (3 in removed) - 0.02 * len(removed)


def redundant_pair(removed: frozenset[int]) -> float:
    """The doctor and his patient (units 2 and 5): either alone nearly says it all, so only both together matter.

    Alone, units 0 and 1 have the larger effect, so any method that ranks units one by one chooses them.
    """
    alone = {0: 0.3, 1: 0.2, 2: 0.05, 5: 0.05}
    return -1.0 - sum(alone.get(unit, 0.0) for unit in removed) - 5.0 * (removed >= {2, 5})


def negative(removed: frozenset[int]) -> float:
    """Without unit 1 the output becomes likelier; unit 4 is the one that matters."""
    return -2.0 + 1.5 * (1 in removed) - 1.0 * (4 in removed) - 0.1 * len(removed)


def equal(removed: frozenset[int]) -> float:
    """Every unit matters as much as any other."""
    return -1.0 - 0.5 * len(removed)


PLANTED: dict[str, PlantedProblem] = {
    "dominant": PlantedProblem(6, dominant),
    "pair": PlantedProblem(7, redundant_pair),
    "negative": PlantedProblem(6, negative),
    "equal": PlantedProblem(5, equal),
}
"""Planted problems by name."""


def best_sets(scorer: TableScorer, k: int) -> set[frozenset[int]]:
    """All sets of k units with the lowest log-probability, by scoring every set."""
    values = {frozenset(s): scorer.log_prob(frozenset(s)) for s in combinations(range(scorer.n_units), k)}
    return {units for units, value in values.items() if value == min(values.values())}
