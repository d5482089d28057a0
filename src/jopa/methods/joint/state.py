"""What one run of the search has scored, the best set of each size, and the sizes that are still open.

Scores nothing itself: whoever scores sets adds them here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from jopa.method import TraceStep
from jopa.methods.joint.neighbours import to_masks
from jopa.ordering import NAT, LowestSet, ranked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Units = frozenset[int]


class SearchState:
    """The scored sets of one run.

    Args:
        n_units: number of units of the prompt.
        ks: the sizes that are searched for.
        whole: log p(y) of the whole prompt, in nats.

    Attributes:
        changes: f(S) = log p(y without S) − `whole` of each scored set, in nats, in the order of scoring.
        open: the sizes that may still be improved.
        traces: the best log-probability of each size after each call.
    """

    def __init__(self, n_units: int, ks: Iterable[int], whole: float) -> None:
        self.n_units, self.whole = n_units, whole
        self.changes: dict[Units, float] = {}
        self.traces: dict[int, list[TraceStep]] = {k: [] for k in ks}
        self.open = list(self.traces)
        self._best = {k: LowestSet() for k in self.traces}

    @property
    def largest_k(self) -> int:
        """The largest size that is searched for."""
        return max(self.traces)

    def unknown(self, sets: Iterable[Units]) -> list[Units]:
        """Those of the sets that were not scored, each once."""
        return [units for units in dict.fromkeys(sets) if units not in self.changes]

    def add(self, sets: Sequence[Units], log_probs: Sequence[float], *, evaluations: int, ffe: float) -> None:
        """Add the sets that were scored in one call.

        Args:
            sets: the sets.
            log_probs: log p(y) without each, in nats.
            evaluations: masks scored so far, for the trace.
            ffe: full-forward equivalents so far, for the trace.
        """
        for units, log_prob in zip(sets, log_probs, strict=True):
            self.changes[units] = log_prob - self.whole
            if len(units) in self._best:
                self._best[len(units)].add(units, log_prob)
        for k, trace in self.traces.items():
            if self._best[k].units is not None:
                trace.append(TraceStep(len(trace), self._best[k].log_prob, evaluations, ffe))

    def best(self, k: int) -> Units | None:
        """The best set of k units; None as long as none was scored."""
        return self._best[k].units

    def best_log_prob(self, k: int) -> float:
        """log p(y) without the best set of k units, in nats; infinity as long as none was scored."""
        return self._best[k].log_prob

    def best_change(self, k: int) -> float:
        """f of the best set of k units, in nats; 0, removing nothing, as long as none was scored."""
        best = self.best(k)
        return 0.0 if best is None else self.changes[best]

    def all_scored(self, k: int) -> bool:
        """Whether every set of k units was scored."""
        return sum(len(units) == k for units in self.changes) == math.comb(self.n_units, k)

    def scored_of_size(self, k: int) -> list[Units]:
        """The scored sets of k units, the lowest f first."""
        return lowest_first({units: change for units, change in self.changes.items() if len(units) == k})

    def observations(
        self, initial: Collection[Units], most: int
    ) -> tuple[Float[Tensor, "sets units"], Float[Tensor, "sets"]]:
        """The sets that the surrogate learns from, and f of each in nats.

        The time of the surrogate grows with the cube of their number, so those with the highest f are left out.

        Args:
            initial: the sets that were scored first, whatever their size.
            most: the most single units and initial sets; and the most other sets up to the largest size searched for.
        """
        import torch

        strongest = lowest_first(self.changes)
        few = [units for units in strongest if len(units) == 1 or units in initial]
        many = [units for units in strongest if 1 < len(units) <= self.largest_k and units not in initial]
        known = few[:most] + many[:most]
        changes = torch.tensor([self.changes[units] for units in known], dtype=torch.double)
        return to_masks(known, range(self.n_units)), changes


def lowest_first(changes: Mapping[Units, float]) -> list[Units]:
    """These sets, the lowest change first; of sets that tie, the one that was scored first."""
    sets = list(changes)
    return [sets[i] for i in ranked([-change for change in changes.values()], least_scale=NAT)]
