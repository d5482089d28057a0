"""What the page asks of its model beside explanations: its vocabulary, an end to its work, its memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jopa.errors import StoppedError
from jopa.model.language_model import LanguageModel
from jopa.remote.client import stop_requests_when
from jopa.scoring.protocols import Model


def vocabulary_size(model: Model) -> int:
    """How many token ids a model has; of one behind a server, as many as its tokenizer knows."""
    if isinstance(model, LanguageModel):
        return model.model.config.get_text_config().vocab_size
    return len(model.tokenizer)


@contextmanager
def stoppable(model: Model, is_stopped: Callable[[], bool], seconds: float) -> Iterator[None]:
    """For the time of a block, the model's next forward raises `StoppedError` if it is stopped or time is up.

    Requests to a server are cancelled while they are in flight.

    Args:
        model: the model.
        is_stopped: asked before each forward.
        seconds: the longest that the block may take.
    """
    end = time.monotonic() + seconds

    def check(*_: object) -> None:
        if is_stopped():
            raise StoppedError("stopped")
        if time.monotonic() > end:
            raise StoppedError(
                f"stopped after {seconds:g} seconds, this page's limit: take fewer or larger units, a shorter prompt "
                "or answer, a smaller budget, or another method"
            )

    if not isinstance(model, LanguageModel):
        with stop_requests_when(check):
            yield
        return
    hook = model.model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def release_memory() -> None:
    """Give the memory that a job has used back to the system; its allocators keep it otherwise."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
