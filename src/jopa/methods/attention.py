"""Methods that read attention weights: what the model attends to while it predicts y.

Averaged over heads and over the positions that predict the target tokens (the last token of the input, which predicts
the first output token, and every output token but the last), summed over a unit's tokens; see `ModelScorer.attention`.

    attention         mean over all layers
    last-attention    the last layer

Sees units and weights, never a tokenizer. Attention is a weight in a sum, not an effect on log p(y)
(https://arxiv.org/abs/1902.10186): it has no sign, it depends neither on the values it weighs nor on other paths, and
the first tokens receive much of it whatever they say (https://arxiv.org/abs/2309.17453).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
