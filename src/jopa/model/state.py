"""The state of a model, and of what runs it, that is changed for the time of a block and put back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()
# The blocks that want quiet at the moment, and what was set before the first of them.
_QUIET: list[None] = []
_QUIET_BEFORE: list[tuple[int, int, bool]] = []
_QUIET_GUARD = threading.Lock()
_HOOKED = "_output_capturing_hooks_installed"
_COMPILED_CALL, _PLAIN_CALLABLE = "_compiled_call_impl", "_torchdynamo_orig_callable"
"""Where `module.compile()` keeps its code; where `torch.compile(function)` keeps the function."""


def model_lock(model: object) -> Any:
    """The re-entrant lock of a model: held while it runs, and while its hooks, mode or settings are changed."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout), without what `torch.compile` made, for the time of a block; both come back.

    Compiled code does not notice that hooks have changed, and is made anew for many lengths of rows.
    """
    training = [module for module in model.modules() if module.training]
    compiled = [found for module in model.modules() for found in _compiled(module)]
    if training:
        model.eval()
    for module, name, _made, plain in compiled:
        vars(module)[name] = plain
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, name, made, _plain in compiled:
            vars(module)[name] = made


def _compiled(module: nn.Module) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """The attributes of a module that hold compiled code: its name, that code, and what runs without it."""
    own = vars(module)
    if (made := own.get(_COMPILED_CALL)) is not None:
        yield module, _COMPILED_CALL, made, None
    made = own.get("forward")
    is_wrapper = getattr(made, "_torchdynamo_wrapper_id", id(made)) == id(made)  # `functools.wraps` copies attributes
    if is_wrapper and (plain := getattr(made, _PLAIN_CALLABLE, None)) is not None:
        yield module, "forward", made, plain


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No automatic garbage collection for the time of a block, such as one that imports torch and transformers.

    Their import creates millions of objects that stay, and the collector looks through them again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and loading bars from transformers and the hub's client for the time of a block."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    def levels() -> tuple[int, int, bool]:
        return logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()

    with _QUIET_GUARD:
        if not _QUIET:
            _QUIET_BEFORE[:] = [levels()]
            logging.set_verbosity_error()
            hub_logging.set_verbosity_error()
            logging.disable_progress_bar()
        _QUIET.append(None)
    try:
        yield
    finally:
        with _QUIET_GUARD:
            _QUIET.pop()
            if not _QUIET:
                verbosity, hub_verbosity, bars = _QUIET_BEFORE[0]
                logging.set_verbosity(verbosity)
                hub_logging.set_verbosity(hub_verbosity)
                if bars:
                    logging.enable_progress_bar()


@contextmanager
def hooks_kept(model: PreTrainedModel) -> Iterator[None]:
    """Take off the recording hooks that transformers leaves on a model that was asked for attentions."""
    before = {module: set(module._forward_hooks) for module in model.modules()}
    marked = [module for module in before if _HOOKED in vars(module)]
    try:
        yield
    finally:
        for module, hooks in before.items():
            for number in set(module._forward_hooks) - hooks:
                del module._forward_hooks[number]
            if module not in marked:
                vars(module).pop(_HOOKED, None)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """An attention implementation that returns its weights, for the time of a block."""
    from transformers import PreTrainedModel

    # The parts of a model, such as its text and its vision, may differ; what holds a part comes before it.
    configs: list[Any] = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [config._attn_implementation for config in configs]
    whole: Any = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(whole)
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
