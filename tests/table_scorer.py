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


class TableWhiteBoxScorer(TableScorer):
    """The same between its corners, too: the multilinear extension of the table, with its exact gradient.

    F(m) = Σ_S log p(S) Π_{i in S} (1 − m_i) Π_{i not in S} m_i, so that ∂F/∂m_i at m = 1 is unit i's effect alone.
    """

    def relaxed_gradients(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        m = factors.double().clone().requires_grad_()
        totals = torch.zeros(len(m), dtype=torch.double)
        for size in range(self.n_units + 1):
            for removed in combinations(range(self.n_units), size):
                kept = [i for i in range(self.n_units) if i not in removed]
                weight = (1 - m[:, list(removed)]).prod(dim=1) * m[:, kept].prod(dim=1)
                totals = totals + self.log_prob(frozenset(removed)) * weight
        (gradients,) = torch.autograd.grad(totals.sum(), m)
        return totals.detach().float(), gradients.float()

    def relaxed_log_probs(self, factors: torch.Tensor) -> torch.Tensor:
        return self.relaxed_gradients(factors)[0]

    def mask_gradient(self, keep: torch.Tensor) -> torch.Tensor:
        return self.relaxed_gradients(keep.float()[None])[1][0]

    def gradient_norms(self) -> torch.Tensor:
        """As if every unit had one embedding of one number, 1: its derivative is the mask's."""
        return self.mask_gradient(torch.ones(self.n_units, dtype=torch.bool)).abs()

    def attention_gradient(self, factors: torch.Tensor) -> torch.Tensor:
        """As if a unit's mask were the attention paid to it."""
        return factors * self.relaxed_gradients(factors[None])[1][0]

    def attention(self) -> torch.Tensor:
        """Two layers; the last looks at what matters alone."""
        alone = [self.log_prob(frozenset()) - self.log_prob(frozenset({i})) for i in range(self.n_units)]
        return torch.stack([torch.full((self.n_units,), 0.1), torch.tensor(alone).softmax(dim=0)])


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
    return jopa.Problem(TableWhiteBoxScorer(n_units, log_prob))
