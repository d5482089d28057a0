"""The sets that are scored first."""

from dataclasses import replace

from jopa.methods.joint.configuration import STANDARD
from jopa.methods.joint.initial_sets import repeated_sets, segments


def test_segments_tile_the_prompt_evenly():
    found = segments(10, 10, [2], has_gradients=False)
    assert found == [{0, 1}, {2, 3, 4}, {5, 6, 7}, {8, 9}]


def test_a_large_budget_gives_single_units():
    assert segments(5, 100, [1], has_gradients=True) == [{0}, {1}, {2}, {3}, {4}]


def test_the_share_is_one_over_k_if_that_is_less():
    assert len(segments(100, 100, [1], has_gradients=False)) == 40
    assert len(segments(100, 100, [5], has_gradients=False)) == 20
    assert len(segments(100, 100, [4, 6], has_gradients=False)) == 20  # of the sizes' mean


def test_gradients_halve_the_segments_of_a_long_prompt():
    assert len(segments(100, 100, [1], has_gradients=True)) == 20


def test_no_segment_is_the_whole_prompt():
    assert len(segments(100, 1, [5], has_gradients=True)) == 2


def test_repeated_words_of_which_the_answer_loses_little_are_left_out():
    words = {frozenset({1, 4}): 3.0, frozenset({2}): 0.6, frozenset({3}): 0.5}
    assert repeated_sets(words, 50, largest_k=3) == [{1, 4}, {2}]


def test_a_word_with_more_units_than_are_searched_for_is_left_out():
    assert repeated_sets({frozenset({1, 4, 6}): 3.0, frozenset({2}): 1.0}, 50, largest_k=2) == [{2}]


def test_repeated_words_take_a_share_of_the_masks_and_leave_room_in_the_shortlist():
    words = {frozenset({2 * i, 2 * i + 1}): 9.0 - i for i in range(6)}
    assert len(repeated_sets(words, 11, largest_k=2)) == 3  # a fifth of 11, rounded up
    assert len(repeated_sets(words, 50, largest_k=2, config=replace(STANDARD, shortlist_units=9))) == 4
