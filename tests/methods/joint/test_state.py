"""What a search has scored: best sets, traces, open sizes, and what the surrogate learns from."""

import math

from jopa.methods.joint.state import SearchState, lowest_first


def state_with(*scored, n_units=4, ks=(1, 2)):
    state = SearchState(n_units, ks, whole=-1.0)
    sets, log_probs = [frozenset(units) for units, _ in scored], [log_prob for _, log_prob in scored]
    state.add(sets, log_probs, evaluations=len(scored), ffe=2.0 * len(scored))
    return state


def test_nothing_is_known_at_the_beginning():
    state = SearchState(4, [1, 2], whole=-1.0)
    assert (state.best(2), state.best_log_prob(2), state.best_change(2)) == (None, math.inf, 0.0)
    assert state.open == [1, 2]
    assert state.traces == {1: [], 2: []}
    assert state.largest_k == 2


def test_the_best_set_of_each_size_and_its_change():
    state = state_with(((0,), -1.5), ((1, 2), -3.0), ((0, 2), -2.0), ((0, 1, 2), -9.0))
    assert (state.best(1), state.best(2)) == ({0}, {1, 2})
    assert (state.best_log_prob(2), state.best_change(2)) == (-3.0, -2.0)
    assert state.changes[frozenset({0, 1, 2})] == -8.0
    assert state.scored_of_size(2) == [{1, 2}, {0, 2}]


def test_of_sets_that_tie_the_lexicographically_first_is_the_best():
    assert state_with(((1, 3), -2.0), ((1, 2), -2.0)).best(2) == {1, 2}


def test_each_call_adds_a_step_to_the_trace_of_each_size_that_has_a_best_set():
    state = state_with(((0,), -1.5))
    state.add([frozenset({0, 1})], [-4.0], evaluations=2, ffe=7.0)
    assert [(step.step, step.log_prob, step.evaluations, step.ffe) for step in state.traces[1]] == [
        (0, -1.5, 1, 2.0),
        (1, -1.5, 2, 7.0),
    ]
    assert [(step.log_prob, step.ffe) for step in state.traces[2]] == [(-4.0, 7.0)]


def test_unknown_sets_are_given_once():
    state = state_with(((0,), -1.5))
    assert state.unknown([frozenset({1}), frozenset({0}), frozenset({1})]) == [{1}]


def test_all_sets_of_a_size_are_counted():
    state = state_with(((0,), -1.0), ((1,), -1.0), ((2,), -1.0))
    assert not state.all_scored(1)
    state.add([frozenset({3})], [-1.0], evaluations=4, ffe=4.0)
    assert state.all_scored(1)


def test_the_surrogate_learns_from_the_lowest_sets_of_each_kind():
    state = state_with(((0,), -1.1), ((1,), -1.3), ((2, 3), -4.0), ((0, 1), -2.0), ((0, 2), -3.0), ((0, 1, 2), -9.0))
    masks, changes = state.observations([frozenset({2, 3})], most=2)
    # Two of the initial sets and single units, then two of the others; the set of three is larger than asked for.
    assert masks.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    assert [round(change, 6) for change in changes.tolist()] == [-3.0, -0.3, -2.0, -1.0]


def test_sets_that_tie_keep_their_order():
    changes = {frozenset({2}): -1.0, frozenset({0}): -1.0 + 1e-9, frozenset({1}): -2.0}
    assert lowest_first(changes) == [{1}, {2}, {0}]
