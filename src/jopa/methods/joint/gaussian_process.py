"""A Gaussian process over sets of units: what removing a set that was never removed may do.

It lives on sets, with an ANOVA kernel over the units that two sets share: for the change
f(S) = log p(y|x without S) − log p(y|x), in nats,

    cov(f(A), f(B)) = τ (Π_{i ∈ A∩B} (1 + λ w_i) − 1) / λ + τ δ |A| |B|

Multiplied out, the product gives each unit an effect of its own, of variance τ w_i, each pair an interaction, of
variance τ λ w_i w_j, and so on for larger groups; δ is a drift that all units share; w is a prior guess of how much
each unit may matter. τ and λ have the largest marginal likelihood. So a unit that does nothing alone is still expected
to do something in company, in proportion to what is not known about it. Expected improvement is the criterion of
Jones, Schonlau & Welch 1998 (https://doi.org/10.1023/A:1008306431147); the sets of a batch are chosen one after
another, each as if the earlier ones had come out as expected.

Besides what was scored it takes what a gradient foretells: f of a scored set with one unit more or less, give or take
a share of the variance that this step has in the process.

Sets are rows of 0 and 1. Knows numbers alone: no scorer, no search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.ordering import first_highest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_DRIFT = 0.3
_RATES = (0.03, 0.1, 0.3, 1.0)
"""The values of λ to choose from."""
_JITTER = 1e-6
_ERROR = 0.5
"""Variance of a foretold step's error, as a share of the step's own."""


@dataclass(frozen=True)
class Foretold:
    """Sets that were not scored, each within or around a scored one.

    Attributes:
        masks: the sets.
        changes: what f of each should be, in nats.
        scored: the scored set next to each.
    """

    masks: Float[Tensor, "foretold units"]
    changes: Float[Tensor, "foretold"]
    scored: Float[Tensor, "foretold units"]


class SetProcess:
    """A Gaussian process over sets, conditioned on scored and foretold ones."""

    def __init__(
        self,
        masks: Float[Tensor, "sets units"],
        changes: Float[Tensor, "sets"],
        weights: Float[Tensor, "units"],
        rate: float,
        foretold: Foretold | None = None,
    ) -> None:
        import torch

        n_scored, units = len(masks), range(masks.shape[1])
        if foretold is not None:
            masks, changes = torch.cat([masks, foretold.masks]), torch.cat([changes, foretold.changes])
        self._masks, self._rate, self._factors = masks, rate, (rate * weights).log1p()
        covariance = self._covariance(masks, masks, units)
        covariance.diagonal().add_(_JITTER * covariance.diagonal().mean())
        if foretold is not None:
            # f(A) − f(B) has this variance where one of A and B holds the other.
            of_set = ((foretold.masks @ self._factors).exp() - (foretold.scored @ self._factors).exp()).abs() / rate
            drift = _DRIFT * (foretold.masks.sum(dim=1) - foretold.scored.sum(dim=1)).square()
            covariance.diagonal()[n_scored:].add_(_ERROR * (of_set + drift))
        self._root = torch.linalg.cholesky(covariance)
        self._solved = torch.cholesky_solve(changes[:, None], self._root)[:, 0]
        self._scale = max(float(changes @ self._solved) / len(changes), 1e-12)
        self.log_likelihood = -len(changes) / 2 * math.log(self._scale) - float(self._root.diagonal().log().sum())

    def expected_improvement(
        self, pool: Float[Tensor, "pool columns"], columns: Sequence[int], best: float
    ) -> Float[Tensor, "pool"]:
        """How far below `best` f of each set is expected to be, in nats, counting what is above as nothing."""
        mean, towards = self._condition(pool, columns)
        variance = self._variance(pool, columns) - towards.square().sum(dim=0)
        return _expected_improvement(mean, (self._scale * variance).clamp(min=1e-12).sqrt(), best)

    def batch(self, pool: Float[Tensor, "pool columns"], columns: Sequence[int], best: float, n: int) -> list[int]:
        """n sets of a small pool, each the most promising as if those before it had come out as expected."""
        import torch

        mean, towards = self._condition(pool, columns)
        covariance = self._covariance(pool, pool, columns) - towards.T @ towards
        chosen: list[int] = []
        while len(chosen) < min(n, len(pool)):
            deviation = (self._scale * covariance.diagonal()).clamp(min=1e-12).sqrt()
            gain = _expected_improvement(mean, deviation, best)
            gain[chosen] = -1
            chosen.append(first_highest(gain.tolist()))
            column = covariance[:, chosen[-1]]
            covariance = covariance - torch.outer(column, column) / column[chosen[-1]].clamp(min=1e-12)
        return chosen

    def lowest_alone(self) -> Float[Tensor, "units"]:
        """f of each unit alone, two standard deviations below its mean."""
        import torch

        alone = self._factors.expm1() / self._rate
        cross = self._masks * alone + _DRIFT * self._masks.sum(dim=1, keepdim=True)
        towards = torch.linalg.solve_triangular(self._root, cross, upper=False)
        variance = self._scale * (alone + _DRIFT - towards.square().sum(dim=0))
        return self._solved @ cross - 2 * variance.clamp(min=0).sqrt()

    def _condition(
        self, pool: Float[Tensor, "pool columns"], columns: Sequence[int]
    ) -> tuple[Float[Tensor, "pool"], Float[Tensor, "sets pool"]]:
        """Mean of f on the pool, and what the scored sets explain of its covariance (as a root)."""
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
        return kernel.expm1_().div_(self._rate).addr_(sizes, b.sum(dim=1), alpha=_DRIFT)

    def _variance(self, pool: Float[Tensor, "pool columns"], columns: Sequence[int]) -> Float[Tensor, "pool"]:
        """The kernel of each set with itself, without τ."""
        return (pool @ self._factors[list(columns)]).expm1() / self._rate + _DRIFT * pool.sum(dim=1).square()


def fit(
    masks: Float[Tensor, "sets units"],
    changes: Float[Tensor, "sets"],
    weights: Float[Tensor, "units"],
    foretold: Foretold | None = None,
) -> SetProcess:
    """Condition on scored sets and their changes (nats), with the λ of the largest marginal likelihood.

    Of those that tie the least is taken.

    Args:
        masks: the scored sets.
        changes: f of each, in nats.
        weights: w of each unit, in [0, 1].
        foretold: sets that were not scored, but that something is known of.
    """
    processes = [SetProcess(masks, changes, weights, rate, foretold) for rate in _RATES]
    return processes[first_highest([process.log_likelihood for process in processes])]


def _expected_improvement(
    mean: Float[Tensor, "pool"], deviation: Float[Tensor, "pool"], best: float
) -> Float[Tensor, "pool"]:
    import torch

    z = (best - mean) / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return deviation * (z * torch.special.ndtr(z) + density)
