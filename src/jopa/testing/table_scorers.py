"""Scorers that read log-probabilities from a function of the removed units: problems without a model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

LogProb = Callable[[frozenset[int]], float]
"""log p(y) in nats, as a function of the removed units."""


class TableScorer:
    """A black box: log p(y) as a function of the removed units.

    Args:
        n_units: number of units.
        log_prob: log p(y) in nats for a set of removed units; the output has one token.

    Attributes:
        asked: every set that was scored, in order, repeats included.
    """

    def __init__(self, n_units: int, log_prob: LogProb) -> None:
        self.n_units = n_units
        self.log_prob = log_prob
        self.asked: list[frozenset[int]] = []

    @property
    def ffe(self) -> float:
        """Sets scored so far, each of which counts as one forward."""
        return float(len(self.asked))

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks 1"]:
        """log p(y) under each keep mask, in nats."""
        import torch

        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += removed
        return torch.tensor([[self.log_prob(units)] for units in removed], dtype=torch.float32)


class TableWhiteBoxScorer(TableScorer):
    """The same with all that a model in this process gives, between the corners, too.

    The multilinear extension of the table, with its exact gradient:

    F(m) = Σ_S log p(S) Π_{i in S} (1 − m_i) Π_{i not in S} m_i, so that ∂F/∂m_i at m = 1 is unit i's effect alone.
    The cost grows as 2 to the number of units.
    """

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """F(m) and its derivative by m at fractional masks m, one a row (nats)."""
        import torch

        m = factors.double().clone().requires_grad_()
        masks = product((False, True), repeat=self.n_units)
        table = [self.log_prob(frozenset(i for i, kept in enumerate(mask) if not kept)) for mask in masks]
        totals = torch.tensor(table, dtype=torch.double).expand(len(m), -1)
        for share in m.T[..., None]:  # a unit at a time: its half of the table without it, and the half with it
            without, with_it = totals.chunk(2, dim=1)
            totals = (1 - share) * without + share * with_it
        (gradients,) = torch.autograd.grad(totals.sum(), m)
        return totals[:, 0].detach().float(), gradients.float()

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """F(m) at fractional masks m, one a row (nats)."""
        return self.relaxed_gradients(factors)[0]

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of F by each unit's mask (nats)."""
        return self.relaxed_gradients(keep.float()[None])[1][0]

    def gradient_norms(self) -> Float[Tensor, "units"]:
        """As if every unit had one embedding of one number, 1: its derivative is the mask's."""
        import torch

        return self.mask_gradient(torch.ones(self.n_units, dtype=torch.bool)).abs()

    def attention_gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """As if a unit's mask were the attention paid to it."""
        return factors * self.relaxed_gradients(factors[None])[1][0]

    def attention(self) -> Float[Tensor, "layers units"]:
        """Two layers; the last looks at what matters alone."""
        import torch

        alone = [self.log_prob(frozenset()) - self.log_prob(frozenset({i})) for i in range(self.n_units)]
        return torch.stack([torch.full((self.n_units,), 0.1), torch.tensor(alone).softmax(dim=0)])

    def token_attention(self, keep: Bool[Tensor, "units"]) -> list[Float[Tensor, "tokens"]]:
        """One token a unit; the more a unit matters alone, the more attention it has among those that are kept."""
        import torch

        alone = [self.log_prob(frozenset()) - self.log_prob(frozenset({i})) for i in range(self.n_units)]
        weights = torch.tensor(alone).where(keep, -torch.inf).softmax(dim=0)
        return [weights[i : i + 1] if keep[i] else weights[:0] for i in range(self.n_units)]

    def log_distributions(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks 1 2"]:
        """A vocabulary of two tokens: the output's, and all others together."""
        import torch

        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        own = torch.tensor([self.log_prob(units) for units in removed]).clamp(max=-1e-6)
        return torch.stack([own, (-own.expm1()).log()], dim=1)[:, None]
