"""The sets that a search scores first: segments of the prompt, and the words that the answer repeats.

Knows numbers of units and masks alone: no scorer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.methods.joint.state import Units


def segments(
    n_units: int, affordable: int, open_ks: Sequence[int], has_gradients: bool, config: SearchConfiguration = STANDARD
) -> list[Units]:
    """The prompt in segments of about equal length: single units where the budget allows it.

    Args:
        n_units: number of units of the prompt.
        affordable: masks that the budget affords.
        open_ks: the sizes that are searched for; at least one.
        has_gradients: whether gradients will say more about single units.
        config: the share of the masks.
    """
    share = min(config.start_share, len(open_ks) / sum(open_ks))
    n_segments = min(n_units, math.ceil(share * affordable))
    if has_gradients and n_segments < n_units:
        n_segments = math.ceil(n_segments / 2)
    n_segments = max(2, n_segments)  # a single one would be the whole prompt
    ends = [round(i * n_units / n_segments) for i in range(n_segments + 1)]
    return [frozenset(range(start, end)) for start, end in pairwise(ends)]


def repeated_sets(
    words: Mapping[Units, float], affordable: int, largest_k: int, config: SearchConfiguration = STANDARD
) -> list[Units]:
    """The repeated words that are removed by themselves, each wherever it stands in the prompt.

    Args:
        words: the units of each word, and the nats that the answer loses of it without the prompt; the most first.
        affordable: masks that the budget affords.
        largest_k: the largest size that is searched for; a word with more units is left out.
        config: the least nats, the share of the masks, and the units that there is room for.
    """
    found: list[Units] = []
    most, room = math.ceil(config.repeated_share * affordable), config.shortlist_units
    for units, nats in words.items():
        if nats > config.min_repeated_nats and len(units) <= min(room, largest_k) and len(found) < most:
            found.append(units)
            room -= len(units)
    return found
