"""Key-value caches of a beginning that many rows share.

A `Prefix` holds one row's keys and values, layer by layer. Any shorter beginning of it is a view, and all rows of a
batch read the same memory: nothing is copied until attention puts a row's own keys behind them, one layer at a time.
Sliding-window layers keep every key here, since a shorter beginning needs keys that their window has left behind; the
model's own mask still hides what is outside the window.

A model whose memory is more than keys and values (recurrent or linear-attention layers, layers that share caches)
cannot go back to a shorter beginning. For it the cache is taken whole and copied for each batch.

Knows caches, nothing of ids or masks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a model remembers of the first `length` tokens of a row.

    Attributes:
        length: tokens.
        layers: keys and values of each layer, `Float[1, heads, length, size]`; empty if only `whole` is known.
        whole: a cache that can be copied but not cut.
    """

    length: int
    layers: tuple[tuple[Float[Tensor, "1 heads length size"], Float[Tensor, "1 heads length size"]], ...] = ()
    whole: Cache | None = None

    def first(self, length: int) -> Prefix:
        """The beginning of `length` tokens; a view."""
        if length == self.length:
            return self
        assert self.layers and 0 <= length <= self.length
        return Prefix(length, tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers))

    def for_rows(self, n_rows: int, keep: bool = False) -> Cache:
        """A cache to give to a forward of `n_rows` rows; if asked to, it keeps what they add."""
        if self.whole is not None:
            own = copy.deepcopy(self.whole)
            own.batch_repeat_interleave(n_rows)
            return own
        from transformers import Cache

        return Cache(layers=[_shared_layer()(keys, values, keep) for keys, values in self.layers])


def can_be_cut(model: PreTrainedModel) -> bool:
    """Whether all that the model remembers of a row is keys and values, one pair a layer and token."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    config: Any = model.config.get_text_config()
    if getattr(config, "num_kv_shared_layers", 0):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def new_cache() -> Cache:
    """A cache that keeps every key and value of a forward from the first token on."""
    from transformers import DynamicCache

    return DynamicCache()


def recorded(cache: Cache, lengths: Sequence[int]) -> list[Prefix]:
    """The first tokens of each row that a forward has run with this cache, `lengths` of them."""
    pairs: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
    prefixes = []
    for row, length in enumerate(lengths):
        layers = [(keys[row : row + 1, :, :length], values[row : row + 1, :, :length]) for keys, values in pairs]
        if len(lengths) > 1:  # a view would hold the whole batch
            layers = [(keys.clone(), values.clone()) for keys, values in layers]
        prefixes.append(Prefix(length, tuple(layers)))
    return prefixes


@cache
def _shared_layer() -> type:
    """A cache layer whose first keys are the same for all rows; transformers' class must be imported to make it."""
    import torch
    from transformers.cache_utils import DynamicLayer

    class SharedLayer(DynamicLayer):
        """Puts each row's own keys and values behind the shared ones, and forgets them unless asked to keep them."""

        def __init__(self, keys: Tensor, values: Tensor, keep: bool) -> None:
            super().__init__()
            self.keys, self.values = keys, values
            self.keep = keep
            self.is_initialized = True

        def update(
            self, key_states: Tensor, value_states: Tensor, *_arguments: object, **_options: object
        ) -> tuple[Tensor, Tensor]:
            n_rows = len(key_states)
            assert self.keys is not None and self.values is not None
            keys = torch.cat([self.keys.expand(n_rows, -1, -1, -1), key_states], dim=2)
            values = torch.cat([self.values.expand(n_rows, -1, -1, -1), value_states], dim=2)
            if self.keep:
                self.keys, self.values = keys, values
            return keys, values

    return SharedLayer
