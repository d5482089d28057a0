"""Masks that scale the attention paid to single tokens.

A factor a_j multiplies the attention that later tokens pay to token j, before attention is normalised: log a_j is added
to its attention logits. With a_j = 1 nothing changes; with a_j near 0 the token is hidden from all others. A
token's attention to itself does not change.

Knows models and attention masks, nothing of units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import Cache, PreTrainedModel


def scaled_attention_masks(
    model: PreTrainedModel,
    embeddings: Float[Tensor, "1 n size"],
    cache: Cache | None,
    log_factors: Float[Tensor, "all"],
) -> Tensor | dict[str, Tensor]:
    """The `attention_mask` to give to the model: its own masks plus log a, one for each kind of layer.

    Args:
        model: one whose attention takes masks of numbers, as `probe` finds.
        embeddings: the input of one row.
        cache: of the tokens before it.
        log_factors: log a of each token, the cache included; masks are differentiable by it.
    """
    from transformers.masking_utils import create_masks_for_generate

    # By position: releases of transformers have different names for the cache.
    masks: Any = create_masks_for_generate(model.config, embeddings, None, cache)
    if isinstance(masks, dict):
        return {kind: _added(mask, log_factors, embeddings) for kind, mask in masks.items()}
    return _added(masks, log_factors, embeddings)


def _added(
    mask: Tensor | None, log_factors: Float[Tensor, "all"], embeddings: Float[Tensor, "1 n size"]
) -> Float[Tensor, "1 1 n all"]:
    """A mask as transformers makes it (None: causal, yes or no, or numbers to be added), with log a added."""
    import torch

    n_queries, n_keys = embeddings.shape[1], len(log_factors)
    keys = torch.arange(n_keys, device=embeddings.device)
    queries = keys[n_keys - n_queries :, None]
    added = torch.where(keys == queries, 0.0, log_factors.to(embeddings))[None, None]
    if mask is None:
        mask = (keys <= queries)[None, None]
    if mask.dtype == torch.bool:
        return torch.where(mask, added, torch.finfo(added.dtype).min)
    return mask + added
