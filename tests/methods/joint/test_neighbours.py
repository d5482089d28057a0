"""Sets as rows: there and back, every swap and adjacent neighbour, and each row once in torch's order."""

from itertools import combinations

import pytest
import torch

from jopa.methods.joint.neighbours import adjacent_neighbours, from_masks, swap_neighbours, to_masks, unique_rows


def test_there_and_back():
    columns = [3, 5, 8, 13]
    sets = [frozenset(), frozenset({3, 13}), frozenset({5}), frozenset(columns)]
    assert from_masks(to_masks(sets, columns), columns) == sets


@pytest.mark.parametrize("n_columns", [3, 8, 9, 70])
def test_each_row_once_in_the_order_of_torch(n_columns):
    generator = torch.Generator().manual_seed(n_columns)
    masks = torch.randint(0, 2, (200, n_columns), generator=generator).double()
    masks = torch.cat([masks, masks[50:80]])
    assert torch.equal(unique_rows(masks), masks.unique(dim=0))


def test_every_swap_from_every_set():
    columns = range(5)
    beam = [frozenset({0, 1}), frozenset({1, 4})]
    expected = [{*units} - {out} | {into} for units in beam for out in units for into in columns if into not in units]
    found = from_masks(swap_neighbours(to_masks(beam, columns)), columns)
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert {frozenset(units) for units in combinations(columns, 2)} - set(found) - set(beam) == {frozenset({2, 3})}


def test_every_adjacent_neighbour_stays_in_the_prompt_and_beside_the_others():
    assert adjacent_neighbours(frozenset({0, 3, 4}), 6) == [{1, 3, 4}, {0, 2, 4}, {0, 3, 5}]
    assert adjacent_neighbours(frozenset({5}), 6) == [{4}]
    assert adjacent_neighbours(frozenset(range(3)), 3) == []
