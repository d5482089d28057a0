"""Sets of units as rows of 0 and 1, one column a unit, and what swaps make of them.

Knows numbers alone: no scorer, no search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def set_rows(sets: Iterable[Iterable[int]], columns: Sequence[int]) -> Float[Tensor, "sets columns"]:
    """One row a set, 1 at its units."""
    import torch

    column = {unit: i for i, unit in enumerate(columns)}
    rows = [[column[unit] for unit in units] for units in sets]
    masks = torch.zeros(len(rows), len(column), dtype=torch.double)
    masks[[i for i, row in enumerate(rows) for _ in row], [j for row in rows for j in row]] = 1
    return masks


def sets_of(masks: Float[Tensor, "sets columns"], columns: Sequence[int]) -> list[frozenset[int]]:
    """The units of each row."""
    return [frozenset(columns[j] for j, inside in enumerate(row) if inside) for row in masks.tolist()]


def swapped(masks: Float[Tensor, "sets columns"]) -> Float[Tensor, "swapped columns"]:
    """Every set that one swap leads to from one of these; some may come more than once."""
    import torch

    row, out, into = ((masks[:, :, None] > 0) & (masks[:, None, :] == 0)).nonzero(as_tuple=True)
    rows = masks[row]
    index = torch.arange(len(row))
    rows[index, out], rows[index, into] = 0, 1
    return rows


def shifts(units: frozenset[int], n_units: int) -> list[frozenset[int]]:
    """Every set that a step of one unit to the left or to the right makes of this one, in the order of the units."""
    steps = ((unit, unit + step) for unit in sorted(units) for step in (-1, 1))
    return [units - {unit} | {to} for unit, to in steps if 0 <= to < n_units and to not in units]


def replacements(units: frozenset[int], order: Sequence[int], n_paired: int) -> list[frozenset[int]]:
    """Every set that one swap makes of this one, and those that replace its two weakest units by two of the strongest
    others; strong newcomers and weak leavers first.

    Args:
        units: the set.
        order: all units, the strongest first.
        n_paired: how many of the strongest others come in pairs.
    """
    inside = [unit for unit in reversed(order) if unit in units]
    others = [unit for unit in order if unit not in units]
    swaps = [(i + j, {inside[i]}, {others[j]}) for i in range(len(inside)) for j in range(len(others))]
    if len(inside) > 1:
        pairs = combinations(range(min(len(others), n_paired)), 2)
        swaps += [(i + j, set(inside[:2]), {others[i], others[j]}) for i, j in pairs]
    swaps.sort(key=lambda swap: swap[0])
    return [units - leaving | entering for _, leaving, entering in swaps]


def distinct(masks: Float[Tensor, "sets columns"]) -> Float[Tensor, "distinct columns"]:
    """Each row once, in lexicographic order: what `torch.unique` gives, by comparing bits and not numbers."""
    import numpy as np
    import torch

    bits = np.packbits(masks.numpy() > 0, axis=1)
    first = np.unique(bits.view(f"V{bits.shape[1]}")[:, 0], return_index=True)[1]
    return masks[torch.from_numpy(first)]
