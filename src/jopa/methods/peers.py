"""Other people's methods on the same problem, for comparison: Captum's leave-one-out, and ReAGent.

`Captum` runs Captum's own code (https://captum.ai/api/llm_attr.html) through its extension point, so that its numbers
and its time can be compared with ours.

`ReAGent` follows Zhao & Shan, "ReAGent: A Model-agnostic Feature Attribution Method for Generative Language Models"
(arXiv 2402.00794), with the whole output as its target, as in Appendix A.13 of the JoPA paper:

    s ← random
    repeat: replace a random share of the units by other tokens; Δ = p̃(y|x) − p̃(y|x̂)
            s_i ← s_i + logit((1 + Δ)/2) for the replaced units, s_i − logit((1 + Δ)/2) for the others
    until   p̃(y) hardly falls when all units but those with the highest s are replaced
    importance = softmax(s), averaged over independent chains

Both use the model itself, its ids and its tokenizer, not only scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.errors import ModelError, SettingError, reason_of, require_package
from jopa.method import Ranking, RankingMethod
from jopa.model.language_model import LanguageModel, evaluating, quiet_transformers
from jopa.ordering import ranked
from jopa.problem import Problem, ProblemShape
from jopa.prompt.building import Prompt
from jopa.scoring.protocols import Capability, LocalModelScorer

if TYPE_CHECKING:
    import torch
    from captum.attr import InterpretableInput, LLMAttribution, PerturbationAttribution
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    Replace = Callable[[Bool[Tensor, "rows units"]], Int[Tensor, "rows tokens"]]
    Probability = Callable[[Bool[Tensor, "rows units"]], Float[Tensor, "rows"]]

_PREDICTIONS = 20
"""The most probable words that the masked model predicts in place of a unit."""
_CONTEXT = 200
"""Characters on each side of a unit that the masked model sees."""
_LOGIT_EPS = 1e-6
"""Probabilities are kept this far from 0 and 1 before a logit."""


@dataclass(frozen=True)
class Captum(RankingMethod):
    """Leave-one-out by Captum itself: `LLMAttribution(FeatureAblation(model))` (the paper's "Captum" row).

    Its scores are those of `ablation`, log p(y|x) − log p(y|x without i) in nats. Units are deleted, and ids are
    carried: nothing is tokenised again. Captum's cached way of scoring token by token, its default, gives wrong
    numbers with transformers 5, so it is never used. Captum takes log-softmax in the model's own dtype.

    `details` has the cost of Captum's code: "captum_forwards", and "captum_ffe" in full-forward equivalents.

    Attributes:
        token_by_token: one forward for every output token, as Captum does by default but without its cache; otherwise
            one forward for each removed unit. The scores are the same.
    """

    token_by_token: bool = False

    name: ClassVar[str] = "captum"
    summary: ClassVar[str] = "Captum's own leave-one-out, for comparison and timing"
    cost: ClassVar[str] = "1 + T"
    requires: ClassVar[Capability] = "model"

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse any removal but "delete", and work without Captum, too; see `Method.validate`."""
        super().validate(shape, k)
        if shape.removal != "delete":
            raise SettingError(f"method 'captum' can only delete units, got removal '{shape.removal}'")
        require_package("method 'captum'", "captum", "baselines")

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Captum's attribution of every unit, in nats."""
        scorer = problem.scorer
        assert isinstance(scorer, LocalModelScorer)  # `validate` was asked before any work
        lengths: list[int] = []
        attributions = self._attribute(problem, scorer, lengths)
        scorer.count(sum(lengths))
        start, end = scorer.output.target
        full_length = len(scorer.prompt.ids) + len(scorer.output.ids)
        return Ranking(
            tuple(attributions[start:end].double().sum(dim=0).tolist()),
            "every unit removed alone by Captum",
            {"captum_forwards": len(lengths), "captum_ffe": sum(lengths) / full_length},
        )

    def _attribute(self, problem: Problem, scorer: LocalModelScorer, lengths: list[int]) -> Float[Tensor, "out units"]:
        """Captum's attribution of each output token to each unit; adds the tokens of each forward to `lengths`."""
        import torch
        from captum.attr import FeatureAblation

        model = scorer.model.model
        targets = scorer.output.ids[: scorer.output.target[1]]
        inputs = unit_input(problem, scorer)
        attribution = llm_attribution(FeatureAblation(model), targets, inputs)
        with scorer.model.lock:
            # Captum calls `model.forward` directly, which runs no hooks of the model itself.
            hook = model.get_input_embeddings().register_forward_hook(
                lambda _module, _arguments, embeddings: lengths.append(embeddings.shape[0] * embeddings.shape[1])
            )
            try:
                with evaluating(model):
                    result = attribution.attribute(
                        inputs,
                        target=torch.tensor(targets),
                        use_cached_outputs=False,
                        forward_in_tokens=self.token_by_token,
                    )
            finally:
                hook.remove()
        assert result.token_attr is not None
        return result.token_attr.cpu()


def unit_input(problem: Problem, scorer: LocalModelScorer) -> InterpretableInput:
    """The prompt as Captum sees it: one feature a unit, and ids without the tokens of the absent ones."""
    import torch
    from captum.attr import InterpretableInput

    class UnitInput(InterpretableInput):
        n_itp_features = problem.n_units
        values = [unit.text for unit in scorer.prompt.units]  # noqa: RUF012  # declared so by Captum
        asked = 0

        def to_tensor(self) -> Tensor:
            return torch.ones(1, problem.n_units, dtype=torch.float32)

        def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
            present = self.to_tensor() if perturbed_tensor is None else perturbed_tensor
            self.asked += 1
            problem.progress(self.asked, problem.n_units + 1)
            return scorer.removed_inputs(present[0].bool().cpu())["input_ids"]

    return UnitInput()


def llm_attribution(
    method: PerturbationAttribution, ids: tuple[int, ...], inputs: InterpretableInput
) -> LLMAttribution:
    """Captum's attribution of output `ids`, by one of its own methods, to the features of `unit_input`."""
    from captum.attr import LLMAttribution

    # Typed as a whole tokenizer, of which Captum calls no more than _TokenNames has.
    attribution = LLMAttribution(method, _TokenNames(ids))  # type: ignore[arg-type]
    # Captum refuses inputs of a class that is not on its list; the list, of fixed length, is its own classes.
    attribution.SUPPORTED_INPUTS = (type(inputs),)  # type: ignore[assignment]
    return attribution


class _TokenNames:
    """Takes the place of the tokenizer, which Captum uses to label output tokens.

    For that Captum tokenises the decoded output again, and fails where the output is cut inside a character.
    """

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._ids = ids

    def decode(self, ids: Tensor) -> str:
        """A point for each id."""
        return "." * len(ids)

    def __call__(self, text: str, **_options: object) -> dict[str, Any]:
        """The output's ids, each at a character of its own."""
        return {"input_ids": list(self._ids), "offset_mapping": [(i, i + 1) for i in range(len(text))]}


@dataclass(frozen=True)
class ReAGent(RankingMethod):
    """Recursive Attribution Generator: random replacements raise or lower every unit's importance.

    p̃ = p(y)^(1/len(y)) is the length-normalised probability of the target, so that Δ has the same range as with the
    source's probability of one token. The source stops when the output token is still among the model's first three
    after replacing the units of low importance; for a whole output that becomes: p̃ is at least `recovered` of the
    original.

    Units are replaced, not removed, and keep their number of tokens: the problem's removal does not matter for the
    ranking. The words that replace a unit also influence the output, and a redundant pair is found only by draws
    that replace both. Scores are probabilities, not nats.

    Attributes:
        steps: updates of each chain at most.
        chains: independent runs whose importances are averaged.
        ratio: share of the units replaced in each update (the source: 0.3).
        kept: share of the units, those of highest importance, that the stopping test does not replace.
        recovered: share of p̃(y|x) at which the stopping test ends a chain.
        masked_lm: hub id or folder of a masked language model (the source takes RoBERTa) whose predictions replace
            units; by default they are replaced by tokens drawn uniformly from the vocabulary. The model predicts a
            unit's replacements once, with the rest of the text in place; those that are not the unit's number of tokens
            long are left out, and a unit without any is replaced by drawn tokens. Its own work is not counted in
            full-forward equivalents.
    """

    steps: int = 40
    chains: int = 5
    ratio: float = 0.3
    kept: float = 0.3
    recovered: float = 0.8
    masked_lm: str | None = None

    name: ClassVar[str] = "reagent"
    summary: ClassVar[str] = "ReAGent: importance updated recursively from random replacements"
    cost: ClassVar[str] = "1 + 2 × chains × steps"
    requires: ClassVar[Capability] = "model"

    def __post_init__(self) -> None:
        for setting, least in (("steps", self.steps), ("chains", self.chains)):
            if least < 1:
                raise SettingError(f"{setting} must be at least 1, got {least}")
        for setting, share in (("ratio", self.ratio), ("kept", self.kept)):
            if not 0 < share < 1:
                raise SettingError(f"{setting} must lie between 0 and 1, both excluded, got {share}")
        if not self.recovered > 0:
            raise SettingError(f"recovered must be above 0, got {self.recovered}")

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Importance of every unit: non-negative, with sum 1.

        Raises:
            ModelError: the masked language model cannot be loaded.
        """
        import torch

        scorer = problem.scorer
        assert isinstance(scorer, LocalModelScorer)  # `validate` was asked before any work
        random = torch.Generator().manual_seed(seed)
        replace = _replacement(scorer, self.masked_lm, random)

        def probability(replaced: Bool[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
            return _normalised_probability(scorer.replaced_log_probs(replace(replaced)))

        importance, updates, n_recovered = self._run_chains(problem, probability, random)
        return Ranking(
            tuple(importance.softmax(dim=1).mean(dim=0).tolist()),
            f"the output recovered in {n_recovered} of {self.chains} chains, at most {self.steps} steps each",
            {"updates": updates.tolist()},
        )

    def _run_chains(
        self, problem: Problem, probability: Probability, random: torch.Generator
    ) -> tuple[Float[Tensor, "chains units"], Int[Tensor, "chains"], int]:
        """The final s of every chain, its updates, and how many chains passed the stopping test."""
        import torch

        n_units = problem.n_units
        n_replaced, n_kept = (max(1, round(share * n_units)) for share in (self.ratio, self.kept))
        original = _normalised_probability(problem.token_log_probs([()]))
        importance = torch.rand(self.chains, n_units, generator=random, dtype=torch.double)
        updates = torch.zeros(self.chains, dtype=torch.long)
        running = torch.arange(self.chains)
        for step in range(1, self.steps + 1):
            chosen = _highest(torch.rand(len(running), n_units, generator=random, dtype=torch.float32), n_replaced)
            update = torch.logit((1 + original - probability(chosen)) / 2, eps=_LOGIT_EPS)[:, None]
            importance[running] += torch.where(chosen, update, -update)
            updates[running] += 1
            unimportant = ~_highest(importance[running], n_kept)
            running = running[probability(unimportant) < self.recovered * original]
            problem.progress(step, self.steps)
            if len(running) == 0:
                break
        return importance, updates, self.chains - len(running)


def _normalised_probability(log_probs: Float[Tensor, "rows out"]) -> Float[Tensor, "rows"]:
    """p̃ = p(y)^(1/len(y)) of each row."""
    return log_probs.double().mean(dim=1).exp()


def _highest(values: Float[Tensor, "rows units"], count: int) -> Bool[Tensor, "rows units"]:
    """True at the `count` highest values of each row, the first of those that tie."""
    import torch

    indices = torch.tensor([ranked(row, count) for row in values.tolist()])
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, indices, True)


def _replacement(scorer: LocalModelScorer, masked_lm: str | None, random: torch.Generator) -> Replace:
    """A function from the units to replace, a mask a row, to the prompt's ids with other tokens in their place."""
    import torch

    units = scorer.prompt.units
    original = torch.tensor(scorer.prompt.ids)
    vocabulary = _ordinary_ids(scorer.model)
    candidates_of = _replacement_ids(masked_lm, scorer.model, scorer.prompt) if masked_lm else [[] for _ in units]

    def draw(unit: int) -> Int[Tensor, "tokens"]:
        if candidates_of[unit]:
            return torch.tensor(
                candidates_of[unit][int(torch.randint(len(candidates_of[unit]), (1,), generator=random))]
            )
        return vocabulary[torch.randint(len(vocabulary), (len(units[unit].positions),), generator=random)]

    def replace(chosen: Bool[Tensor, "rows units"]) -> Int[Tensor, "rows tokens"]:
        ids = original.repeat(len(chosen), 1)
        for row, unit in chosen.nonzero().tolist():
            ids[row, list(units[unit].positions)] = draw(unit)
        return ids

    return replace


def _ordinary_ids(model: LanguageModel) -> Int[Tensor, "ids"]:
    """The vocabulary without its special tokens."""
    import torch

    tokenizer = model.tokenizer
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added.union(tokenizer.all_special_ids)
    size = min(len(tokenizer), model.model.config.get_text_config().vocab_size)
    return torch.tensor([i for i in range(size) if i not in special])


def _replacement_ids(name: str, model: LanguageModel, prompt: Prompt) -> list[list[tuple[int, ...]]]:
    """For every unit, ids of what a masked language model would put in its place, as many as the unit has tokens."""
    predict = _masked_predictor(name)
    found = []
    for unit in prompt.units:
        start = len(unit.text) - len(unit.text.lstrip())
        end = max(start, len(unit.text.rstrip()))
        lead, own, trail = unit.text[:start], unit.text[start:end], unit.text[end:]
        before = prompt.text[max(0, unit.start - _CONTEXT) : unit.start] + lead
        after = trail + prompt.text[unit.end : unit.end + _CONTEXT]
        candidates = [model.encode_continuation(lead + word + trail) for word in predict(before, after) if word != own]
        found.append([ids for ids in candidates if len(ids) == len(unit.positions)])
    return found


def _masked_predictor(name: str) -> Callable[[str, str], list[str]]:
    """A function from the text before and after a gap to the likeliest words in it.

    Raises:
        ModelError: there is no such masked language model.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForMaskedLM.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the masked language model '{name}': {reason_of(error):.300}") from error
    if tokenizer.mask_token is None:
        raise ModelError(f"'{name}' has no mask token; give a masked language model such as FacebookAI/roberta-base")

    def predict(before: str, after: str) -> list[str]:
        inputs = tokenizer(before + tokenizer.mask_token + after, return_tensors="pt", truncation=True)
        gaps = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        if len(gaps) != 1:
            return []
        with torch.no_grad():
            logits = model(**inputs).logits[0, gaps[0]]
        logits[tokenizer.all_special_ids] = -math.inf
        likeliest = logits.topk(min(_PREDICTIONS, len(logits))).indices.tolist()
        words = [tokenizer.decode([i]).strip() for i in likeliest]
        return [word for word in words if word and not word.startswith("##")]

    return predict
