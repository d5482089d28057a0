"""The sets that a surrogate proposes to score next.

Knows the state of a search and a surrogate; scores nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import combinations
from typing import TYPE_CHECKING

from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.methods.joint.gaussian_process import SubsetGP
from jopa.methods.joint.neighbours import adjacent_neighbours, from_masks, swap_neighbours, to_masks, unique_rows
from jopa.methods.joint.state import SearchState, Units
from jopa.ordering import NAT, ranked, tolerance

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Proposer:
    """Chooses sets of k units by expected improvement.

    Args:
        state: what was scored.
        repeated: sets of units that are always among those that proposed sets are made of.
        config: how many sets are considered.
    """

    def __init__(
        self, state: SearchState, repeated: Collection[Units] = (), config: SearchConfiguration = STANDARD
    ) -> None:
        self._state, self._repeated, self._config = state, repeated, config

    def propose(self, k: int, surrogate: SubsetGP, n_sets: int, share_spent: float) -> list[Units]:
        """At most `n_sets` sets of k units that were not scored; none if little improvement is expected.

        Towards the end of the budget, half of them are adjacent neighbours of the best set.

        Args:
            k: the size.
            surrogate: fitted to everything known.
            n_sets: the most sets.
            share_spent: the share of the budget that is spent.
        """
        late = share_spent >= 1 - self._config.last_share
        adjacent = self.adjacent(k, surrogate, math.ceil(n_sets / 2)) if late else []
        others = [units for units in self.improving(k, surrogate, n_sets) if units not in adjacent]
        return [*adjacent, *others][:n_sets]

    def adjacent(self, k: int, surrogate: SubsetGP, n_sets: int) -> list[Units]:
        """At most `n_sets` adjacent neighbours of the best set that were not scored, by expected improvement."""
        best = self._state.best(k)
        if best is None:
            return []
        neighbours = self._state.unknown(adjacent_neighbours(best, self._state.n_units))
        if not neighbours:
            return []
        columns = sorted(frozenset().union(*neighbours))
        chosen = surrogate.batch(to_masks(neighbours, columns), columns, self._state.best_change(k), n_sets)
        return [neighbours[i] for i in chosen]

    def improving(self, k: int, surrogate: SubsetGP, n_sets: int) -> list[Units]:
        """At most `n_sets` sets of k units, each with an expected improvement that is worth a mask."""
        state, config = self._state, self._config
        columns = self.shortlist(k, surrogate)
        best = state.best_change(k)
        pool = self._pool(k, surrogate, columns)
        gain = surrogate.expected_improvement(pool, columns, best)
        order = ranked(gain.tolist(), config.contender_sets + len(state.changes), least_scale=NAT)
        sets = dict(zip(order, from_masks(pool[order], columns), strict=True))
        least = max(config.negligible_share * abs(best), tolerance(state.whole))
        contenders = [i for i, units in sets.items() if units not in state.changes and gain[i] > least]
        contenders = sorted(contenders[: config.contender_sets])  # of sets that tie, the lexicographically first
        if not contenders:
            return []
        chosen = surrogate.batch(pool[contenders], columns, best, n_sets)
        return [sets[contenders[i]] for i in chosen]

    def shortlist(self, k: int, surrogate: SubsetGP) -> list[int]:
        """The units that proposed sets are made of, in the prompt's order.

        They are the units that may have the lowest f alone, those of the best set, and those of repeated words.
        """
        optimistic = lowest_units(surrogate)[: max(self._config.shortlist_units, 2 * k)]
        always = (self._state.best(k) or frozenset()).union(*self._repeated)
        return sorted({*optimistic, *always})

    def _pool(self, k: int, surrogate: SubsetGP, columns: list[int]) -> Float[Tensor, "sets columns"]:
        """All sets of k of these units if they are few, else the best ones and their one-swap neighbours."""
        import torch

        if math.comb(len(columns), k) <= self._config.pool_sets:
            return to_masks(combinations(range(len(columns)), k), range(len(columns)))
        scored = self._state.scored_of_size(k)
        within = [units for units in scored if units <= set(columns)][: self._config.beam_sets - 1]
        strongest = [unit for unit in lowest_units(surrogate) if unit in columns][:k]
        beam = to_masks([*within, strongest], columns)
        return unique_rows(torch.cat([beam, swap_neighbours(beam)])).flip(0)  # in lexicographic order of the units


def lowest_units(surrogate: SubsetGP) -> list[int]:
    """All units, those that may have the lowest f alone first."""
    return ranked((-surrogate.lowest_alone()).tolist(), least_scale=NAT)
