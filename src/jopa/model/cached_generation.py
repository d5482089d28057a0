"""Generation by transformers' own `generate`, with a cache, under settings that leave the distribution as it is.

Knows ids and settings, nothing of text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from jopa.model.generation import TokenListener
from jopa.model.threads import follow_other_work

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def continue_with_cache(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    max_new_tokens: int,
    temperature: float,
    stop_ids: Collection[int],
    on_new: Callable[[Sequence[int]], None] | None = None,
) -> list[list[int]]:
    """The ids that continue each row; what follows the first stop token of a row is undefined.

    Args:
        model: the model, in evaluation mode.
        inputs: what its forward takes, `[rows, tokens]` each (or `inputs_embeds`), padded at the left.
        max_new_tokens: the most tokens to generate.
        temperature: 0 for the arg max; otherwise of the softmax that is sampled from, with torch's own random state.
        stop_ids: the tokens that end an answer.
        on_new: called with the new ids of a single row so far.
    """
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList

    settings: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        settings = {"do_sample": True, "temperature": float(temperature), "top_k": 0, "top_p": 1.0}
    plain = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=sorted(stop_ids) or None, pad_token_id=0, **settings
    )
    listener: Any = TokenListener(on_new) if on_new else None
    declared = model.generation_config
    try:
        model.generation_config = plain
        with torch.no_grad():
            # PreTrainedModel is not typed as the GenerationMixin that causal models are.
            generated = model.generate(  # type: ignore[operator]
                **inputs,
                generation_config=plain,
                streamer=listener,
                stopping_criteria=StoppingCriteriaList([_between_tokens]),
            )
    finally:
        model.generation_config = declared
    n_given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return [row[n_given:] for row in generated.tolist()]


def _between_tokens(ids: Tensor, _scores: object, **_others: object) -> Tensor:
    """Asked after each token whether rows end; none does, but the threads follow the machine."""
    import torch

    follow_other_work()
    return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
