"""Whether two ways to run a model agree, the few tokens that they are tried with, and what an error in a trial means.

Knows ids, logits and errors, nothing of what is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jopa.errors import JopaError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOLERANCE = {"float64": 2e-5, "float32": 2e-5, "float16": 2e-2}
"""The most difference that rounding explains, as a share of the logits' own spread."""
_OTHER_TOLERANCE = 0.1
_NO_MEMORY = ("can't allocate memory", "not enough memory", "backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says on Linux, on Windows, on Apple's devices, and where cuBLAS finds no room for itself."""


def tried(attempt: Callable[[], bool], *, failed: bool = False) -> bool:
    """What an attempt answers, or `failed` where it raises an error: a model may fail in any way at what it cannot do.

    Errors that say nothing of the model pass through, so that nobody remembers them as its answer.

    Raises:
        JopaError: jopa itself refuses, or somebody has ended the work (`StoppedError`).
        MemoryError, RuntimeError: memory is too small; see `out_of_memory`.
    """
    try:
        return bool(attempt())
    except Exception as error:
        if isinstance(error, JopaError) or out_of_memory(error):
            raise
        return failed


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory was too small."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(said in str(error) for said in _NO_MEMORY)


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
