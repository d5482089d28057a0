"""What a Problem remembers, counts, reports and proves; each number is one that a person can work out."""

import itertools
import math

import pytest
import torch

import jopa
from jopa.problem import Best, SharedScores, joint_effects
from jopa.testing import TableScorer

WORTH = (8.0, 4.0, 2.0, 1.0)
"""What each unit takes away alone; sets take away the sum."""


def without(removed):
    return -sum(WORTH[unit] for unit in removed)


class NoisyTable(TableScorer):
    noise = 1.5


class LimitedTable(TableScorer):
    """Allows a number of masks; says how many came in each request."""

    def __init__(self, *args, allowed=math.inf):
        super().__init__(*args)
        self.ffe_left = allowed
        self.requests = []

    def reserve(self, masks):
        raise AssertionError("a problem reserves nothing")

    def log_probs(self, keep):
        self.requests.append(len(keep))
        self.ffe_left -= len(keep)
        return super().log_probs(keep)


def problem(kind=TableScorer, **settings):
    return jopa.Problem(kind(len(WORTH), without, **settings))


def test_a_set_is_scored_once_whatever_its_order():
    found = problem()
    assert found.log_probs([(0, 1), (1, 0), (2,), (0, 1)]) == [-12.0, -12.0, -2.0, -12.0]
    assert (found.evaluations, found.repeats) == (2, 2)
    assert found.log_prob((2,)) == -2.0
    assert (found.evaluations, found.repeats) == (2, 3)
    assert found.scored == {frozenset({0, 1}): -12.0, frozenset({2}): -2.0}
    assert joint_effects(found, [(0,), (1, 3)]) == [8.0, 5.0]


def test_a_certificate_asks_for_no_known_score_again():
    for sets in (list(itertools.combinations(range(len(WORTH)), 2)), [(0, 1)]):
        found = problem()
        found.log_probs(sets)
        found.certificate(sets[0])
        assert (found.evaluations, found.repeats) == (len(sets), 0)


def test_masks_are_sent_as_far_as_the_limit_allows_and_then_one_by_one():
    scorer = LimitedTable(len(WORTH), without, allowed=2.5)
    found = jopa.Problem(scorer)
    assert found.log_probs([(0,), (1,), (2,), (3,)]) == [-8.0, -4.0, -2.0, -1.0]
    assert scorer.requests == [2, 1, 1]
    assert found.ffe_left == -1.5
    assert problem().ffe_left == math.inf


def test_each_new_best_set_of_the_size_is_reported():
    found, told = problem(), []
    found.log_probs([(0, 1)])  # before anybody watches
    found.watch(2, told.append)
    assert told == [Best((), 0.0, 2, found.ffe)]
    found.log_probs([(2, 3), (1, 2), (0, 1, 2)])
    assert told[1:] == [Best((1, 2), -6.0, 5, found.ffe)]
    found.log_probs([(1, 3)])
    assert len(told) == 2
    found.log_probs([(3, 0)])
    assert told[2:] == [Best((0, 3), -9.0, 7, found.ffe)]


def test_nobody_is_told_unless_asked():
    found = problem()
    found.log_probs([(0, 1)])
    assert found.scored


def test_the_best_known_set_is_the_lowest_scored_or_that_of_the_strongest_alone():
    found = problem()
    assert found.best_known(1) is None
    found.log_probs([(3,), (1,)])
    assert found.best_known(1) == (1,)
    assert found.best_known(2) == (1, 3)
    assert found.best_known(3) is None
    found.log_probs([(2, 3)])
    assert found.best_known(2) == (2, 3)
    found.log_probs([(2,)])
    assert found.best_known(3) == (1, 2, 3)


