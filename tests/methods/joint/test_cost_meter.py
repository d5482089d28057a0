"""What a mask costs, and how many more the budget allows."""

from types import SimpleNamespace

import pytest

import jopa
from jopa.methods.joint.cost_meter import CostMeter
from table_scorer import TableScorer


class Costly(TableScorer):
    """Masks cost half a forward each, or two where more than one unit is removed."""

    @property
    def ffe(self):
        return 1.0 + sum(2.0 if len(units) > 1 else 0.5 for units in self.asked[1:])


def meter_of(scorer, ffe, seconds=None):
    return CostMeter(jopa.Problem(scorer), ffe, seconds)


def test_the_whole_prompt_counts_one_and_a_mask_as_much_until_one_is_scored():
    meter = meter_of(Costly(6, lambda removed: -1.0), 10)
    assert (meter.whole, meter.spent, meter.max_mask_cost, meter.affordable()) == (-1.0, 1.0, 1.0, 9)


def test_masks_cost_what_the_most_expensive_call_did():
    meter = meter_of(Costly(6, lambda removed: -1.0 - len(removed)), 10)
    assert meter.log_probs([frozenset({0}), frozenset({1})]) == [-2.0, -2.0]
    assert (meter.spent, meter.max_mask_cost, meter.affordable()) == (2.0, 0.5, 16)
    meter.log_probs([frozenset({0, 1})])
    meter.log_probs([frozenset({2})])
    assert (meter.spent, meter.max_mask_cost, meter.affordable()) == (4.5, 2.0, 2)
    assert meter.share_spent() == 0.45


def test_masks_that_cost_nothing_are_not_scored_without_end():
    class Free(TableScorer):
        ffe = 1.0

    meter = meter_of(Free(9, lambda removed: -1.0), 1)
    assert meter.affordable() == 0
    meter = meter_of(Free(9, lambda removed: -1.0), 2)
    meter.log_probs([frozenset({unit}) for unit in range(9)])
    assert meter.spent == pytest.approx(1.0)
    assert meter.affordable() == 1


def test_time_limits_the_masks_too(monkeypatch):
    scorer = TableScorer(9, lambda removed: -1.0)
    clock = SimpleNamespace(perf_counter=lambda: 2.0 * len(scorer.asked))
    monkeypatch.setattr("jopa.methods.joint.cost_meter.time", clock)
    meter = meter_of(scorer, 1000, seconds=10.0)
    meter.log_probs([frozenset({0}), frozenset({1})])
    assert meter.affordable() == 2
    assert meter.share_spent() == pytest.approx(0.6)
    assert meter.ended_by() == "budget of 1000 full-forward equivalents spent"
    meter.log_probs([frozenset({2}), frozenset({3})])
    assert meter.ended_by() == "10 seconds spent"
