"""A model's own forward of one row of ids, without batch, mask or positions: the reference for faster paths.

Knows ids, logits and caches, nothing of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jopa.model.language_model import LanguageModel
from jopa.model.state import evaluating
from jopa.scoring.batch_input import without_gradients
from jopa.scoring.prefix_cache import PrefixCache, output_cache

if TYPE_CHECKING:
    from torch import Tensor


def plain_logits(model: LanguageModel, row: Sequence[int]) -> Tensor:
    """Logits `[tokens, vocab]` of one row, computed without a cache."""
    import torch

    ids = torch.tensor([row], device=model.device)
    with without_gradients(model.model), evaluating(model.model):
        return model.model(input_ids=ids, use_cache=False).logits[0].clone()


def whole_cache(model: LanguageModel, ids: Sequence[int]) -> PrefixCache:
    """The model's own cache after these ids; of length 0 if it gives none."""
    import torch

    given = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad(), evaluating(model.model):
        cache = output_cache(model.model(input_ids=given, use_cache=True))
    return PrefixCache(0) if cache is None else PrefixCache(len(given[0]), whole=cache)
