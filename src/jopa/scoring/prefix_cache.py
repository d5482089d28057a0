"""Key-value caches of a beginning that many rows share.

A `PrefixCache` holds one row's keys and values, layer by layer. Any shorter beginning of it is a view. Each row of a
batch may begin with another prefix; if all rows have the same one, they read the same memory. Shorter prefixes are
padded with zeros at the left, which a mask must hide. Nothing is copied until attention appends the rows' own keys, one
layer at a time. Sliding-window layers keep every key here, because a shorter beginning needs keys outside the window of
a longer one; the model's own mask still hides what is outside the window.

The cache of a model that has more state than keys and values (recurrent or linear-attention layers, layers that share
caches) cannot be cut to a shorter beginning. It is used whole, and copied for each batch.

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
    """The state of a model after the first `length` tokens of a row.

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
    """A cache for a forward whose rows begin with these prefixes; with `keep`, it keeps the rows' own keys.

    All prefixes end where the rows' own tokens begin. If they cannot be cut, all must be the same one.
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
        lengths: how many tokens of each row; a row with 0 is left out.
        missing: the number of padding zeros before each row.
    """
    # Only models whose layers all have keys and values come here, though a cache may have other layers.
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
"""The names of a cache in arguments and outputs, in different releases and models."""


def output_cache(output: ModelOutput) -> Cache | None:
    """The cache in the output of a forward, under any of its names."""
    found = dict(output.items())
    return next((found[name] for name in CACHE_NAMES if found.get(name) is not None), None)


@cache
def _prefix_layer_class() -> type:
    """A cache layer that begins with prefixes; transformers' class must be imported to make it."""
    import torch
    import torch.nn.functional as F
    from transformers.cache_utils import DynamicLayer

    def appended(first: list[Tensor], own: Tensor) -> Tensor:
        longest = max(rows.shape[2] for rows in first)
        first = [F.pad(rows, (0, 0, longest - rows.shape[2], 0)) if rows.shape[2] < longest else rows for rows in first]
        rows = first[0].expand(len(own), -1, -1, -1) if len(first) == 1 else torch.cat(first)
        return torch.cat([rows, own], dim=2)

    class PrefixLayer(DynamicLayer):
        """Appends each row's own keys and values to its prefix; keeps the result only with `keep`."""

        def __init__(self, first: Sequence[tuple[Tensor, Tensor]], keep: bool) -> None:
            super().__init__()
            self.keys, self.values = max(first, key=lambda pair: pair[0].shape[2])  # the length that transformers sees
            self.first = first  # one for all rows, or one a row
            self.keep = keep
            self.is_initialized = True

        def update(
            self, key_states: Tensor, value_states: Tensor, *_arguments: object, **_options: object
        ) -> tuple[Tensor, Tensor]:
            keys = appended([keys for keys, _ in self.first], key_states)
            values = appended([values for _, values in self.first], value_states)
            if self.keep:
                self.keys, self.values = keys, values
            return keys, values

    return PrefixLayer
