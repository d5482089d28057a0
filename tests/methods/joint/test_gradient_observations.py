"""When gradients are taken, and what they predict."""

import pytest
import torch

import jopa
from jopa.methods.joint.configuration import STANDARD
from jopa.methods.joint.cost_meter import CostMeter
from jopa.methods.joint.gradient_observations import GradientObserver
from jopa.methods.joint.state import SearchState
from table_scorer import TableScorer, TableWhiteBoxScorer

BEST = frozenset({1, 3})


class Slopes(TableWhiteBoxScorer):
    """Gives a fixed gradient and notes where it was taken."""

    def __init__(self):
        super().__init__(5, lambda removed: -1.0)
        self.taken: list[list[float]] = []

    def gradient_norms(self):
        return torch.ones(5)

    def attention_gradient(self, factors):
        self.taken.append(factors.tolist())
        return torch.tensor([0.1, 0.2, -0.5, 0.4, 0.0])


class Cheap(TableScorer):
    """A mask costs half a forward, as with a cached beginning; the whole prompt costs one."""

    @property
    def ffe(self):
        return 0.5 + 0.5 * len(self.asked) if self.asked else 0.0


def observer_of(scorer, budget=100, masks=TableScorer):
    """An observer that may spend `budget` less the whole prompt and one mask, each a full forward unless given."""
    meter = CostMeter(jopa.Problem(masks(5, lambda removed: -1.0)), budget, None)
    meter.log_probs([frozenset({0})])
    return GradientObserver(jopa.Problem(scorer), meter, [2])


def state_at(best, log_prob=-4.0):
    state = SearchState(5, [len(best)], whole=-1.0)
    state.add([best], [log_prob], evaluations=1, ffe=1.0)
    return state


def test_the_gradient_predicts_sets_with_one_unit_more_or_less():
    scorer = Slopes()
    observer = observer_of(scorer)
    assert observer.pseudo_observations() is None
    observer.observe(state_at(BEST))
    inside, outside = pytest.approx(STANDARD.attention_inside), STANDARD.attention_outside
    assert scorer.taken == [[outside, inside, outside, inside, outside]]
    predicted = observer.pseudo_observations()
    assert predicted is not None
    sets = [{i for i, kept in enumerate(row) if kept} for row in predicted.masks.tolist()]
    assert sets == [{1, 2, 3}, {0, 1, 3}, {1, 3, 4}, {3}, {1}]  # one more: the largest derivative first
    back = STANDARD.return_step / STANDARD.attention_inside
    expected = [-3.0 + 3 * 0.5, -3.0 - 3 * 0.1, -3.0, -3.0 + back * 0.2, -3.0 + back * 0.4]
    assert predicted.changes.tolist() == pytest.approx(expected, abs=1e-5)
    assert predicted.scored.tolist() == [[0, 1, 0, 1, 0]] * 5


def test_gradients_come_every_few_rounds_and_never_twice_at_the_same_set():
    scorer = Slopes()
    observer = observer_of(scorer)
    observer.observe(state_at(BEST))
    for _ in range(STANDARD.rounds_between_gradients):
        observer.observe(state_at(frozenset({0, 1})))
        assert len(scorer.taken) == 1
        observer.count_round()
    observer.observe(state_at(BEST))
    assert len(scorer.taken) == 1
    observer.observe(state_at(frozenset({0, 1})))
    assert len(scorer.taken) == 2


@pytest.mark.parametrize(("masks", "budget"), [(TableScorer, 8), (Cheap, 7)])
def test_no_gradient_is_taken_that_the_budget_does_not_afford(masks, budget):
    """What is left counts in forwards, not in masks."""
    assert 2 * STANDARD.gradient_ffe == 6
    scorer = Slopes()
    assert observer_of(scorer, budget + 1, masks).gradient_norms() is not None
    observer = observer_of(scorer, budget, masks)
    observer.observe(state_at(BEST))
    assert observer.gradient_norms() is None
    assert scorer.taken == []


def test_a_scorer_that_fails_is_searched_as_a_black_box():
    class Fails(Slopes):
        def attention_gradient(self, factors):
            raise jopa.ScoringError("no factors")

    observer = observer_of(Fails())
    assert observer.gradient_norms() is not None
    observer.observe(state_at(BEST))
    assert (observer.has_gradients, observer.details) == (False, {"without_gradients": "no factors"})
    assert observer.gradient_norms() is None


def test_a_black_box_has_no_gradients():
    assert not observer_of(TableScorer(5, lambda removed: -1.0)).has_gradients
