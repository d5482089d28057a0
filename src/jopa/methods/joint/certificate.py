"""What must be scored before a size may be closed, and why a size was closed.

The certificate of a result comes from `Problem.certificate`; this file only completes the evidence for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.methods.joint.neighbours import replacements
from jopa.methods.joint.state import SearchState, Units


def certificate_candidates(
    state: SearchState, k: int, order: Sequence[int], config: SearchConfiguration = STANDARD
) -> list[Units]:
    """What is left to score before the best set of k units is proved to be one-swap-optimal, the likeliest first.

    Besides its one-swap neighbours these are sets that replace its two weakest units by two strong others: effects have
    heavier tails than a Gaussian process, which would not try two units that can each do what the other does.

    Args:
        state: what was scored.
        k: the size.
        order: all units, the strongest first.
        config: how many of the strongest others are tried in pairs.
    """
    best = state.best(k)
    sets = [frozenset(order[:k])] if best is None else replacements(best, order, config.paired_units)
    return [units for units in sets if units not in state.changes]


def closing_reason(state: SearchState, k: int) -> str:
    """Why nothing more is scored for sets of k units, in a few words."""
    n_sets = math.comb(state.n_units, k)
    if n_sets == 1:
        return "no other set to score"
    if state.all_scored(k):
        return f"all {n_sets:,} sets of {k} scored"
    return "no single swap is better, and little improvement is expected of sets like the best"
