"""Methods that others made for long contexts, with scores of removals alone or the model's output distributions.

With v(S) = log p(y | x with only the units of S) and U all T units, in nats:

    CAMAB      θ of a linear model v(S) ≈ v(∅) + Σ_{i ∈ S} θ_i; which S to score next, Thompson sampling says
    TracLLM    halve segments of the context, keep the best ones, until they are single units
    ARC-JSD    Σ over output positions of JSD(p(· | x), p(· | x without i)), p over the whole vocabulary

Written from their papers; where a paper leaves something open, the class says what was chosen. Sees units and scores,
never a tokenizer or a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from jopa.errors import PromptError, SettingError
from jopa.method import Method, Ranking, RankingMethod, Selection
from jopa.ordering import NAT, ranked
from jopa.problem import Problem
from jopa.scoring.protocols import Capability

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

Segment = tuple[int, ...]
"""Neighbouring units."""

_MIN_QUERIES = 4
_PRIOR_PRECISION = 1.0
"""Of each θ, in units of v(U) − v(∅): its prior standard deviation is 1."""
_NOISE = 0.1
"""Standard deviation of what the linear model cannot explain, in the same units."""
_LOO_WEIGHT = 2.0
"""What leave-one-out counts for beside the other ways of scoring."""
_BEST_SHARE = 0.2
"""Share of a segment's contributions, the largest, whose mean is its denoised Shapley value."""
_DISTRIBUTION_NUMBERS = 2**23
"""The most numbers of distributions over the vocabulary that are asked for at once."""


