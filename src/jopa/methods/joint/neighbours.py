"""Sets of units as rows of 0 and 1, one column a unit, and the neighbours of a set.

Knows numbers alone: no scorer, no search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def to_masks(sets: Iterable[Iterable[int]], columns: Sequence[int]) -> Float[Tensor, "sets columns"]:
    """One row a set, 1 at its units."""
    import torch

    column = {unit: i for i, unit in enumerate(columns)}
    rows = [[column[unit] for unit in units] for units in sets]
    masks = torch.zeros(len(rows), len(column), dtype=torch.double)
    masks[[i for i, row in enumerate(rows) for _ in row], [j for row in rows for j in row]] = 1
    return masks


def from_masks(masks: Float[Tensor, "sets columns"], columns: Sequence[int]) -> list[frozenset[int]]:
    """The units of each row."""
    return [frozenset(columns[j] for j, inside in enumerate(row) if inside) for row in masks.tolist()]


def swap_neighbours(masks: Float[Tensor, "sets columns"]) -> Float[Tensor, "neighbours columns"]:
    """Every set that one swap makes of one of these; a set may occur more than once."""
    import torch

    row, out, into = ((masks[:, :, None] > 0) & (masks[:, None, :] == 0)).nonzero(as_tuple=True)
    rows = masks[row]
    index = torch.arange(len(row))
    rows[index, out], rows[index, into] = 0, 1
    return rows


def adjacent_neighbours(units: frozenset[int], n_units: int) -> list[frozenset[int]]:
    """Every set in which one unit is replaced by the one before or after it in the prompt, in the prompt's order."""
    steps = ((unit, unit + step) for unit in sorted(units) for step in (-1, 1))
    return [units - {unit} | {to} for unit, to in steps if 0 <= to < n_units and to not in units]


def replacements(units: frozenset[int], order: Sequence[int], n_paired: int) -> list[frozenset[int]]:
    """Every one-swap neighbour of a set, and every set that replaces its two weakest units by two strong others.

    Sets that replace a weak unit by a strong one come first.

    Args:
        units: the set.
        order: all units, the strongest first.
        n_paired: how many of the strongest units outside the set are tried in pairs.
    """
    inside = [unit for unit in reversed(order) if unit in units]
    others = [unit for unit in order if unit not in units]
    swaps = [(i + j, {inside[i]}, {others[j]}) for i in range(len(inside)) for j in range(len(others))]
    if len(inside) > 1:
        pairs = combinations(range(min(len(others), n_paired)), 2)
        swaps += [(i + j, set(inside[:2]), {others[i], others[j]}) for i, j in pairs]
    swaps.sort(key=lambda swap: swap[0])
    return [units - leaving | entering for _, leaving, entering in swaps]


def unique_rows(masks: Float[Tensor, "sets columns"]) -> Float[Tensor, "unique columns"]:
    """Each row once, in lexicographic order: what `torch.unique` gives, by comparing bits and not numbers."""
    import numpy as np
    import torch

    bits = np.packbits(masks.numpy() > 0, axis=1)
    first = np.unique(bits.view(f"V{bits.shape[1]}")[:, 0], return_index=True)[1]
    return masks[torch.from_numpy(first)]
