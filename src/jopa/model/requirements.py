"""What a model must be so that its numbers can be trusted, and what its configuration says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError, reason_of
from jopa.model.agreement import agree
from jopa.model.state import evaluating, quiet_transformers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions")
"""Fields of configurations that say how many tokens a model takes."""
_MAX_CHANGE = 0.05
"""Of the largest logit; a longer row may round differently, above all in low precision."""
_LONG_ROWS = (80, 79, 63, 41, 29, 18, 9, 5)
"""Tokens of a row that a quantised model is tried with, and of its beginnings."""
_LENGTHENING = ("linear", "dynamic", "yarn")
"""Kinds of scaled rotary positions whose factor may not be counted in the configuration's length."""


def require_causal(model: Any, name: str) -> bool:
    """Refuse a model that is not loaded, or whose first token sees later ones.

    Returns:
        Whether what it says after a token is the same, to rounding, whatever follows it or is in another row. It is
        not where numbers are quantised by their range in the whole batch, or products run by blocks of rows.

    Raises:
        ModelError: it is no causal language model, or its weights are not there.
    """
    import torch

    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ModelError(f"'{name}' is an encoder-decoder model; jopa explains causal (decoder-only) ones")
    try:
        headless = model.get_output_embeddings() is None
    except (AttributeError, NotImplementedError):
        headless = True
    if headless:
        raise ModelError(f"'{name}' has no language-model head; jopa explains causal language models")
    device = input_device(model)
    if device.type == "meta" and not _readable(device):
        raise ModelError(
            f"'{name}' is on the meta device, so it has no weights; load them (model.to_empty is not enough)"
        )
    size = next(model.get_input_embeddings().parameters()).shape[0]
    pairs = torch.tensor([[3, 5], [3, 6]], device=device) % size
    try:
        with quiet_transformers(), evaluating(model), torch.no_grad():
            first = model(input_ids=pairs, use_cache=False).logits[:, 0]
            longer = torch.tensor([[3, 5, 7, 4, 6, 9]], device=device) % size
            followed = model(input_ids=longer, use_cache=False).logits[0, 0]
            steady = agree(first[0], followed) and agree(first[1], followed)
            if steady and not _has_plain_weights(model):
                steady = _is_steady_in_long_rows(model, device, size)
    except Exception as error:  # the model's own code may raise anything
        raise ModelError(
            f"'{name}' cannot read two tokens, as a causal language model does: {reason_of(error):.200}"
        ) from error
    first, followed = first.float(), followed.float()
    if (first[0] - first[1]).abs().max() > 1e-3 * first.abs().max():
        raise ModelError(
            f"'{name}' reads its input in both directions (an encoder-only model); jopa explains causal language models"
        )
    require_same(followed, first[0], name)
    return steady


def require_same(logits: Tensor, expected: Tensor, name: str, where: str = "") -> None:
    """Refuse a model whose logits after a token change much with the number of tokens behind it.

    Args:
        logits: those of one row.
        expected: those of a row of another length at the same tokens.
        name: the model's name in messages.
        where: in which rows, if not in all.

    Raises:
        ModelError: they differ by more than rounding explains.
    """
    logits, expected = logits.float(), expected.float()
    if (logits - expected).abs().max() > _MAX_CHANGE * expected.abs().max():
        raise ModelError(
            f"what '{name}' says after a token changes with the number of tokens behind it"
            f"{f' {where}' if where else ''}, so a forward over an output does not give the probability with which "
            "the model generates it; jopa explains causal language models"
        )


def _has_plain_weights(model: Any) -> bool:
    """Whether no weight is quantised, as far as one can see: all parameters are plain tensors of floating point."""
    import torch

    if getattr(model.config, "quantization_config", None) is not None:
        return False
    return all(type(p.data) is torch.Tensor and p.is_floating_point() for p in model.parameters())


def _is_steady_in_long_rows(model: Any, device: torch.device, size: int) -> bool:
    """Whether a long row scores as its beginnings do: quantised products run by blocks, and short rows fill none."""
    import torch

    longest = min(_LONG_ROWS[0], context_length(model.config.get_text_config()) or _LONG_ROWS[0])
    ids = torch.tensor([[(7 * i * i + 3 * i + 5) % size for i in range(longest)]], device=device)
    whole, *parts = (model(input_ids=ids[:, :n], use_cache=False).logits[0] for n in _LONG_ROWS)
    return all(agree(part, whole[: len(part)]) for part in parts)


def without_replicas(model: Any) -> Any:
    """The model inside torch's wrappers that compile it or run copies of it on several devices; else it itself."""
    import torch

    while True:
        if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(plain := getattr(model, "_orig_mod", None), torch.nn.Module):  # of `torch.compile`
            model = plain
        else:
            return model


def without_peft(model: Any, name: str) -> Any:
    """The model that adapters of a PEFT model were put into; any other model as it is.

    Raises:
        ModelError: the PEFT model adds tokens of its own, which its base knows nothing of, or decides anew for each
            input which weights count (X-LoRA, activated LoRA), so that the model inside says something else.
    """
    import torch

    config = getattr(model, "active_peft_config", None) if hasattr(model, "get_base_model") else None
    if config is None:
        return model
    if getattr(config, "is_prompt_learning", False):
        raise ModelError(
            f"'{name}' is a PEFT model with learned prompt tokens ({config.peft_type.value}), which no text stands "
            "for; jopa takes adapters of weights, such as LoRA"
        )
    inside = model.get_base_model()
    # A few tokens, and among them those behind which an activated LoRA counts.
    tokens = [3, 5, 7, *(getattr(config, "alora_invocation_tokens", None) or ()), 4, 6]
    n_tokens = next(inside.get_input_embeddings().parameters()).shape[0]
    ids = torch.tensor([[token % n_tokens for token in tokens]], device=input_device(inside))
    with quiet_transformers(), evaluating(model), torch.no_grad():
        found, expected = inside(input_ids=ids, use_cache=False).logits, model(input_ids=ids, use_cache=False).logits
    if not agree(found, expected):
        raise ModelError(
            f"'{name}' is a PEFT model ({config.peft_type.value}) that chooses its weights anew for each input; jopa "
            "takes adapters whose weights stay the same, such as LoRA"
        )
    return inside


def input_device(model: Any) -> torch.device:
    """Where token ids enter a model: the device of its input embeddings, or where those are brought when they are used.

    accelerate keeps the weights of an offloaded layer elsewhere, and the layer's hook knows where it runs.
    """
    import torch

    embeddings = model.get_input_embeddings()
    device = next(embeddings.parameters()).device
    hook = getattr(embeddings, "_hf_hook", None)
    for part in getattr(hook, "hooks", [hook]):
        place = getattr(part, "execution_device", None)
        if device.type == "meta" and place is not None:
            return torch.device(place)
    return device


def _readable(device: torch.device) -> bool:
    """Whether what lies on a device has values; torch's own meta device has only shapes."""
    import torch

    try:
        torch.zeros((), device=device).item()
    except RuntimeError:
        return False
    return True


def context_length(config: Any) -> int | None:
    """The most tokens that a text configuration allows, scaled rotary positions counted in; None if it does not say."""
    found = [getattr(config, name, None) for name in _LENGTHS]
    lengths = [length for length in found if isinstance(length, int) and length > 0]
    if not lengths:
        return None
    length = min(lengths)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # some have one for each kind of layer
    for kind in kinds:
        factor = kind.get("factor")
        if kind.get("rope_type", kind.get("type")) in _LENGTHENING and isinstance(factor, int | float):
            length = max(length, int((kind.get("original_max_position_embeddings") or min(lengths)) * factor))
    return length
