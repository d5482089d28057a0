"""Generation by plain forwards: each new token by a forward over everything before it, without a cache.

It is slow, and right for every causal model. Knows ids and logits, nothing of text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from jopa.model.threads import follow_other_work

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def continue_by_plain_forwards(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    max_new_tokens: int,
    temperature: float,
    stop_ids: Collection[int],
    restore: Callable[[], None],
    on_new: Callable[[Sequence[int]], None] | None = None,
) -> list[int]:
    """The ids that continue one row, the stop token included.

    Args:
        model: the model, in evaluation mode.
        inputs: what its forward takes: `input_ids` (`Int[1, tokens]`) or `inputs_embeds`, and perhaps
            `attention_mask` and `position_ids`.
        max_new_tokens: the most tokens to generate.
        temperature: 0 for the arg max; otherwise of the softmax that is sampled from, with torch's own random state.
        stop_ids: the tokens that end an answer.
        restore: called before each forward; gives the model the rotary factors that it starts with.
        on_new: called with the new ids so far.
    """
    import torch

    inputs = dict(inputs)
    mask = inputs.get("attention_mask")
    if mask is None or bool(mask.all()):  # the plain forward is told neither
        inputs.pop("attention_mask", None)
        inputs.pop("position_ids", None)
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < max_new_tokens:
            restore()
            follow_other_work()
            own = {name: value.clone() for name, value in inputs.items()}  # CTRL scales embeddings in place
            logits = model(**own, use_cache=False).logits[0, -1].float()
            token = logits.argmax() if temperature == 0 else _sampled(logits, temperature)
            ids.append(int(token))
            if on_new:
                on_new(ids)
            if ids[-1] in stop_ids:
                break
            inputs = _longer(model, inputs, ids[-1])
    return ids


def _sampled(logits: Tensor, temperature: float) -> Tensor:
    import torch

    return torch.multinomial((logits.double() / temperature).softmax(-1), 1)


def _longer(model: PreTrainedModel, inputs: dict[str, Tensor], token: int) -> dict[str, Tensor]:
    """The inputs with one token more."""
    import torch

    given = inputs.get("input_ids", inputs.get("inputs_embeds"))
    assert given is not None
    new = torch.tensor([[token]], device=given.device)
    following = {
        "input_ids": lambda: new,
        "inputs_embeds": lambda: model.get_input_embeddings()(new).to(given),
        "attention_mask": lambda: torch.ones_like(new),
        "position_ids": lambda: inputs["position_ids"][:, -1:] + 1,
    }
    return {name: torch.cat([value, following[name]()], dim=1) for name, value in inputs.items()}
