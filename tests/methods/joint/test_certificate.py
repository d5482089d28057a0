"""What a proof needs, and why a size is closed."""

from itertools import combinations

from jopa.methods.joint.certificate import certificate_candidates, closing_reason
from jopa.methods.joint.state import SearchState


def state_with(*sets, n_units=6, ks=(2,)):
    state = SearchState(n_units, ks, whole=-1.0)
    scored = [frozenset(units) for units in sets]
    state.add(scored, [-5.0 + i for i in range(len(scored))], evaluations=len(scored), ffe=float(len(scored)))
    return state


def test_all_one_swap_neighbours_are_candidates_and_pairs_of_strong_others():
    best = frozenset({0, 1})
    candidates = certificate_candidates(state_with(best), 2, order=range(6))
    swaps = {best - {out} | {into} for out in best for into in range(2, 6)}
    pairs = {frozenset(pair) for pair in combinations(range(2, 6), 2)}
    assert set(candidates) == swaps | pairs
    assert candidates[0] == {0, 2}  # the weakest unit is replaced by the strongest other


def test_what_was_scored_is_no_candidate():
    candidates = certificate_candidates(state_with((0, 1), (0, 2), (3, 4)), 2, order=range(6))
    assert not {frozenset({0, 1}), frozenset({0, 2}), frozenset({3, 4})} & set(candidates)


def test_without_a_best_set_the_strongest_units_are_the_candidate():
    assert certificate_candidates(state_with(), 2, order=[4, 1, 0, 2, 3, 5]) == [{1, 4}]


def test_the_reason_says_what_was_proved():
    assert closing_reason(state_with(n_units=2), 2) == "no other set to score"
    assert closing_reason(state_with(*combinations(range(4), 2), n_units=4), 2) == "all 6 sets of 2 scored"
    assert closing_reason(state_with((0, 1)), 2).startswith("no single swap is better")
