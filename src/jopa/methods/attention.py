"""Methods that read attention weights: what the model attends to while it predicts y.

Averaged over heads and over the positions that predict the target tokens (the last token of the input, which predicts
the first output token, and every output token but the last), summed over a unit's tokens; see `ModelScorer.attention`.

    attention         mean over all layers
    last-attention    the last layer

    attn-trace        mean over all layers, of each unit's strongest tokens only, with random other units left out

Sees units and weights, never a tokenizer. Attention is a weight in a sum, not an effect on log p(y)
(https://arxiv.org/abs/1902.10186): it has no sign, it depends neither on the values it weighs nor on other paths, and
the first tokens receive much of it whatever they say (https://arxiv.org/abs/2309.17453).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from jopa.errors import SettingError
from jopa.method import Ranking, RankingMethod
from jopa.problem import Problem
from jopa.scoring.protocols import Capability


@dataclass(frozen=True)
class Attention(RankingMethod):
    """Attention paid to each unit by the positions that predict the target, mean over all layers and heads.

    It does not say whether a unit raises or lowers the probability of y.
    """

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "mean attention to each unit over all layers"
    cost: ClassVar[str] = "1"
    requires: ClassVar[Capability] = "attention"

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit by its attention; the seed changes nothing."""
        layers = problem.attention()
        return Ranking(tuple(layers.mean(dim=0).tolist()), f"{len(layers)} layers read")


@dataclass(frozen=True)
class LastAttention(RankingMethod):
    """Attention paid to each unit by the positions that predict the target, in the last layer, mean over its heads.

    In the last layer every position mixes information of those before it, so a unit's own position need not represent
    the unit any more.
    """

    name: ClassVar[str] = "last-attention"
    summary: ClassVar[str] = "mean attention to each unit in the last layer"
    cost: ClassVar[str] = "1"
    requires: ClassVar[Capability] = "attention"

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit by its attention; the seed changes nothing."""
        return Ranking(tuple(problem.attention()[-1].tolist()), "the last layer read")


@dataclass(frozen=True)
class AttnTrace(RankingMethod):
    """AttnTrace: the attention of each unit's strongest tokens, averaged over random parts of the context.

    Wang et al. 2025, "AttnTrace: Attention-based Context Traceback for Long-Context LLMs" (arXiv 2508.03793). Attention
    is averaged over all layers, heads and positions that predict the target. A unit's score is the mean over its `top`
    tokens with the most attention, so that a long unit of little interest gains nothing by its length. Where several
    units say the same, attention is divided among them; so it is measured again and again with a random share of the
    units in the context, and a unit's score is the mean over the draws it is in; it is 0 if there is none.

    The other units are deleted from the input, whatever the removal. It does not say whether a unit raises or lowers
    the probability of y.

    Attributes:
        top: tokens of a unit, those with the most attention, that count.
        subsamples: draws of the context.
        share: of the units in each draw.
    """

    top: int = 5
    subsamples: int = 30
    share: float = 0.4

    name: ClassVar[str] = "attn-trace"
    summary: ClassVar[str] = "AttnTrace: attention of each unit's strongest tokens over draws of the context"
    cost: ClassVar[str] = "subsamples × share"
    requires: ClassVar[Capability] = "token-attention"

    def __post_init__(self) -> None:
        for setting, value in (("top", self.top), ("subsamples", self.subsamples)):
            if value < 1:
                raise SettingError(f"{setting} must be at least 1, got {value}")
        if not 0 < self.share <= 1:
            raise SettingError(f"share must be above 0 and at most 1, got {self.share}")

    def with_budget(self, budget: int) -> AttnTrace:
        """The same method with `budget` draws."""
        return replace(self, subsamples=budget)

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Mean attention of each unit's strongest tokens."""
        import torch

        random = torch.Generator().manual_seed(seed)
        n_units = problem.n_units
        n_drawn = max(1, round(self.share * n_units))
        totals, draws = [0.0] * n_units, [0] * n_units
        for done in range(1, self.subsamples + 1):
            order = torch.randperm(n_units, generator=random).tolist()
            weights = problem.token_attention(removed=order[n_drawn:])
            for unit in order[:n_drawn]:
                own = weights[unit]
                totals[unit] += float(own.topk(min(self.top, len(own))).values.double().mean())
                draws[unit] += 1
            problem.progress(done, self.subsamples)
        scores = [total / max(1, count) for total, count in zip(totals, draws, strict=True)]
        return Ranking(tuple(scores), f"{self.subsamples} draws of {n_drawn} of {n_units} units read")
