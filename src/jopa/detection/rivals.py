"""What two published defences see in a prompt, for comparison with the score of `detect`.

    Token Highlighter    arXiv 2412.18171: the affirmation loss −log p("Sure! …" | x) says how willing the model is to
                         answer; the tokens with the largest norm of its gradient by their embedding, a quarter of the
                         prompt, are critical; "soft removal" multiplies their embeddings by 0.5
    SmoothLLM            arXiv 2310.03684, random swaps: in each of N copies a tenth of the characters is replaced by
                         random printable ones; an attack is brittle, so copies are answered otherwise

Both papers defend and report success rates of attacks. The numbers that are made of them here, so that prompts can be
put in an order, are ours: how much of the willingness depends on the critical tokens, and how much less likely the
answer to the whole prompt becomes, and how often its kind changes, in a perturbed copy.

Written from the papers' text. Local models only: gradients by embeddings are needed.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from jopa.detection.answer_kinds import kind_of
from jopa.errors import PromptError, SettingError
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel
from jopa.preparation import prepare_output, prepare_prompt
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.scoring.protocols import GradientScorer

AFFIRMATION = "Sure! I'd like to help you with this."
"""The affirmative answer of Token Highlighter."""
CRITICAL = 0.25
"""Share of the prompt's tokens that Token Highlighter calls critical (its α)."""
SHRINKING = 0.5
"""What their embeddings are multiplied by (its β)."""
COPIES = 5
"""Perturbed copies of a prompt (SmoothLLM's N)."""
SWAPPED = 0.1
"""Share of a copy's characters that is replaced (SmoothLLM's q)."""


@dataclass(frozen=True)
class Highlighted:
    """What Token Highlighter sees in a prompt.

    Attributes:
        affirmation: log p of the affirmative answer, in nats a token.
        influence: of each unit, the L2 norm of the gradient of log p by its embeddings.
        critical: the units with the largest influence, a quarter of all, in the prompt's order.
        effect: by how much shrinking the critical units' embeddings lowers `affirmation`.
        ffe: model work in full-forward equivalents.
    """

    affirmation: float
    influence: tuple[float, ...]
    critical: tuple[int, ...]
    effect: float
    ffe: float


@dataclass(frozen=True)
class Perturbed:
    """What SmoothLLM's copies of a prompt do.

    Attributes:
        loss: by how much less likely the whole prompt's answer is after a copy, in nats a token; the copies' mean.
        changed: the share of copies whose own answer is of another kind.
        refused: the share of copies whose own answer is a refusal.
        ffe: model work in full-forward equivalents, generation left out.
    """

    loss: float
    changed: float
    refused: float
    ffe: float


def highlighted(model: LanguageModel, prompt: Prompt) -> Highlighted:
    """Find the tokens that the model's willingness to answer depends on.

    Raises:
        SettingError: the model gives no gradients.
    """
    import torch

    ids = model.encode_continuation(AFFIRMATION)
    scorer = prepare_output(model, prompt, output=Output(ids, model.decode(ids), (0, len(ids)))).scorer("zero")
    if not isinstance(scorer, GradientScorer):
        raise SettingError("Token Highlighter needs gradients, which this model does not give; load it")
    norms = scorer.gradient_norms()
    n_critical = max(1, math.ceil(CRITICAL * len(norms)))
    critical = sorted(torch.topk(norms, n_critical).indices.tolist())
    factors = torch.ones(2, len(norms), dtype=torch.float32)
    factors[1, critical] = SHRINKING
    whole, shrunk = (scorer.relaxed_log_probs(factors).double() / len(ids)).tolist()
    return Highlighted(whole, tuple(norms.tolist()), tuple(critical), whole - shrunk, scorer.ffe)


def perturbed(model: LanguageModel, prompt: Prompt, *, max_new_tokens: int, seed: int) -> Perturbed:
    """Answer perturbed copies of a prompt.

    Args:
        model: the model.
        prompt: the whole prompt.
        max_new_tokens: the most tokens of an answer.
        seed: of the swapped characters.
    """
    said = model.generate_ids(prompt.ids, Generation(max_new_tokens)) or tuple(sorted(model.stop_ids))[:1]
    answer = Output(said, model.decode(said), (0, len(said)))
    drawn = random.Random(seed)
    copies = []
    for _ in range(COPIES):
        try:
            copies.append(prepare_prompt(model, with_swapped_characters(prompt.text, drawn), unit="token"))
        except PromptError:  # nothing but blanks is left of a very short prompt
            copies.append(prompt)
    kinds = [kind_of(model.decode(ids)) for ids in _answers(model, copies, max_new_tokens)]
    losses, ffe = [], 0.0
    whole = _log_prob(model, prompt, answer)
    for copy in copies:
        losses.append((whole - _log_prob(model, copy, answer)) / len(said))
        ffe += len(copy.ids) / len(prompt.ids)
    own = kind_of(answer.text)
    return Perturbed(
        loss=math.fsum(losses) / len(losses),
        changed=sum(kind != own for kind in kinds) / len(kinds),
        refused=sum(kind == "refusal" for kind in kinds) / len(kinds),
        ffe=ffe,
    )


def with_swapped_characters(text: str, drawn: random.Random) -> str:
    """The text with a share (`SWAPPED`) of its characters replaced by random printable ones, at least one."""
    characters = list(text)
    for place in drawn.sample(range(len(characters)), max(1, int(SWAPPED * len(characters)))):
        characters[place] = drawn.choice(string.printable)
    return "".join(characters)


def _answers(model: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[tuple[int, ...]]:
    import torch

    inputs = [{"input_ids": torch.tensor([prompt.ids], device=model.device)} for prompt in prompts]
    return model.generate_batch(inputs, max_new_tokens=max_new_tokens)


def _log_prob(model: LanguageModel, prompt: Prompt, answer: Output) -> float:
    """log p of an answer after a whole prompt, in nats."""
    import torch

    scorer = prepare_output(model, prompt, output=answer).scorer("delete")
    return float(scorer.log_probs(torch.ones(1, scorer.n_units, dtype=torch.bool)).double().sum())
