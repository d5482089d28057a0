"""Many rows after one cached context in one sequence: no row copies the context, each has its own mask.

    keys      context  |  row 1   row 2   row 3 …
    queries   row 1: the context as far as its mask shows it, and itself
              row 2: the same with its own mask; nothing of row 1 …

Rows stand one after another in a batch of one, and every token is told the position that it has in its own row. So the
keys and values of the context are in memory once, however many rows there are. The idea is that of attention to a
shared prefix (Hydragen, arXiv 2402.05099) and of tree attention, here by the mask alone.

A model that takes no such masks disagrees with rows in a batch of their own; `packs_rows` finds that out.

Knows ids, masks and caches, nothing of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids, tried
from jopa.model.language_model import LanguageModel, quiet_transformers
from jopa.scoring.batch_input import BatchInput, CallOptions, forward, target_logits, without_gradients
from jopa.scoring.prefix_cache import PrefixCache, cache_after
from jopa.scoring.probe import probe_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import Cache, PreTrainedModel

_CONTEXT, _OWN = 7, 5
"""Tokens of the context and of each row that are tried."""
_HIDDEN = ((2,), (), (4, 8))
"""The tokens that the rows that are tried do not see; the last is one of the row's own."""


def packed_logits(
    model: LanguageModel,
    ids: Int[Tensor, "n"],
    visible: Bool[Tensor, "rows all"],
    target_positions: Int[Tensor, "out"],
    context: PrefixCache,
    options: CallOptions,
) -> tuple[Float[Tensor, "rows out vocab"], float]:
    """One forward of rows that are alike but for what they see, without gradients.

    Args:
        model: the language model.
        ids: what follows the context, the same for all rows.
        visible: which tokens of context and row each row may attend to; a token always attends to itself.
        target_positions: the positions in `ids` whose predictions are wanted.
        context: what all rows begin with.
        options: how the model is called.

    Returns:
        Logits in the model's dtype, on its device; and the wall-clock seconds inside the model.
    """
    import torch

    n_rows, n, device = len(visible), len(ids), model.device
    positions = context.length + torch.arange(n)
    targets = (torch.arange(n_rows)[:, None] * n + target_positions).flatten()
    with without_gradients(model.model):
        cache = cache_after([context])
        arguments: dict[str, Any] = {
            "input_ids": ids.repeat(n_rows)[None].to(device),
            "attention_mask": _masks(model.model, cache, context.length, visible.to(device), n),
            "use_cache": True,
            options.cache_argument: cache,
        }
        if options.positions:
            arguments["position_ids"] = positions.repeat(n_rows)[None].to(device)
        logits, seconds = target_logits(model, arguments, [targets], options)
    return logits.view(n_rows, len(target_positions), -1), seconds


def _masks(
    model: PreTrainedModel, cache: Cache, length: int, visible: Bool[Tensor, "rows all"], n: int
) -> Tensor | dict[str, Tensor]:
    """What to hand to the model as `attention_mask`; one for each kind of layer."""
    import torch
    from transformers.masking_utils import create_masks_for_generate

    shape = torch.empty(1, n, 1, dtype=model.dtype, device=visible.device)
    # By place: releases of transformers name the cache differently.
    masks: Any = create_masks_for_generate(model.config, shape, None, cache)
    if isinstance(masks, dict):
        return {kind: _packed_mask(mask, length, visible, shape) for kind, mask in masks.items()}
    return _packed_mask(masks, length, visible, shape)


def _packed_mask(
    mask: Tensor | None, length: int, visible: Bool[Tensor, "rows all"], shape: Float[Tensor, "1 n 1"]
) -> Tensor:
    """The mask of a single row (None: causal, yes or no, or numbers to be added) as that of rows in one sequence."""
    import torch

    n_rows, n = len(visible), shape.shape[1]
    keys = torch.arange(length + n, device=visible.device)
    queries = keys[length:, None]
    single = (keys <= queries) if mask is None else mask[0, 0]
    allowed = visible[:, None] | (keys == queries)
    blocked = False if single.dtype == torch.bool else torch.finfo(single.dtype).min
    rows = torch.where(allowed, single, blocked)
    own = torch.full((n_rows, n, n_rows, n), blocked, dtype=single.dtype, device=visible.device)
    each = torch.arange(n_rows, device=visible.device)
    own[each, :, each] = rows[:, :, length:]
    return torch.cat([rows[:, :, :length].flatten(0, 1), own.view(n_rows * n, n_rows * n)], dim=1)[None, None]


def packs_rows(model: LanguageModel) -> bool:
    """Whether rows in one sequence score as rows in a batch of their own do, which `probe` holds to a plain forward.

    Tried once for each loaded model, on a few tokens.
    """
    kept: dict[str, Any] = vars(model)
    if "_packs_rows" not in kept:
        with model.lock, quiet_transformers():
            kept["_packs_rows"] = tried(lambda: _agrees(model))
    return kept["_packs_rows"]


def _agrees(model: LanguageModel) -> bool:
    import torch

    options = probe_of(model).cached_options
    ids = torch.tensor(probe_ids(model.model, model.tokenizer, _CONTEXT + _OWN, seed=2))
    whole = _part(model, ids, [PrefixCache(0)], options, keep=[_CONTEXT])
    with without_gradients(model.model):
        (context,) = forward(model, [whole])[0].prefixes
    visible = torch.ones(len(_HIDDEN), len(ids), dtype=torch.bool)
    for row, hidden in enumerate(_HIDDEN):
        visible[row, list(hidden)] = False
    own = ids[_CONTEXT:]
    packed, _ = packed_logits(model, own, visible, torch.arange(_OWN), context, options)
    agreed = []
    for row, logits in zip(visible, packed, strict=True):
        part = _part(model, own, [context], options, mask=row.long()[None])
        with without_gradients(model.model):
            alone = forward(model, [part])[0].logits[0].clone()
        shown = row[_CONTEXT:]  # what a hidden token itself predicts may differ: nobody reads it
        agreed.append(agree(logits[shown], alone[shown]))
    return all(agreed) and not agree(packed[0], packed[1])


def _part(
    model: LanguageModel,
    ids: Int[Tensor, "n"],
    context: Sequence[PrefixCache],
    options: CallOptions,
    *,
    keep: Sequence[int] = (),
    mask: Int[Tensor, "1 all"] | None = None,
) -> BatchInput:
    """One row, read at all of its positions."""
    import torch

    inputs = {"input_ids": ids[None].to(model.device)}
    return BatchInput(inputs, torch.arange(len(ids))[None], context, mask, keep, options=options)