@dataclass(frozen=True)
class CAMAB(RankingMethod):
    """CAMAB: the largest weights of a linear model whose masks Thompson sampling chooses.

    Pan et al. 2025, "Context Attribution with Multi-Armed Bandit Optimization" (arXiv 2506.19977). Every unit is an
    arm; the reward of a set S that is kept is r(S) = (v(S) − v(∅)) / (v(U) − v(∅)), in log-probabilities of the output.
    A Bayesian linear regression r(S) ≈ Σ_{i ∈ S} θ_i is kept up to date; each round draws θ from its posterior,
    keeps the units with the largest drawn θ, and scores them. The k units with the largest posterior mean are chosen.

    The available descriptions do not say how many units a round keeps, nor give the prior: here a round keeps the share
    `kept`, θ has prior N(0, 1), and the noise has standard deviation 0.1. Rewards are not clipped to [0, 1], so that a
    unit whose removal helps the output is known as such. v(U) and v(∅) are the first two observations. Where they
    differ by less than 1 nat, they are taken to differ by 1 nat.

    Scores are nats. As a linear model it shares the effect of redundant units among them.

    Attributes:
        queries: sets scored, beside v(U) and v(∅).
        kept: share of the units that each set keeps.
    """

    queries: int = 64
    kept: float = 0.5

    name: ClassVar[str] = "camab"
    summary: ClassVar[str] = "CAMAB: a linear model whose masks Thompson sampling chooses"
    cost: ClassVar[str] = "1 + kept × queries"

    def __post_init__(self) -> None:
        if self.queries < _MIN_QUERIES:
            raise SettingError(f"queries must be at least {_MIN_QUERIES}, got {self.queries}")
        if not 0 < self.kept < 1:
            raise SettingError(f"kept must lie between 0 and 1, both excluded, got {self.kept}")

    def with_budget(self, budget: int) -> CAMAB:
        """The same bandit with `budget` sets."""
        return replace(self, queries=budget)

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 2 + self.queries

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Posterior mean of every unit's weight, in nats.

        Raises:
            PromptError: without any unit nothing is left to predict from (a prompt without a template).
        """
        import numpy as np

        random = np.random.default_rng(seed)
        n_units = problem.n_units
        value = _KeptSets(problem)
        empty, whole = value([()])[0], value([tuple(range(n_units))])[0]
        scale = max(abs(whole - empty), NAT)
        precision = np.eye(n_units) * _PRIOR_PRECISION
        weighted = np.zeros(n_units)
        kept = np.ones(n_units)
        reward = (whole - empty) / scale
        for query in range(self.queries + 1):
            precision += np.outer(kept, kept) / _NOISE**2
            weighted += kept * reward / _NOISE**2
            if query == self.queries:
                break
            factor = np.linalg.cholesky(precision)
            mean = np.linalg.solve(precision, weighted)
            drawn = mean + np.linalg.solve(factor.T, random.standard_normal(n_units))
            chosen = ranked(drawn.tolist(), min(n_units, max(1, round(self.kept * n_units))))
            kept = np.zeros(n_units)
            kept[chosen] = 1.0
            reward = (value([tuple(sorted(chosen))])[0] - empty) / scale
            problem.progress(query + 1, self.queries)
        mean = np.linalg.solve(precision, weighted) * scale
        return Ranking(tuple(mean.tolist()), f"{self.queries} sets chosen by Thompson sampling")


@dataclass(frozen=True)
class TracLLM(Method):
    """TracLLM: segments are halved and the best kept until they are single units; several ways of scoring, together.

    Wang et al. 2025, "TracLLM: A Generic Framework for Attributing Long Context LLMs" (USENIX Security 2025, arXiv
    2506.04202). The search begins with all units in one segment. Each step halves every segment of several units,
    scores the halves, and keeps the `kept` best; the other units are no longer part of the context. It is done once for
    each way of scoring a segment among the segments C that are left:

        single     v(s) − v(∅)
        loo        v(C) − v(C ∖ s), counted double
        shapley    mean of the largest fifth of v(those up to s) − v(those before s) over a few orders ("denoised")

    A unit's score is the largest that any of them gave it at the end, and the k best of those left are chosen.

    Segments are dropped by what they do as a whole, and what was dropped never comes back.

    Attributes:
        kept: segments kept at each step; k if that is more.
        permutations: orders for the Shapley values; 0 leaves them out.
        single: score segments alone, too.
    """

    kept: int = 5
    permutations: int = 5
    single: bool = True

    name: ClassVar[str] = "trac-llm"
    summary: ClassVar[str] = "TracLLM: halves segments, keeps the best by leave-one-out and Shapley values"
    cost: ClassVar[str] = "about (4 + 2 × permutations) × kept"

    def __post_init__(self) -> None:
        if self.kept < 1:
            raise SettingError(f"kept must be at least 1, got {self.kept}")
        if self.permutations < 0:
            raise SettingError(f"permutations must be at least 0, got {self.permutations}")

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        steps = 1 + math.ceil(math.log2(max(2, n_units)))
        ways = 1 + int(self.single) + self.permutations
        return 1 + steps * ways * (2 * max(self.kept, k) + 1)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Search once for each way of scoring, and choose the k units with the largest score; see `Method.run`.

        Raises:
            SettingError: see `Method.run`.
            PromptError: without any unit nothing is left to predict from (a prompt without a template).
        """
        import torch

        self.validate(problem.shape, k)
        value = _KeptSets(problem)
        if self.single or self.permutations:
            value([()])  # refused at once where nothing would be left
        random = torch.Generator().manual_seed(seed)
        scorers: dict[str, tuple[float, Callable[[Sequence[Segment]], list[float]]]] = {
            "loo": (_LOO_WEIGHT, lambda segments: _leave_one_out(value, segments))
        }
        if self.single:
            scorers["single"] = (1.0, lambda segments: _alone(value, segments))
        if self.permutations:
            scorers["shapley"] = (1.0, lambda segments: self._denoised_shapley(value, segments, random))
        best: dict[int, float] = {}
        found_by: dict[int, str] = {}
        for done, (name, (weight, score)) in enumerate(scorers.items(), 1):
            for unit, own in self._search(problem.n_units, max(self.kept, k), score):
                if unit not in best or weight * own > best[unit]:
                    best[unit], found_by[unit] = weight * own, name
            problem.progress(done, len(scorers))
        units = sorted(best)
        chosen = [units[i] for i in ranked([best[unit] for unit in units], k, least_scale=NAT)]
        details = {"found": units, "scores": [best[unit] for unit in units], "by": [found_by[unit] for unit in units]}
        return Selection(tuple(chosen), f"segments halved down to {len(units)} units", details=details)

    @staticmethod
    def _search(n_units: int, kept: int, score: Callable[[Sequence[Segment]], list[float]]) -> list[tuple[int, float]]:
        """The units that are left at the end, with their scores."""
        segments: list[Segment] = [tuple(range(n_units))]
        scores: list[float] | None = None
        while any(len(segment) > 1 for segment in segments):
            segments, scores = [half for segment in segments for half in _halves(segment)], None
            if len(segments) > kept:
                every = score(segments)
                best = sorted(ranked(every, kept, least_scale=NAT))
                segments, scores = [segments[i] for i in best], [every[i] for i in best]
        scores = score(segments) if scores is None else scores
        return [(segment[0], own) for segment, own in zip(segments, scores, strict=True)]

    def _denoised_shapley(self, value: _KeptSets, segments: Sequence[Segment], random: torch.Generator) -> list[float]:
        """Mean of the largest contributions of each segment over random orders, in nats."""
        import torch

        orders = [torch.randperm(len(segments), generator=random).tolist() for _ in range(self.permutations)]
        sets = [_joined(segments[i] for i in order[:n]) for order in orders for n in range(len(order) + 1)]
        values = iter(value(sets))
        contributions: list[list[float]] = [[] for _ in segments]
        for order in orders:
            before = next(values)
            for i in order:
                after = next(values)
                contributions[i].append(after - before)
                before = after
        n_best = max(1, math.ceil(_BEST_SHARE * self.permutations))
        return [sum(sorted(own, reverse=True)[:n_best]) / n_best for own in contributions]


