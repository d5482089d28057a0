"""A Gaussian process over sets of units: it predicts the effect of removing a set that was not scored.

Its inputs are sets. It has an ANOVA kernel over the units that two sets share: for the change
f(S) = log p(y|x without S) − log p(y|x), in nats,

    cov(f(A), f(B)) = τ (Π_{i ∈ A∩B} (1 + λ w_i) − 1) / λ + τ δ |A| |B|

Multiplied out, the product gives each unit an effect of its own, of variance τ w_i, each pair an interaction, of
variance τ λ w_i w_j, and so on for larger groups; δ is a drift that all units share; w is a prior guess of how much
each unit may matter. τ and λ have the largest marginal likelihood. So a unit without an effect of its own is still
expected to have one together with others, in proportion to what is not known about it. The sets of a batch are chosen
one after another by expected improvement, each as if the scores of the earlier ones were their expected scores.

Besides scored sets it takes pseudo-observations, which a gradient predicts: f of a scored set with one unit more or
less. Their error has a share of the variance that this step has in the process.

Sets are rows of 0 and 1. Knows numbers alone: no scorer, no search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.methods.acquisition import expected_improvement
from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.ordering import first_highest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class PseudoObservations:
    """Sets whose f is predicted, not scored; each has one unit more or less than a scored set.

    Attributes:
        masks: the sets.
        changes: the predicted f of each, in nats.
        scored: the scored set that each was predicted from.
    """

    masks: Float[Tensor, "predicted units"]
    changes: Float[Tensor, "predicted"]
    scored: Float[Tensor, "predicted units"]


class SubsetGP:
    """A Gaussian process over sets, conditioned on scored sets and on pseudo-observations.

    Args:
        masks: the scored sets.
        changes: f of each, in nats.
        weights: w of each unit, in [0, 1].
        rate: λ.
        predicted: pseudo-observations.
        config: the kernel's constants.
    """

    def __init__(
        self,
        masks: Float[Tensor, "sets units"],
        changes: Float[Tensor, "sets"],
        weights: Float[Tensor, "units"],
        rate: float,
        predicted: PseudoObservations | None = None,
        config: SearchConfiguration = STANDARD,
    ) -> None:
        import torch

        self._drift = config.drift_variance
        n_scored, units = len(masks), range(masks.shape[1])
        if predicted is not None:
            masks, changes = torch.cat([masks, predicted.masks]), torch.cat([changes, predicted.changes])
        self._masks, self._rate, self._factors = masks, rate, (rate * weights).log1p()
        covariance = self._covariance(masks, masks, units)
        covariance.diagonal().add_(config.jitter * covariance.diagonal().mean())
        if predicted is not None:
            # f(A) − f(B) has this variance where one of A and B holds the other.
            of_set = ((predicted.masks @ self._factors).exp() - (predicted.scored @ self._factors).exp()).abs() / rate
            drift = self._drift * (predicted.masks.sum(dim=1) - predicted.scored.sum(dim=1)).square()
            covariance.diagonal()[n_scored:].add_(config.step_error * (of_set + drift))
        self._root = torch.linalg.cholesky(covariance)
        self._solved = torch.cholesky_solve(changes[:, None], self._root)[:, 0]
        self._scale = max(float(changes @ self._solved) / len(changes), 1e-12)
        self.log_likelihood = -len(changes) / 2 * math.log(self._scale) - float(self._root.diagonal().log().sum())

    def expected_improvement(
        self, pool: Float[Tensor, "pool columns"], columns: Sequence[int], best: float
    ) -> Float[Tensor, "pool"]:
        """E[max(0, best − f(S))] of each set S, in nats."""
        mean, towards = self._condition(pool, columns)
        variance = self._variance(pool, columns) - towards.square().sum(dim=0)
        return expected_improvement(mean, (self._scale * variance).clamp(min=1e-12).sqrt(), best)

    def batch(self, pool: Float[Tensor, "pool columns"], columns: Sequence[int], best: float, n: int) -> list[int]:
        """n sets of a small pool, each with the largest expected improvement if those before it score as expected."""
        import torch

        mean, towards = self._condition(pool, columns)
        covariance = self._covariance(pool, pool, columns) - towards.T @ towards
        chosen: list[int] = []
        while len(chosen) < min(n, len(pool)):
            deviation = (self._scale * covariance.diagonal()).clamp(min=1e-12).sqrt()
            gain = expected_improvement(mean, deviation, best)
            gain[chosen] = -1
            chosen.append(first_highest(gain.tolist()))
            column = covariance[:, chosen[-1]]
            covariance = covariance - torch.outer(column, column) / column[chosen[-1]].clamp(min=1e-12)
        return chosen

    def lowest_alone(self) -> Float[Tensor, "units"]:
        """f of each unit alone, two standard deviations below its mean."""
        import torch

        alone = self._factors.expm1() / self._rate
        cross = self._masks * alone + self._drift * self._masks.sum(dim=1, keepdim=True)
        towards = torch.linalg.solve_triangular(self._root, cross, upper=False)
        variance = self._scale * (alone + self._drift - towards.square().sum(dim=0))
        return self._solved @ cross - 2 * variance.clamp(min=0).sqrt()

    def _condition(
        self, pool: Float[Tensor, "pool columns"], columns: Sequence[int]
    ) -> tuple[Float[Tensor, "pool"], Float[Tensor, "sets pool"]]:
        """Mean of f on the pool, and a root of the covariance that the observations explain."""
        import torch

        cross = self._covariance(self._masks[:, columns], pool, columns, self._masks.sum(dim=1))
        return self._solved @ cross, torch.linalg.solve_triangular(self._root, cross, upper=False)

    def _covariance(
        self,
        a: Float[Tensor, "a columns"],
        b: Float[Tensor, "b columns"],
        columns: Sequence[int],
        sizes: Float[Tensor, "a"] | None = None,
    ) -> Float[Tensor, "a b"]:
        """The kernel without τ; `sizes` of the sets of `a` where they reach beyond the columns."""

        sizes = a.sum(dim=1) if sizes is None else sizes
        kernel = (a * self._factors[list(columns)]) @ b.T
        return kernel.expm1_().div_(self._rate).addr_(sizes, b.sum(dim=1), alpha=self._drift)

    def _variance(self, pool: Float[Tensor, "pool columns"], columns: Sequence[int]) -> Float[Tensor, "pool"]:
        """The kernel of each set with itself, without τ."""
        return (pool @ self._factors[list(columns)]).expm1() / self._rate + self._drift * pool.sum(dim=1).square()


def fit(
    masks: Float[Tensor, "sets units"],
    changes: Float[Tensor, "sets"],
    weights: Float[Tensor, "units"],
    predicted: PseudoObservations | None = None,
    config: SearchConfiguration = STANDARD,
) -> SubsetGP:
    """Condition on scored sets and their changes (nats), with the λ of the largest marginal likelihood.

    Of values of λ that tie, the smallest is taken.

    Args:
        masks: the scored sets.
        changes: f of each, in nats.
        weights: w of each unit, in [0, 1].
        predicted: pseudo-observations.
        config: the kernel's constants.
    """
    processes = [SubsetGP(masks, changes, weights, rate, predicted, config) for rate in config.rates]
    return processes[first_highest([process.log_likelihood for process in processes])]
