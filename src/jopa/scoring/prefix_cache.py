"""Key-value caches of a beginning that many rows share.

A `PrefixCache` holds one row's keys and values, layer by layer. Any shorter beginning of it is a view. Rows of a
batch may
each begin with another prefix; if it is the same for all, they read the same memory. Before a shorter one stand zeros,
which a mask must hide. Nothing is copied until attention puts the rows' own keys behind it, one layer at a time.
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
    from transformers import Cache
    from transformers.utils.generic import ModelOutput


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """What a model remembers of the first `length` tokens of a row.

    Attributes:
        length: tokens.
        layers: keys and values of each layer, `Float[1, heads, length, size]`; empty if only `whole` is known.
        whole: a cache that can be copied but not cut.
    """

    length: int
    layers: tuple[tuple[Float[Tensor, "1 heads length size"], Float[Tensor, "1 heads length size"]], ...] = ()
    whole: Cache | None = None

    def first(self, length: int) -> PrefixCache:
        """The beginning of `length` tokens; a view."""
        if length == self.length:
            return self
        assert self.layers and 0 <= length <= self.length
        return PrefixCache(length, tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers))


def cache_after(prefixes: Sequence[PrefixCache], keep: bool = False) -> Cache:
    """A cache to give to a forward whose rows begin with these; if asked to, it keeps what they add.

    All of them end where the rows' own tokens begin. Those that cannot be cut must be one and the same.
    """
    whole = prefixes[0].whole
    if whole is not None:
        own = copy.deepcopy(whole)
        if len(prefixes) > 1:
            own.batch_repeat_interleave(len(prefixes))
        return own
    from transformers import Cache

    if all(prefix is prefixes[0] for prefix in prefixes):
        prefixes = prefixes[:1]
    return Cache(
        layers=[_prefix_layer_class()(layer, keep) for layer in zip(*(p.layers for p in prefixes), strict=True)]
    )


def new_cache() -> Cache:
    """A cache that keeps every key and value of a forward from the first token on."""
    from transformers import DynamicCache

    return DynamicCache()


def extract_prefix_caches(cache: Cache, lengths: Sequence[int], missing: Sequence[int]) -> list[PrefixCache]:
    """The first tokens of rows that a forward has run with this cache.

    Args:
        cache: as the forward left it.
        lengths: how many tokens of each row; a row of which none are wanted is left out.
        missing: the zeros that stand before each row.
    """
    # Only models whose layers all have keys and values come here; the type of a cache knows of others.
    pairs: list[tuple[Any, Any]] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
    prefixes = []
    for row, (length, first) in enumerate(zip(lengths, missing, strict=True)):
        if not length:
            continue
        of_row = (slice(row, row + 1), slice(None), slice(first, first + length))
        layers = [(keys[of_row], values[of_row]) for keys, values in pairs]
        if len(lengths) > 1:  # a view would hold the whole batch
            layers = [(keys.clone(), values.clone()) for keys, values in layers]
        prefixes.append(PrefixCache(length, tuple(layers)))
    return prefixes


CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What releases and models call a cache, in arguments and outputs."""


def output_cache(output: ModelOutput) -> Cache | None:
    """The cache in what a forward returned, under whichever name."""
    found = dict(output.items())
    return next((found[name] for name in CACHE_NAMES if found.get(name) is not None), None)


@cache
def _prefix_layer_class() -> type:
    """A cache layer that begins with prefixes; transformers' class must be imported to make it."""
    import torch
    import torch.nn.functional as F
    from transformers.cache_utils import DynamicLayer

    def behind(first: list[Tensor], own: Tensor) -> Tensor:
        longest = max(rows.shape[2] for rows in first)
        first = [F.pad(rows, (0, 0, longest - rows.shape[2], 0)) if rows.shape[2] < longest else rows for rows in first]
        rows = first[0].expand(len(own), -1, -1, -1) if len(first) == 1 else torch.cat(first)
        return torch.cat([rows, own], dim=2)

    class PrefixLayer(DynamicLayer):
        """Puts each row's own keys and values behind the first ones, and forgets them unless asked to keep them."""

        def __init__(self, first: Sequence[tuple[Tensor, Tensor]], keep: bool) -> None:
            super().__init__()
            self.keys, self.values = max(first, key=lambda pair: pair[0].shape[2])  # the length that transformers sees
            self.first = first  # one for all rows, or one a row
            self.keep = keep
            self.is_initialized = True

        def update(
            self, key_states: Tensor, value_states: Tensor, *_arguments: object, **_options: object
        ) -> tuple[Tensor, Tensor]:
            keys = behind([keys for keys, _ in self.first], key_states)
            values = behind([values for _, values in self.first], value_states)
            if self.keep:
                self.keys, self.values = keys, values
            return keys, values

    return PrefixLayer