@dataclass(frozen=True)
class ARCJSD(RankingMethod):
    """ARC-JSD: leave-one-out by the Jensen–Shannon divergence of the output distributions.

    Li et al. 2025, "Attributing Response to Context: A Jensen-Shannon Divergence Driven Mechanistic Study of Context
    Attribution in Retrieval-Augmented Generation" (arXiv 2505.16415). With p_j over the whole vocabulary at each target
    token j,

        score(i) = Σ_j JSD(p_j(· | x, y_{<j}), p_j(· | x without i, y_{<j})),

    in nats, at most log 2 a token. It does not say whether a unit raises or lowers the probability of the output, and
    like `ablation` it does not find units that matter only together.
    """

    name: ClassVar[str] = "arc-jsd"
    summary: ClassVar[str] = "ARC-JSD: leave-one-out by the divergence of the output distributions"
    cost: ClassVar[str] = "1 + T"
    requires: ClassVar[Capability] = "distribution"

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """The divergence that the removal of each unit causes, in nats."""
        whole = problem.log_distributions([()])[0].double()
        at_once = max(1, _DISTRIBUTION_NUMBERS // whole.numel())
        scores: list[float] = []
        while len(scores) < problem.n_units:
            units = range(len(scores), min(problem.n_units, len(scores) + at_once))
            scores += [_divergence(whole, other.double()) for other in problem.log_distributions([i] for i in units)]
            problem.progress(len(scores), problem.n_units)
        return Ranking(tuple(scores), "every unit removed alone")


def _divergence(first: Float[Tensor, "out vocab"], second: Float[Tensor, "out vocab"]) -> float:
    """Σ over positions of the Jensen–Shannon divergence of two distributions, given as log-probabilities; in nats."""
    import torch

    middle = torch.logaddexp(first, second) - math.log(2)
    halves = [(p.exp() * (p - middle)).where(p > -math.inf, 0.0).sum() for p in (first, second)]
    return max(0.0, float(sum(halves)) / 2)


class _KeptSets:
    """v(S) of sets of units that are kept, in nats."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._every = frozenset(range(problem.n_units))

    def __call__(self, kept: Sequence[Segment]) -> list[float]:
        """v of each set.

        Raises:
            PromptError: a set is empty, and nothing is left to predict from.
        """
        try:
            return self._problem.log_probs(self._every.difference(units) for units in kept)
        except PromptError as error:
            raise PromptError(
                "this method needs the score of the prompt without any unit, and this one has no template that would "
                "be left to predict the output from; use removal 'zero', or put a fixed prefix before the prompt"
            ) from error


def _halves(segment: Segment) -> list[Segment]:
    """A segment in two, or as it is where it is a single unit."""
    middle = len(segment) // 2
    return [part for part in (segment[:middle], segment[middle:]) if part]


def _joined(segments: Iterable[Segment]) -> Segment:
    return tuple(sorted(unit for segment in segments for unit in segment))


def _alone(value: _KeptSets, segments: Sequence[Segment]) -> list[float]:
    """v(s) − v(∅) of each segment."""
    empty, *own = value([(), *segments])
    return [log_prob - empty for log_prob in own]


def _leave_one_out(value: _KeptSets, segments: Sequence[Segment]) -> list[float]:
    """v(C) − v(C ∖ s) of each segment, C all of these."""
    rest = [_joined(other for other in segments if other is not segment) for segment in segments]
    every, *without = value([_joined(segments), *rest])
    return [every - log_prob for log_prob in without]
