"""How faithful chosen units are: remove them, let the model answer again, and compare (paper, section 5.2).

All sets of units chosen for one prompt, for all methods and k, are evaluated together: the counterfactual outputs are
generated in one batch, the original output is scored under all sets in another, and a set that several methods chose is
evaluated once. The scores of the whole prompt are computed once for each prompt.

The evaluation has its own removal, whatever removal the searches used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jopa.choices import checked_removal
from jopa.errors import ScoringError
from jopa.evaluation.metrics import METRICS, kl, kl_chosen, log_likelihood, probability_ratio, text_metrics
from jopa.evaluation.sentence_bert import SentenceBert
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel
from jopa.ordering import NAT, ranked
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.scoring.model_scorer import ModelScorer
from jopa.scoring.protocols import Model

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_SETS_AT_ONCE = 8
"""Sets whose full distributions are in memory at once: out × vocabulary numbers each."""


@dataclass(frozen=True)
class Evaluation:
    """The effect of removing a set of units, in nats and as text.

    Attributes:
        removed: the units, the one with the largest individual effect first.
        log_prob: log p(y|x), summed over the output.
        log_prob_removed: log p(y|x without the units).
        individual: L({i}) of each unit, in the order of `removed`.
        synergy: L(S) − Σ L({i}).
        counterfactual_output: what the model says without the units, generated greedily.
        metrics: a value for each of jopa's own metrics (`jopa.evaluation.metrics.METRICS.builtin`); `sentence_bert` is
            None where it was not asked for, `kl` where the model gives no whole distributions. Reports compute those of
            other packages.
    """

    removed: tuple[int, ...]
    log_prob: float
    log_prob_removed: float
    individual: tuple[float, ...]
    synergy: float
    counterfactual_output: str
    metrics: dict[str, float | None] = field(default_factory=dict)


class Evaluator:
    """Evaluates sets of units of one prompt and output under one removal.

    Args:
        model: the model.
        prompt: sets are sets of its units.
        output: what the model said; all of it counts, whatever its target.
        removal: how units are removed.
        max_new_tokens: the most tokens of a counterfactual output.
        similarity: the SentenceBert model, or None to leave that metric out.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        output: Output,
        removal: str,
        *,
        max_new_tokens: int,
        similarity: SentenceBert | None,
    ) -> None:
        whole = Output(output.ids, output.text, (0, len(output.ids)))
        self._model = model
        self._output = whole
        self._scorer = model.scorer(prompt, whole, checked_removal(removal))
        self._max_new_tokens = max_new_tokens
        self._similarity = similarity
        self._original: Float[Tensor, "out vocab"] | None = None
        self._alone: dict[int, float] = {}

    def evaluate(self, sets: Sequence[Iterable[int]]) -> list[Evaluation]:
        """Evaluate sets of units, in their order.

        Raises:
            ScoringError: the model gives a number that is no score, or a metric is infinite.
            PromptError: a set leaves nothing to predict the output from.
        """
        wanted = [tuple(sorted(set(units))) for units in sets]
        unique = list(dict.fromkeys(wanted))
        found: dict[tuple[int, ...], Evaluation] = {}
        for start in range(0, len(unique), _SETS_AT_ONCE):
            chunk = unique[start : start + _SETS_AT_ONCE]
            found.update(zip(chunk, self._evaluate(chunk), strict=True))
        return [found[units] for units in wanted]

    def _evaluate(self, sets: Sequence[tuple[int, ...]]) -> list[Evaluation]:
        import torch

        keep = torch.stack([self._keep_mask(units) for units in sets])
        whole, tokens_removed, divergences = self._scored(keep)
        kept_alone = self._scorer.log_probs(~keep).double().sum(dim=1).tolist()
        log_prob = log_likelihood(whole)
        for units, tokens in zip(sets, tokens_removed, strict=True):
            if len(units) == 1:
                self._alone[units[0]] = log_prob - log_likelihood(tokens)
        alone = self._individual_effects({unit for units in sets for unit in units}, log_prob)
        texts = [self._model.decode(ids) for ids in self._answers(keep)]
        similarities: list[float | None] = [None] * len(sets)
        if self._similarity is not None:
            similarities = list(self._similarity.similarities([(self._output.text, text) for text in texts]))

        evaluations = []
        for units, divergence, tokens, kept, text, similarity in zip(
            sets, divergences, tokens_removed, kept_alone, texts, similarities, strict=True
        ):
            log_prob_removed = log_likelihood(tokens)
            order = ranked([alone[unit] for unit in units], least_scale=NAT)
            individual = {units[i]: alone[units[i]] for i in order}
            values: dict[str, float | None] = {
                **text_metrics(self._output.text, text),
                "sentence_bert": similarity,
                "pr": probability_ratio(log_prob, log_prob_removed, len(whole)),
                "kl": divergence,
                "kl_chosen": kl_chosen(whole, tokens),
                "log_likelihood": log_prob_removed,
                "sufficiency": probability_ratio(log_prob, kept, len(whole)),
            }
            evaluations.append(
                Evaluation(
                    removed=tuple(individual),
                    log_prob=log_prob,
                    log_prob_removed=log_prob_removed,
                    individual=tuple(individual.values()),
                    synergy=log_prob - log_prob_removed - math.fsum(individual.values()),
                    counterfactual_output=text,
                    metrics={name: _finite(name, values[name]) for name in METRICS.builtin},
                )
            )
        return evaluations

    def _scored(
        self, keep: Bool[Tensor, "sets units"]
    ) -> tuple[Float[Tensor, "out"], list[Float[Tensor, "out"]], list[float | None]]:
        """Log-probability of each output token with nothing removed and under each mask, and the divergence of each.

        A model behind a server gives no whole distributions, and so no divergence.
        """
        if not isinstance(self._scorer, ModelScorer):
            import torch

            whole, *removed = self._scorer.log_probs(torch.cat([self._keep_mask(())[None], keep]))
            return whole, removed, [None] * len(removed)
        if self._original is None:
            self._original = self._scorer.log_distributions(self._keep_mask(())[None])[0]
        original = self._original
        distributions = self._scorer.log_distributions(keep)
        tokens = [self._of_output(distribution) for distribution in distributions]
        return self._of_output(original), tokens, [kl(distribution, original) for distribution in distributions]

    def _answers(self, keep: Bool[Tensor, "sets units"]) -> list[tuple[int, ...]]:
        """The ids that the model answers under each mask."""
        if isinstance(self._scorer, ModelScorer) and isinstance(self._model, LanguageModel):
            inputs = [self._scorer.removed_inputs(mask) for mask in keep]
            return [tuple(ids) for ids in self._model.generate_batch(inputs, max_new_tokens=self._max_new_tokens)]
        return [self._scorer.generate(mask, Generation(self._max_new_tokens)) for mask in keep]

    def _individual_effects(self, units: Iterable[int], log_prob: float) -> dict[int, float]:
        """L({i}) of each unit; each unit is scored once."""
        import torch

        new = sorted(set(units) - self._alone.keys())
        if new:
            scores = self._scorer.log_probs(torch.stack([self._keep_mask((unit,)) for unit in new])).double().sum(dim=1)
            self._alone.update((unit, log_prob - score) for unit, score in zip(new, scores.tolist(), strict=True))
        return self._alone

    def _of_output(self, distribution: Float[Tensor, "out vocab"]) -> Float[Tensor, "out"]:
        """Log-probability of each output token."""
        import torch

        return distribution.gather(1, torch.tensor(self._output.ids)[:, None])[:, 0]

    def _keep_mask(self, removed: Iterable[int]) -> Bool[Tensor, "units"]:
        import torch

        keep = torch.ones(self._scorer.n_units, dtype=torch.bool)
        keep[list(removed)] = False
        return keep


def _finite(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise ScoringError(f"metric '{name}' is {value} for this removal, so it cannot be averaged")
    return value
