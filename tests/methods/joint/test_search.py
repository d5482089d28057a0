"""The default search on planted problems, with brute force as the oracle."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import jopa
from jopa.methods.joint.neighbours import adjacent_neighbours
from jopa.methods.joint.search import JointSearch
from table_scorer import TableScorer, TableWhiteBoxScorer, best_sets, problem, redundant_pair


def black_box(n_units, log_prob):
    return jopa.Problem(TableScorer(n_units, log_prob))


def chosen(method, question, k, seed=0):
    selection = method.run(question, k, seed=seed)
    assert len(set(selection.removed)) == len(selection.removed) == k
    assert all(type(unit) is int and 0 <= unit < question.n_units for unit in selection.removed)
    return frozenset(selection.removed)


def quadratic(n_units, seed):
    """Every unit and every pair has an effect, drawn from a normal distribution."""
    weights = torch.randn(n_units, n_units, generator=torch.Generator().manual_seed(seed)).tolist()
    return lambda removed: -1.0 + sum(weights[i][j] for i in removed for j in removed)


def test_small_problems_are_solved_exactly_and_certified():
    for k in range(1, 8):
        question = problem(7, redundant_pair)
        assert chosen(JointSearch(), question, k) in best_sets(question.scorer, k)
        assert question.certificate(JointSearch().run(question, k).removed) == "optimal"
        assert question.evaluations == math.comb(7, k) + 1  # and the whole prompt; no guide was asked for


@pytest.mark.parametrize("make", [problem, black_box])
@pytest.mark.parametrize("k", [2, 3])
def test_finds_the_redundant_pair_where_not_all_sets_are_scored(make, k):
    question = make(16, redundant_pair) if make is black_box else make(12, redundant_pair)
    assert chosen(JointSearch(budget=45), question, k) in best_sets(question.scorer, k)
    assert question.evaluations < math.comb(question.n_units, k)


@pytest.mark.parametrize("seed", range(6))
def test_reaches_the_enumerated_optimum_of_random_interactions(seed):
    question = black_box(14, quadratic(14, seed))
    assert chosen(JointSearch(budget=120), question, 3) in best_sets(question.scorer, 3)
    assert question.evaluations <= 120 < math.comb(14, 3)


def test_stops_early_with_a_proved_local_optimum():
    weights = [0.1 * (i % 7) + 0.01 * i for i in range(30)]
    question = black_box(30, lambda removed: -1.0 - sum(weights[i] for i in removed))
    selection = JointSearch(budget=600).run(question, 3)
    assert question.ffe < 400
    assert "no single swap" in selection.stop
    assert question.certificate(selection.removed) == "one-swap-optimal"
    value, asked = question.log_prob(selection.removed), set(question.scorer.asked)
    for out in selection.removed:
        for into in set(range(30)) - set(selection.removed):
            swapped = frozenset(selection.removed) - {out} | {into}
            assert swapped in asked
            assert question.log_prob(swapped) >= value


@pytest.mark.parametrize("make", [problem, black_box])
@pytest.mark.parametrize("budget", [1, 2, 5, 17, 40])
def test_the_budget_is_kept(make, budget):
    question = make(12, quadratic(12, 1))
    selection = JointSearch(budget=budget).run(question, 4)
    assert question.ffe <= budget
    assert len(selection.removed) == 4
    assert f"budget of {budget} " in selection.stop


def test_the_budget_is_kept_when_masks_cost_more_than_it_seems():
    """Whatever a mask costs, the budget is passed by no more than a batch."""

    class Dear(TableScorer):
        @property
        def ffe(self):
            return 1.0 + 2.5 * (len(self.asked) - 1)

    question = jopa.Problem(Dear(30, quadratic(30, 2)))
    JointSearch(budget=100).run(question, 3)
    assert 95 < question.ffe <= 100


def test_the_budget_is_kept_when_some_calls_cost_more_than_others():
    class Moody(TableScorer):
        work = 0.0

        @property
        def ffe(self):
            return self.work

        def log_probs(self, keep):
            scores = super().log_probs(keep)
            self.work += len(keep) * (1.0 if len(self.asked) % 3 else 0.4)
            return scores

    for budget in range(20, 40):
        scorer = Moody(60, quadratic(60, 2))
        JointSearch(budget=budget).run(jopa.Problem(scorer), 3)
        assert budget - 2 < scorer.ffe <= budget


def test_the_whole_prompt_counts_also_if_it_was_known():
    question = black_box(30, quadratic(30, 2))
    question.log_prob()
    JointSearch(budget=20).run(question, 3)
    assert question.evaluations == 20


def test_time_runs_out(monkeypatch):
    """On a clock that moves by a hundredth of a second a mask, and stands still otherwise."""
    scorer = TableScorer(40, quadratic(40, 3))
    clock = SimpleNamespace(perf_counter=lambda: 0.01 * len(scorer.asked))
    monkeypatch.setattr("jopa.methods.joint.cost_meter.time", clock)
    selection = JointSearch(budget=10_000, seconds=0.5).run(jopa.Problem(scorer), 3)
    assert 45 < len(scorer.asked) <= 50
    assert selection.stop == "0.5 seconds spent"


@pytest.mark.parametrize("limit", [{"budget": 60}, {"budget": 10_000, "seconds": 60.0}], ids=["budget", "time"])
def test_towards_the_end_adjacent_neighbours_of_the_best_set_are_tried(limit, monkeypatch):
    """Units side by side do the same work, of which six are best; each mask costs a full forward and a second."""

    def hills(removed):
        near = [min((abs(unit - top) for unit in removed), default=60) for top in (4, 15, 23, 34, 45, 52)]
        return -1.0 - sum(max(0, 5 - distance) for distance in near)

    scorer = TableScorer(60, hills)
    clock = SimpleNamespace(perf_counter=lambda: float(len(scorer.asked)))
    monkeypatch.setattr("jopa.methods.joint.cost_meter.time", clock)
    JointSearch(**limit, batch=1).run(jopa.Problem(scorer), 6)
    assert len(scorer.asked) == 60

    def best_and_next(spent):
        asked, units = scorer.asked[:spent], scorer.asked[spent]
        best = min((units for units in asked if len(units) == 6), key=scorer.log_prob)
        return set(adjacent_neighbours(best, 60)) - set(asked), scorer.log_prob(units) < scorer.log_prob(best), units

    ends = [best_and_next(spent) for spent in range(36, 60)]
    assert sum(bool(left) for left, _, _ in ends) > 8
    assert all(units in left for left, _, units in ends if left)  # once all are known, the search goes on as before
    assert any(better for _, better, _ in ends)  # and the next are neighbours of the new one
    left, _, units = best_and_next(35)
    assert left and units not in left


def test_adjacent_neighbours_take_half_of_a_round():
    class Rounds(TableScorer):
        def log_probs(self, keep):
            scored = [units for units in self.asked if len(units) == 6]
            scores = super().log_probs(keep)
            if scored:
                known = set(adjacent_neighbours(min(scored, key=self.log_prob), 60)) - set(self.asked[: -len(keep)])
                n_adjacent = sum(units in known for units in self.asked[-len(keep) :])
                counted.append((len(self.asked), n_adjacent, len(keep), len(known)))
            return scores

    counted = []
    JointSearch(budget=60, batch=4).run(jopa.Problem(Rounds(60, quadratic(60, 4))), 6)
    late = [(n_adjacent, n_sets, n_known) for asked, n_adjacent, n_sets, n_known in counted if asked - n_sets >= 36]
    assert len(late) > 4
    assert all(n_adjacent == min(math.ceil(n_sets / 2), n_known) for n_adjacent, n_sets, n_known in late)
    assert sum(n_known >= math.ceil(n_sets / 2) for _, n_sets, n_known in late) > 3
    early = [n_adjacent for asked, n_adjacent, n_sets, _ in counted if asked - n_sets < 36]
    assert sum(early) < len(early)  # by chance


def test_the_trace_tells_the_best_so_far():
    question = problem(12, quadratic(12, 5))
    selection = JointSearch().run(question, 3)
    values = [step.log_prob for step in selection.trace]
    assert values == sorted(values, reverse=True)
    assert values[-1] == question.log_prob(selection.removed)
    costs = [step.ffe for step in selection.trace]
    assert costs == sorted(costs)
    assert costs[-1] == question.ffe
    assert selection.trace[-1].evaluations == question.evaluations == len(set(question.scorer.asked))
    assert len(question.scorer.asked) == question.evaluations
    assert min(question.log_prob(units) for units in question.scorer.asked if len(units) == 3) == values[-1]


def test_the_same_run_gives_the_same_selection():
    def run(seed):
        return JointSearch().run(black_box(40, quadratic(40, 4)), 4, seed=seed)

    assert run(1) == run(1) == run(2)


def test_all_units_one_unit_and_a_prompt_of_one():
    assert chosen(JointSearch(), black_box(1, redundant_pair), 1) == {0}
    assert chosen(JointSearch(), black_box(30, redundant_pair), 30) == set(range(30))
    question = black_box(30, redundant_pair)
    assert chosen(JointSearch(), question, 1) == {0}
    assert question.certificate({0}) == "optimal"


def test_equal_scores_and_scores_that_never_move():
    assert len(chosen(JointSearch(), black_box(40, lambda removed: -1.0), 3)) == 3
    assert len(chosen(JointSearch(), black_box(40, lambda removed: -1.0 - len(removed)), 3)) == 3
    assert len(chosen(JointSearch(), problem(12, lambda removed: -1.0), 3)) == 3


def test_units_whose_removal_helps_are_left_alone():
    question = black_box(40, lambda removed: -9.0 + 0.1 * len(removed) - 3.0 * len(removed & {7, 20, 33}))
    assert chosen(JointSearch(budget=100), question, 3) == {7, 20, 33}


def test_nested_sizes_share_one_budget():
    question = black_box(14, quadratic(14, 8))
    ks = [3, 1, 2, 4]
    selections = JointSearch(budget=150).run_nested(question, ks)
    assert [len(selection.removed) for selection in selections] == ks
    assert question.ffe <= 150
    for k, selection in zip(ks, selections, strict=True):
        scored = [question.log_prob(units) for units in set(question.scorer.asked) if len(units) == k]
        assert question.log_prob(selection.removed) == min(scored)
    for k, selection in zip(ks[:3], selections[:3], strict=True):
        assert frozenset(selection.removed) in best_sets(question.scorer, k)


def test_a_long_black_box_prompt_is_searched_with_little_arithmetic():
    """2000 units, of which three matter: segments, then units. Sets are made of few units, never of all."""
    strong = {101: 2.0, 1500: 1.5, 1503: 1.0}
    question = black_box(2000, lambda removed: -5.0 - sum(strong.get(unit, 0.0) for unit in removed))
    with FlopCounterMode(display=False) as counter:
        assert chosen(JointSearch(budget=300), question, 3) == set(strong)
    assert 0 < counter.get_total_flops() < 4e10  # a few seconds where arithmetic is slow


@pytest.mark.parametrize("setting", [{"budget": 0}, {"seconds": 0.0}, {"seconds": math.nan}, {"batch": 0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(jopa.SettingError, match=f"{next(iter(setting))} must be"):
        JointSearch(**setting)


def test_a_budget_is_a_setting():
    assert JointSearch(batch=3).with_budget(77) == JointSearch(budget=77, batch=3)


@pytest.mark.parametrize("box", [black_box, lambda n, table: jopa.Problem(TableWhiteBoxScorer(n, table))])
def test_no_budget_is_so_small_that_the_whole_prompt_is_removed(box):
    for budget in range(1, 25):
        question = box(9, quadratic(9, 3))
        JointSearch(budget=budget).run(question, 4)
        assert max(map(len, question.scorer.asked)) < 9, budget


def test_a_budget_may_end_before_every_size_had_its_turn():
    for budget in range(1, 40):
        question = black_box(40, quadratic(40, 3))
        selections = JointSearch(budget=budget).run_nested(question, [2, 3, 4])
        assert [len(set(selection.removed)) for selection in selections] == [2, 3, 4]
