"""Windows of attention, and blocks that a model reads its input in: what it does beyond them is tried at their length.

A model is tried on rows of a few tokens first. Beyond a window it may run other code: whether its tokens are still
independent of those after them is tried when an input is longer than the window, once for each window.

Knows ids and logits, nothing of text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids, tried
from jopa.model.requirements import context_length, input_device, require_same

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WINDOWS = re.compile(r"\w*(window|chunk|block)(_?size|_len|_length)?\Z|local_attention\Z")
"""Fields of configurations that say how many tokens a window or a block has."""
_BEYOND = 9
"""Tokens of a row after the window."""
_CUTS = (1, 6)
"""Tokens that are taken from the end of a row to see whether the others change."""
_COMPARED = 16
"""Tokens whose logits are compared: the last ones of the window, and those after it."""


class AttentionWindows:
    """Finds whether tokens beyond a window are independent of those after them.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its special tokens are left out of what is tried.
        name: the model's name in messages.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "unnamed") -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._known: dict[int, bool] = {}

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        """Tokens of each window, rising."""
        config: Any = self._model.config.get_text_config()
        found = (value for name, value in vars(config).items() if _WINDOWS.match(name))
        return tuple(sorted({value for value in found if type(value) is int and value > 1}))

    def exceeded(self, n_tokens: int) -> tuple[int, ...]:
        """The lengths of the windows, in tokens, that `n_tokens` tokens do not fit into."""
        return tuple(length for length in self._lengths if length < n_tokens)

    def change_at(self, n_tokens: int) -> bool:
        """Whether the length of a row of `n_tokens` tokens changes, by rounding at most, what the model says.

        Raises:
            ModelError: it changes it by more, so that the model is not causal there.
        """
        return not all(self._agrees(window) for window in self.exceeded(n_tokens))

    def _agrees(self, window: int) -> bool:
        if window not in self._known:
            self._known[window] = tried(lambda: self._independent(window))
        return self._known[window]

    def _independent(self, window: int) -> bool:
        """Whether the last tokens of a row a little longer than a window say the same where the row ends earlier."""
        longest = min(window + _BEYOND, context_length(self._model.config.get_text_config()) or window + _BEYOND)
        ids = probe_ids(self._model, self._tokenizer, (longest + 1) // 2)
        ids = [*ids, *ids][:longest]  # equal tokens may have equal scores, and the length then decides between them
        n_compared = min(_COMPARED, longest)
        whole = self._logits(ids, n_compared)
        steady = True
        for cut in _CUTS:
            if longest - cut > window and n_compared > cut:
                part = self._logits(ids[:-cut], n_compared - cut)
                require_same(part, whole[:-cut], self._name, f"in rows of more than {window} tokens")
                steady = steady and agree(part, whole[:-cut])
        return steady

    def _logits(self, ids: Sequence[int], n_last: int) -> Tensor:
        import torch

        with torch.no_grad():
            return last_logits(
                self._model, n_last, input_ids=torch.tensor([list(ids)], device=input_device(self._model))
            )


def last_logits(model: PreTrainedModel, n_last: int, **inputs: Tensor) -> Tensor:
    """Logits `[n_last, vocab]` of the last tokens of one row, by a plain forward.

    Long rows have logits of gigabytes, so the model is told to make no others where it can be.
    """
    given: dict[str, Any] = dict(inputs)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = n_last
    return model(**given, use_cache=False).logits[0, -n_last:]
