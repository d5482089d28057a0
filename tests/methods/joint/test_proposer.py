"""Which sets a surrogate proposes."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from jopa.methods.joint.configuration import STANDARD
from jopa.methods.joint.gaussian_process import fit
from jopa.methods.joint.neighbours import adjacent_neighbours
from jopa.methods.joint.proposer import Proposer, lowest_units
from jopa.methods.joint.state import SearchState

EFFECTS = [0.0, 0.1, 3.0, 0.0, 0.2, 2.0, 0.0, 0.1]


def log_prob(units):
    return -1.0 - sum(EFFECTS[unit] for unit in units)


def searched(*extra, ks=(2,)):
    """A search of eight units whose single effects are known, and its surrogate."""
    sets = [frozenset({unit}) for unit in range(8)] + [frozenset(units) for units in extra]
    state = SearchState(8, ks, whole=-1.0)
    state.add(sets, [log_prob(units) for units in sets], evaluations=len(sets), ffe=float(len(sets)))
    return state, fit(*state.observations([], 300), torch.ones(8, dtype=torch.double))


def test_the_set_that_promises_most_comes_first():
    state, surrogate = searched()
    proposed = Proposer(state).propose(2, surrogate, 3, share_spent=0.1)
    assert proposed[0] == {2, 5}
    assert len(set(proposed)) == 3
    assert all(len(units) == 2 for units in proposed)


def test_what_is_scored_is_not_proposed_again():
    state, surrogate = searched((2, 4), (4, 5))
    proposed = Proposer(state).propose(2, surrogate, 20, share_spent=0.1)
    assert proposed[0] == {2, 5}
    assert not set(proposed) & set(state.changes)


def test_nothing_is_proposed_where_little_improvement_is_expected():
    state, surrogate = searched(*combinations(range(8), 2))
    assert Proposer(state).propose(2, surrogate, 4, share_spent=0.1) == []
    state, surrogate = searched((2, 5))
    patient = Proposer(state, config=replace(STANDARD, negligible_share=100.0))
    assert patient.propose(2, surrogate, 4, share_spent=0.1) == []


@pytest.mark.parametrize(("share_spent", "n_adjacent"), [(0.59, 0), (0.61, 2)])
def test_half_of_a_late_round_goes_to_adjacent_neighbours(share_spent, n_adjacent):
    state, surrogate = searched((2, 5))
    proposed = Proposer(state).propose(2, surrogate, 4, share_spent=share_spent)
    adjacent = set(adjacent_neighbours(frozenset({2, 5}), 8))
    if n_adjacent:
        assert set(proposed[:n_adjacent]) <= adjacent
    else:
        assert proposed == Proposer(state).improving(2, surrogate, 4)


def test_the_shortlist_holds_the_strongest_units_the_best_set_and_repeated_words():
    state, surrogate = searched((0, 3))
    few = replace(STANDARD, shortlist_units=1)
    assert Proposer(state, config=few).shortlist(2, surrogate) == sorted({*lowest_units(surrogate)[:4], 0, 3})
    assert set(Proposer(state, [frozenset({6, 7})], few).shortlist(2, surrogate)) >= {0, 2, 3, 5, 6, 7}
    assert lowest_units(surrogate)[:2] == [2, 5]


def test_a_pool_that_is_just_small_enough_holds_every_set():
    state, surrogate = searched((0, 1))
    pools = [
        {tuple(row) for row in Proposer(state, config=replace(STANDARD, pool_sets=n, beam_sets=1))._pool(
            2, surrogate, list(range(8))
        ).tolist()}
        for n in (28, 27)
    ]  # fmt: skip
    assert len(pools[0]) == 28 > len(pools[1])  # C(8, 2); then the neighbours of the best set


def test_a_large_pool_is_the_neighbourhood_of_the_best_sets():
    state, surrogate = searched((2, 4), (0, 1))
    everything = Proposer(state).improving(2, surrogate, 2)
    beam = Proposer(state, config=replace(STANDARD, pool_sets=5, beam_sets=2)).improving(2, surrogate, 2)
    assert beam[0] == everything[0] == {2, 5}
