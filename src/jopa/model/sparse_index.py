"""Models that attend only to the keys with the highest index scores.

Up to some number of tokens all keys are attended to. Beyond it the scores decide, and where they are equal, `topk`
does, whose choice depends on the length of the row. Then what such a model says after a token depends on how many
tokens follow it. The scores of zero embeddings are always equal; whether those of other tokens are is tried at
the length in question. Only models whose configuration names an index are tried.

Knows ids and hidden states, nothing of text.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids
from jopa.model.requirements import context_length, input_device

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_INDEXED_KEYS = re.compile(r"index(er)?_\w*(top_?k|budget)\w*\Z")
"""Fields of configurations that say how many keys the index leaves."""
_CUTS = (1, 3, 7)
"""Tokens that are taken from the end of a row to see whether the others change."""
_MIN_LENGTH = 256
"""Tokens; shorter rows are tried as if they had this many."""


class SparseIndex:
    """Finds whether equal index scores make a model's scores depend on the length of a row.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its special tokens are left out of what is tried.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._known: dict[int, bool] = {}

    @cached_property
    def limit(self) -> int | None:
        """Tokens up to which every key is attended to; None for a model without an index."""
        config: Any = self._model.config.get_text_config()
        found = [value for name, value in vars(config).items() if _INDEXED_KEYS.match(name)]
        return min((value for value in found if isinstance(value, int) and value > 0), default=None)

    def leaves_out_keys(self, n_tokens: int) -> bool:
        """Whether the index decides which of `n_tokens` tokens are attended to."""
        return self.limit is not None and n_tokens > self.limit

    def ties_at(self, n_tokens: int) -> bool:
        """Whether index scores of `n_tokens` tokens may be equal, so that the length of a row must not change."""
        if not self.leaves_out_keys(n_tokens):
            return False
        return self._has_zero_embedding or self._changes(self._rounded(n_tokens))

    @cached_property
    def _has_zero_embedding(self) -> bool:
        """Whether the embedding of some token is zero, as that of padding often is."""
        import torch

        weight = next(self._model.get_input_embeddings().parameters())
        if weight.device.type == "meta":  # offloaded: brought to its device when it is used
            ids = torch.arange(len(weight), device=input_device(self._model))
            with torch.no_grad():
                return any(not row.any(dim=1).all() for row in self._model.get_input_embeddings()(ids).split(4096))
        return not bool(weight.detach().any(dim=1).all())

    def _rounded(self, n_tokens: int) -> int:
        """The next power of two, as far as the model's positions go, so that few lengths are tried."""
        rounded = max(_MIN_LENGTH, 1 << (n_tokens - 1).bit_length())
        context = context_length(self._model.config.get_text_config())
        return max(n_tokens, rounded if context is None else min(rounded, context))

    def _changes(self, n_tokens: int) -> bool:
        """Whether the states of a row of `n_tokens` tokens change when it ends earlier."""
        if n_tokens not in self._known:
            whole = self._states(n_tokens)
            cuts = [cut for cut in _CUTS if cut < n_tokens]
            self._known[n_tokens] = not all(agree(self._states(n_tokens - cut), whole[:-cut]) for cut in cuts)
        return self._known[n_tokens]

    def _states(self, n_tokens: int) -> Tensor:
        """The last hidden states `[tokens, size]` of the first tokens of a row."""
        import torch

        ids = torch.tensor([probe_ids(self._model, self._tokenizer, n_tokens)], device=input_device(self._model))
        with torch.no_grad():
            return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
