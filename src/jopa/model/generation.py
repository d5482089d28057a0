"""The output to explain: what the model generates for a prompt, or the caller's own text.

Knows the model and its prompt, nothing of units, masks or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.errors import PromptError, SettingError
from jopa.model.language_model import LanguageModel
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span

if TYPE_CHECKING:
    from torch import Tensor

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, the steps done and, if known, the steps in all."""

OnText = Callable[[str, str], None]
"""Called with what is being done and the text generated so far."""


@dataclass(frozen=True)
class Generation:
    """How the model's answers are generated.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        temperature: 0 for greedy; otherwise the softmax temperature to sample with.
        seed: of the sampling.
    """

    max_new_tokens: int = 100
    temperature: float = 0.0
    seed: int = 0


def answer(
    model: LanguageModel,
    prompt: Prompt,
    generation: Generation,
    *,
    output: str | None = None,
    target: Span | str | None = None,
    progress: OnProgress | None = None,
    on_text: OnText | None = None,
) -> Output:
    """The output to explain: what the model generates for the prompt, or the caller's own text.

    Raises:
        PromptError: the prompt does not fit the model, or the output is empty.
        SettingError: the target does not lie in the output.
    """
    n_new = generation.max_new_tokens if output is None else 0
    ids = () if output is None else model.encode_continuation(output)
    require_room(model, len(prompt.ids), n_new or len(ids))
    if output is None:
        import torch

        inputs = torch.tensor([prompt.ids], device=model.device)
        ids = generate(model, {"input_ids": inputs}, generation, "answering", progress, on_text)
        if not ids:
            raise PromptError(
                "the model's output is empty: it stopped at once; give the text to explain (output) or the beginning "
                "of an answer (prefill)"
            )
    text = model.decode(ids) if output is None else output
    return Output(ids, text, _target(model, ids, text, target))


def require_room(model: LanguageModel, n_prompt: int, n_output: int) -> None:
    """Refuse a prompt that, with its output, is longer than the model's context."""
    context = model.context_length
    if context is not None and n_prompt + n_output > context:
        raise PromptError(
            f"the prompt has {n_prompt} tokens and the output up to {n_output}, together more than the model's context "
            f"of {context} tokens; shorten the prompt or lower max_new_tokens"
        )


def generate(
    model: LanguageModel,
    inputs: dict[str, Tensor],
    generation: Generation,
    stage: str,
    progress: OnProgress | None,
    on_text: OnText | None,
) -> tuple[int, ...]:
    """The ids that the model generates from `inputs`; the callbacks are told that this is `stage`."""

    def count(done: int) -> None:
        if progress:
            progress(stage, done, generation.max_new_tokens)

    def read(ids: tuple[int, ...]) -> None:
        if on_text:
            on_text(stage, model.decode(ids))

    return model.generate(
        inputs,
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        seed=generation.seed,
        on_token=count,
        on_ids=read if on_text else None,
    )


def _target(model: LanguageModel, ids: Sequence[int], text: str, target: Span | str | None) -> Span:
    """The token span of the output whose probability counts."""
    if target is None:
        return 0, len(ids)
    if not isinstance(target, str):
        return target
    if text.count(target) != 1 or not target:
        raise SettingError(
            f"the target {target!r} occurs {text.count(target)} times in the output; give a text that occurs once, "
            "or a range of output tokens such as 0:10"
        )
    first = text.index(target)
    last = first + len(target)
    ends = [len(model.decode(ids[: i + 1])) for i in range(len(ids))]
    inside = [i for i, end in enumerate(ends) if end > first and (ends[i - 1] if i else 0) < last]
    return inside[0], inside[-1] + 1
