"""A problem: one prompt, output, removal and scorer, and what its evaluations prove about a set.

    L(S) = log p(y|x) − log p(y|x without S)        the joint effect of S, in nats, summed over the target

Knows the protocols of scorers (`jopa.scoring.protocols`), never a scorer, a tokenizer or a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.choices import LOG_PROBABILITY, Certificate, Objective, Removal
from jopa.errors import ScoringError
from jopa.ordering import NAT, LowestSet, is_lower, ranked
from jopa.prompt.repeated_tokens import RepeatedToken
from jopa.scoring.protocols import (
    Approximation,
    AttentionScorer,
    Capability,
    ContextScorer,
    DistributionScorer,
    GradientScorer,
    LimitedScorer,
    NoisyScorer,
    Scorer,
    TextScorer,
    TokenAttentionScorer,
    capabilities,
    objective_of,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

SENDING_LIMIT = "the limit of tokens to send is reached"
"""What ends a search over a model that takes no more."""
OnStep = Callable[[int, int | None], None]
"""Called with the steps done and, if known, the steps in all."""


@dataclass(frozen=True)
class Best:
    """The best set of the searched size so far, for a callback that follows the search.

    Attributes:
        units: indices of its units, in the prompt's order; empty for the whole prompt, which comes first.
        log_prob: log p(y) with these units removed, in nats, summed over the target.
        evaluations: masks scored so far.
        ffe: model work so far, in full-forward equivalents.
    """

    units: tuple[int, ...]
    log_prob: float
    evaluations: int
    ffe: float


OnBest = Callable[[Best], None]
"""Called when a set is better than all sets of its size before; an exception that it raises ends the search."""


@dataclass(frozen=True)
class ProblemShape:
    """What is known about a problem before there is an output: enough to refuse a method and k.

    Attributes:
        n_units: number of removable units.
        capabilities: what can be asked of the scorer.
        removal: how units are removed; None where the scorer does not say.
        objective: what the scores are.
    """

    n_units: int
    capabilities: Set[Capability]
    removal: Removal | None = None
    objective: Objective = LOG_PROBABILITY


class SharedScores:
    """Scores of one input and output that problems in different units share: where the same tokens are removed.

    Args:
        positions: the token positions of each unit of a problem.
        scores: the log-probability of each target token without some positions; each problem adds its own.
    """

    def __init__(self, positions: Sequence[Sequence[int]], scores: dict[frozenset[int], Tensor]) -> None:
        self._positions, self._scores = positions, scores
        self.n_used = 0
        """Scores of other problems that were taken."""

    def known(self, removed: Iterable[int]) -> Tensor | None:
        """The score of a set of units, if it is known."""
        found = self._scores.get(self._removed_positions(removed))
        self.n_used += found is not None
        return found

    def add(self, removed: Iterable[int], score: Tensor) -> None:
        """Remember the score of a set of units."""
        self._scores[self._removed_positions(removed)] = score

    def _removed_positions(self, removed: Iterable[int]) -> frozenset[int]:
        return frozenset(position for unit in removed for position in self._positions[unit])


class Problem:
    """One prompt, output and removal behind a scorer; remembers every evaluation.

    Args:
        scorer: gives the log-probabilities of the target tokens under keep masks.
        progress: called by methods that take many steps.
        shared: scores of the same input in other units, under the same removal.
    """

    def __init__(self, scorer: Scorer, progress: OnStep | None = None, shared: SharedScores | None = None) -> None:
        self.scorer = scorer
        self.n_units = scorer.n_units
        self.progress: OnStep = progress or (lambda _done, _total: None)
        self.repeats = 0
        """Masks asked for again, which were not scored again."""
        self._memo: dict[frozenset[int], Tensor] = {}
        self._shared = shared
        self._watched: tuple[int, OnBest] | None = None
        self._best = LowestSet()

    @property
    def shape(self) -> ProblemShape:
        """What a method checks before it asks for scores."""
        removal = getattr(self.scorer, "removal", None)
        return ProblemShape(self.n_units, capabilities(self.scorer), removal, objective_of(self.scorer))

    def watch(self, k: int, on_best: OnBest) -> None:
        """Call `on_best` with the whole prompt's score, and from now on with every new best set of k units.

        If several sets are scored at once, it is called with the best of them. An exception that it raises
        (`StoppedError`, to end the work) passes through the method that asked for the scores.
        """
        on_best(Best((), self.log_prob(), self.evaluations, self.ffe))
        self._watched, self._best = (k, on_best), LowestSet()

    @property
    def ffe_left(self) -> float:
        """Model work that a limit of the scorer's allows, in full-forward equivalents; infinite without one."""
        return self.scorer.ffe_left if isinstance(self.scorer, LimitedScorer) else math.inf

    def best_known(self, k: int) -> tuple[int, ...] | None:
        """The best set of k units by the scores so far.

        The lowest of those scored, the lexicographically first of those that tie; without any, the k units that do most
        alone, if enough were scored.
        """
        sums = self.scored
        best = LowestSet()
        for units, score in sums.items():
            if len(units) == k:
                best.add(units, score)
        if best.units is not None:
            return tuple(sorted(best.units))
        alone = sorted(unit for units in sums if len(units) == 1 for unit in units)
        if len(alone) < k:
            return None
        strongest = ranked([-sums[frozenset({unit})] for unit in alone], k, least_scale=NAT)
        return tuple(sorted(alone[i] for i in strongest))

    @property
    def scored(self) -> dict[frozenset[int], float]:
        """log p(y) without each set of units that is known so far, in nats, summed over the target."""
        return {units: float(scores.double().sum()) for units, scores in self._memo.items()}

    @property
    def evaluations(self) -> int:
        """Masks scored so far; a repeat is free, and so is what another problem had scored."""
        return len(self._memo) - (self._shared.n_used if self._shared else 0)

    @property
    def ffe(self) -> float:
        """Model work so far, in full-forward equivalents."""
        return self.scorer.ffe

    def token_log_probs(self, removals: Iterable[Iterable[int]]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token with each set of units removed, in nats.

        Raises:
            ScoringError: the scorer gave NaN or infinity; nothing can be ranked by that.
        """
        import torch

        sets = [frozenset(removed) for removed in removals]
        new = list(dict.fromkeys(removed for removed in sets if removed not in self._memo))
        self.repeats += len(sets) - len(new)
        if self._shared is not None:
            known = {removed: score for removed in new if (score := self._shared.known(removed)) is not None}
            self._memo.update(known)
            self._report_best(list(known))
            new = [removed for removed in new if removed not in known]
        while new:
            # A mask costs at most one full forward, so these can be scored, or else a single one to find out.
            rows = min(len(new), max(1.0, self.ffe_left))
            part, new = new[: math.floor(rows)], new[math.floor(rows) :]
            scores = self.scorer.log_probs(torch.stack([self.keep_mask(removed) for removed in part]))
            _require_scores(scores, part)
            self._memo.update(zip(part, scores, strict=True))
            if self._shared is not None:
                for removed, row in zip(part, scores, strict=True):
                    self._shared.add(removed, row)
            self._report_best(part)
        return torch.stack([self._memo[removed] for removed in sets])

    def _report_best(self, new: Sequence[frozenset[int]]) -> None:
        """Call the callback if one of these newly scored sets is better than all before."""
        if self._watched is None:
            return
        k, on_best = self._watched
        of_size = [removed for removed in new if len(removed) == k]
        changed = [self._best.add(units, float(self._memo[units].double().sum())) for units in of_size]
        if any(changed) and self._best.units is not None:
            units = tuple(sorted(self._best.units))
            on_best(Best(units, self._best.log_prob, self.evaluations, self.ffe))

    def log_probs(self, removals: Iterable[Iterable[int]]) -> list[float]:
        """log p(y | x without S) for each set S of units, in nats, summed over the target."""
        return self.token_log_probs(removals).double().sum(dim=1).tolist()

    def log_prob(self, removed: Iterable[int] = ()) -> float:
        """log p(y | x without the removed units), in nats, summed over the target."""
        return self.log_probs([removed])[0]

    def mask_gradient(self, removed: Iterable[int] = ()) -> Float[Tensor, "units"]:
        """Derivative of log p(y) by each unit's mask, with the given units removed (nats)."""
        assert isinstance(self.scorer, GradientScorer)  # `Method.validate` was called before any work
        return _finite(self.scorer.mask_gradient(self.keep_mask(removed)), "gradient")

    def gradient_norms(self) -> Float[Tensor, "units"]:
        """‖∂ log p(y) / ∂ embedding‖₂ over each unit's tokens, at the whole prompt."""
        assert isinstance(self.scorer, GradientScorer)  # as above
        return _finite(self.scorer.gradient_norms(), "gradient")

    def attention_gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of log p(y) by log a, where a multiplies the attention paid to each unit (nats)."""
        assert isinstance(self.scorer, GradientScorer)  # as above
        return _finite(self.scorer.attention_gradient(factors), "gradient")

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """log p(y | m ⊙ x) at fractional masks m, one a row (nats)."""
        assert isinstance(self.scorer, GradientScorer)  # as above
        return _finite(self.scorer.relaxed_log_probs(factors), "log-probability of a fractional mask")

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """log p(y | m ⊙ x) and its derivative by m at fractional masks m, one a row (nats)."""
        assert isinstance(self.scorer, GradientScorer)  # as above
        log_probs, gradients = self.scorer.relaxed_gradients(factors)
        return _finite(log_probs, "log-probability of a fractional mask"), _finite(gradients, "gradient")

    def attention(self) -> Float[Tensor, "layers units"]:
        """Mean attention to each unit from the positions that predict the target, layer by layer."""
        assert isinstance(self.scorer, AttentionScorer)  # as above
        return _finite(self.scorer.attention(), "attention")

    def token_attention(self, removed: Iterable[int]) -> list[Float[Tensor, "tokens"]]:
        """Mean attention to each token of every unit from the positions that predict the target, others deleted."""
        assert isinstance(self.scorer, TokenAttentionScorer)  # as above
        return [_finite(weights, "attention") for weights in self.scorer.token_attention(self.keep_mask(removed))]

    def log_distributions(self, removals: Iterable[Iterable[int]]) -> Float[Tensor, "masks out vocab"]:
        """Log-probability of every token of the vocabulary at each target position with each set of units removed.

        In nats; −∞ for what cannot be. Nothing is remembered: distributions are large.

        Raises:
            ScoringError: the scorer gave NaN, or +∞.
        """
        import torch

        assert isinstance(self.scorer, DistributionScorer)  # as above
        sets = [frozenset(removed) for removed in removals]
        distributions = self.scorer.log_distributions(torch.stack([self.keep_mask(removed) for removed in sets]))
        if bool((distributions.isnan() | (distributions == math.inf)).any()):
            raise ScoringError("the scorer gives a distribution with NaN or infinity; try dtype float32")
        return distributions

    def approximation(self) -> Approximation | None:
        """A cheap approximation of the scores, which proposes and never decides; None where there is none."""
        return self.scorer.approximation() if isinstance(self.scorer, ContextScorer) else None

    def repeated_tokens(self) -> list[RepeatedToken]:
        """The words that units and target share; none from a scorer that knows no words."""
        return self.scorer.repeated_tokens() if isinstance(self.scorer, TextScorer) else []

    def keep_mask(self, removed: Iterable[int]) -> Bool[Tensor, "units"]:
        """The mask that is False at the removed units."""
        import torch

        keep = torch.ones(self.n_units, dtype=torch.bool)
        keep[list(removed)] = False
        return keep

    def certificate(self, removed: Iterable[int]) -> Certificate:
        """What the evaluations so far prove about a set.

        "optimal": all sets of its size were scored and none is better. "one-swap-optimal": every single swap was scored
        and none is better (the local optimum of Appendix A.1). A set is better if its log-probability is lower by more
        than `jopa.ordering.TOLERANCE` allows for rounding in float32. Where scores have noise (`NoisyScorer`), such as
        the rounding of a smaller dtype, a set that is not higher by more than the noise may be better, and counts so.
        """
        chosen = frozenset(removed)
        if chosen not in self._memo:
            self.log_prob(chosen)
        scores = {units: score for units, score in self.scored.items() if len(units) == len(chosen)}
        value = scores[chosen] + (self.scorer.noise if isinstance(self.scorer, NoisyScorer) else 0.0)
        if len(scores) == math.comb(self.n_units, len(chosen)):
            better = any(is_lower(score, value) for units, score in scores.items() if units != chosen)
            return "none" if better else "optimal"
        others = set(range(self.n_units)) - chosen
        swaps = [chosen - {out} | {into} for out in chosen for into in others]
        if all(swap in scores and not is_lower(scores[swap], value) for swap in swaps):
            return "one-swap-optimal"
        return "none"


def _require_scores(scores: Float[Tensor, "masks out"], sets: Sequence[frozenset[int]]) -> None:
    """Refuse scores that are no log-probabilities, naming the first set that has one, and too few or too many."""
    if len(scores) != len(sets):
        raise ScoringError(f"the scorer gives {len(scores)} rows of log-probabilities for {len(sets)} masks")
    finite = scores.isfinite()
    if not finite.all():
        row = int((~finite.all(dim=1)).nonzero()[0])
        strange = float(scores[row][~finite[row]][0])
        raise ScoringError(f"the scorer gives {strange} as a log-probability with units {sorted(sets[row])} removed")


def _finite(values: Tensor, what: str) -> Tensor:
    """What a scorer gave beside its scores; NaN and infinity, which have no rank, are an error."""
    if not values.isfinite().all():
        raise ScoringError(f"the scorer gives a {what} that is not finite; try dtype float32 or another method")
    return values


def joint_effects(problem: Problem, sets: Sequence[Iterable[int]]) -> list[float]:
    """L(S) of each set of units: log p(y|x) − log p(y|x without S), in nats."""
    base, *removed = problem.log_probs([(), *sets])
    return [base - log_prob for log_prob in removed]
