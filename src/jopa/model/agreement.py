"""Whether two ways to run a model agree, and the few tokens that they are tried with.

Knows ids and logits, nothing of what is tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOLERANCE = {"float64": 2e-5, "float32": 2e-5, "float16": 2e-2}
"""The most difference that rounding explains, as a share of the logits' own spread."""
_OTHER_TOLERANCE = 0.1


def agree(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits `[…, vocab]` are those expected at every position, up to a constant and to rounding.

    NaN agrees with NaN: that a model gives no numbers is said where its scores are read.
    """
    if logits.shape != expected.shape:
        return False
    kind = str(expected.dtype).removeprefix("torch.")
    expected = expected.double()
    logits, missing = logits.double().to(expected.device), expected.isnan()
    if not bool((logits.isnan() == missing).all()):
        return False
    logits, expected = logits.masked_fill(missing, 0.0), expected.masked_fill(missing, 0.0)
    difference = logits - expected
    difference = difference - difference.mean(-1, keepdim=True)
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    share = difference.norm(dim=-1) / spread.clamp(min=1e-12)
    return bool((share <= _TOLERANCE.get(kind, _OTHER_TOLERANCE)).all())


def probe_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n: int, seed: int = 0) -> list[int]:
    """Ids to try a model with: spread over its vocabulary, the same at every call, no special ones if possible."""
    size = len(next(model.get_input_embeddings().parameters()))
    special = set(tokenizer.all_special_ids) | {0}
    ordinary = [token for token in range(min(size, 4096)) if token not in special] or list(range(size))
    return [ordinary[(7919 * (i + 1) + 104729 * seed + i * i) % len(ordinary)] for i in range(n)]