def test_scores_of_the_same_tokens_are_shared_and_cost_nothing():
    scores = {}
    words = jopa.Problem(TableScorer(4, without), shared=SharedScores([[0], [1], [2], [3]], scores))
    words.log_probs([(0, 1), (2,)])
    halves = TableScorer(2, lambda removed: without(unit for half in removed for unit in (2 * half, 2 * half + 1)))
    shared, told = SharedScores([[0, 1], [2, 3]], scores), []
    coarse = jopa.Problem(halves, shared=shared)
    coarse.watch(1, told.append)
    assert coarse.log_probs([(0,), (1,)]) == [-12.0, -3.0]
    assert shared.n_used == 1
    assert coarse.evaluations == 2  # the whole prompt and the second half; the first half was known
    assert halves.ffe == 2
    assert told[1:] == [Best((0,), -12.0, 1, 1.0)]
    assert words.log_prob((2, 3)) == -3.0  # scored by the other problem
    assert words.evaluations == 2


@pytest.mark.parametrize("n_left_out", [0, 1])
def test_all_sets_of_a_size_prove_the_best_one(n_left_out):
    found = problem()
    every = list(itertools.combinations(range(4), 2))
    found.log_probs(every[: len(every) - n_left_out])
    assert found.certificate((0, 1)) == ("one-swap-optimal" if n_left_out else "optimal")
    assert found.certificate((0, 2)) == "none"


def test_a_swap_that_was_not_scored_proves_nothing():
    found = problem()
    found.log_probs([(0, 1), (0, 2), (0, 3), (1, 2)])
    assert found.certificate((0, 1)) == "none"
    found.log_probs([(1, 3)])
    assert found.certificate((0, 1)) == "one-swap-optimal"


def test_noise_takes_a_proof_away_where_another_set_is_within_it():
    found = problem(NoisyTable)
    found.log_probs([(unit,) for unit in range(4)])
    assert found.certificate((0,)) == "optimal"
    close = jopa.Problem(NoisyTable(2, lambda removed: -5.0 * (0 in removed) - 4.0 * (1 in removed)))
    close.log_probs([(0,), (1,)])
    assert close.certificate((0,)) == "none"
    exact = jopa.Problem(TableScorer(2, lambda removed: -5.0 * (0 in removed) - 4.0 * (1 in removed)))
    exact.log_probs([(0,), (1,)])
    assert exact.certificate((0,)) == "optimal"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_names_its_set(strange):
    found = jopa.Problem(TableScorer(4, lambda removed: strange if set(removed) == {1, 3} else 0.0))
    with pytest.raises(jopa.ScoringError, match=rf"gives {strange} as a log-probability with units \[1, 3\] removed"):
        found.log_probs([(0,), (3, 1)])
    assert found.evaluations == 0


@pytest.mark.parametrize("change", [-1, 1])
def test_a_scorer_must_give_a_row_a_mask(change):
    class Scorer(TableScorer):
        def log_probs(self, keep):
            rows = super().log_probs(keep)
            return rows[:change] if change < 0 else torch.cat([rows, rows[:change]])

    with pytest.raises(jopa.ScoringError, match=f"gives {2 + change} rows of log-probabilities for 2 masks"):
        jopa.Problem(Scorer(4, without)).log_probs([(0,), (1,)])


def test_what_stands_beside_scores_must_be_finite():
    class Scorer(TableScorer):
        capabilities = frozenset({"scores", "distribution"})

        def log_distributions(self, keep):
            rows = torch.zeros(len(keep), 1, 3)
            rows[:, :, 1] = -math.inf  # what cannot be
            rows[:, :, 2] = torch.where(keep.all(dim=1), 0.0, math.nan)[:, None]
            return rows

    found = jopa.Problem(Scorer(4, without))
    assert found.log_distributions([()]).shape == (1, 1, 3)
    with pytest.raises(jopa.ScoringError, match="NaN or infinity"):
        found.log_distributions([(), (1,)])


def test_a_mask_is_false_where_units_are_removed():
    assert problem().keep_mask((1, 3)).tolist() == [True, False, True, False]
    assert problem().keep_mask(()).all()
