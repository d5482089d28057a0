"""Algorithm 1 on planted problems, with brute force as the oracle."""

import pytest
import torch

import jopa
from jopa.methods.paper_search import PaperSearch
from table_scorer import TableScorer, TableWhiteBoxScorer, best_sets, problem, redundant_pair


def chosen(method, question, k, seed=0):
    selection = method.run(question, k, seed=seed)
    assert len(set(selection.removed)) == k
    assert all(0 <= unit < question.n_units for unit in selection.removed)
    return frozenset(selection.removed)


@pytest.mark.parametrize("initial", ["abs", "signed-low", "signed-high", "random"])
@pytest.mark.parametrize("sampling", ["gradient", "uniform"])
def test_finds_the_pair_that_no_single_removal_reveals(initial, sampling):
    question = problem(8, redundant_pair)
    alone = {i: question.log_prob() - question.log_prob([i]) for i in range(8)}
    ranked = sorted(alone, key=lambda i: -alone[i])
    assert ranked[:2] == [0, 1]
    assert not {2, 5} <= set(ranked[:3])  # the best three one by one miss the pair
    method = PaperSearch(initial=initial, sampling=sampling)
    assert chosen(method, question, 3) == {0, 2, 5}
    assert best_sets(question.scorer, 3) == {frozenset({0, 2, 5})}


def test_single_swaps_end_in_a_local_optimum():
    """Appendix A.1 promises no more: from {0, 1} no single swap leads towards the pair {2, 5}."""
    question = problem(8, redundant_pair)
    assert chosen(PaperSearch(sampling="uniform"), question, 2) == {0, 1}
    assert question.certificate([0, 1]) == "one-swap-optimal"
    assert best_sets(question.scorer, 2) == {frozenset({2, 5})}


@pytest.mark.parametrize("seed", range(5))
def test_reaches_the_enumerated_optimum_of_random_problems(seed):
    weights = torch.randn(9, 9, generator=torch.Generator().manual_seed(seed))

    def quadratic(removed):
        index = sorted(removed)
        return float(weights[index][:, index].sum())

    question = problem(9, quadratic)
    assert chosen(PaperSearch(steps=400, sampling="uniform"), question, 3) in best_sets(question.scorer, 3)


def test_the_objective_never_rises_and_the_trace_tells_every_proposal():
    question = problem(8, redundant_pair)
    selection = PaperSearch(steps=50).run(question, 2, seed=3)
    values = [step.log_prob for step in selection.trace]
    assert [step.step for step in selection.trace] == list(range(51))
    assert values == sorted(values, reverse=True)
    assert values[-1] == question.log_prob(selection.removed)
    assert selection.trace[-1].evaluations == question.evaluations == len(set(question.scorer.asked))
    assert selection.stop == "all 50 proposals made"


def quadratic(n_units, seed):
    weights = torch.randn(n_units, n_units, generator=torch.Generator().manual_seed(seed))

    def log_prob(removed):
        index = sorted(removed)
        return float(weights[index][:, index].sum())

    return log_prob


def one_by_one(question, k, steps, initial, sampling, seed, gradients="once"):
    """Algorithm 1 as it is written down: one proposal after the other."""
    random = torch.Generator().manual_seed(seed)
    gradient = question.mask_gradient()
    if initial == "random":
        removed = torch.randperm(question.n_units, generator=random)[:k].tolist()
    else:
        removed = gradient.abs().argsort(descending=True, stable=True)[:k].tolist()
    kept = [i for i in range(question.n_units) if i not in removed]
    strength = gradient.abs().double() if sampling == "gradient" else torch.zeros(question.n_units)
    current = question.log_prob(removed)
    values = [current]
    for _ in range(steps):
        into = int(strength[kept].softmax(0).multinomial(1, generator=random))
        out = int(strength[removed].softmax(0).multinomial(1, generator=random))
        proposal = list(removed)
        proposal[out] = kept[into]
        value = question.log_prob(proposal)
        if value < current:
            kept[into], removed, current = removed[out], proposal, value
            if gradients == "fresh":
                strength = question.mask_gradient(removed).abs().double()
        values.append(current)
    return tuple(removed), values


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sampling", ["gradient", "uniform"])
@pytest.mark.parametrize("initial", ["abs", "random"])
def test_looking_ahead_changes_nothing_but_what_is_scored(seed, sampling, initial):
    expected, values = one_by_one(problem(10, quadratic(10, seed)), 3, 120, initial, sampling, seed)
    n_scored = []
    for lookahead in (1, 2, 32):
        question = problem(10, quadratic(10, seed))
        method = PaperSearch(steps=120, initial=initial, sampling=sampling, lookahead=lookahead)
        selection = method.run(question, 3, seed=seed)
        assert selection.removed == expected
        assert [step.log_prob for step in selection.trace] == values
        assert selection.trace[-1].evaluations == question.evaluations == len(question.scorer.asked)
        n_scored.append(question.evaluations)
    plain = problem(10, quadratic(10, seed))
    one_by_one(plain, 3, 120, initial, sampling, seed)
    assert n_scored[0] == plain.evaluations  # nothing is scored in vain
    assert n_scored == sorted(n_scored)


@pytest.mark.parametrize("seed", range(4))
def test_fresh_gradients_are_those_at_the_current_set(seed):
    chains = {}
    for gradients in ("once", "fresh"):
        expected, values = one_by_one(problem(8, quadratic(8, seed)), 3, 40, "abs", "gradient", seed, gradients)
        selection = PaperSearch(steps=40, gradients=gradients).run(problem(8, quadratic(8, seed)), 3, seed=seed)
        assert selection.removed == expected
        chains[gradients] = [step.log_prob for step in selection.trace]
        assert chains[gradients] == values
    assert chains["once"] != chains["fresh"]


def test_many_rejections_are_scored_many_at_a_time():
    question = problem(12, lambda removed: -float({0, 1, 2} == removed))
    sizes = []
    score = question.scorer.log_probs
    question.scorer.log_probs = lambda keep: sizes.append(len(keep)) or score(keep)
    PaperSearch(steps=100, sampling="uniform").run(question, 3)
    assert max(sizes) > 6
    assert len(sizes) < 0.4 * question.evaluations


@pytest.mark.parametrize("removal", ["zero", "delete"])
def test_looking_ahead_finds_the_same_chain_on_a_real_model(tiny, removal):
    prompt = jopa.build_prompt(tiny.tokenizer, "write a story about the doctor and his patient in rain")
    output = jopa.Output((7, 8, 9, 10, 11), "", (0, 5))
    runs = []
    for lookahead, batch_size, reuse_prefix in ((1, 1, False), (32, 32, True)):
        scorer = jopa.ModelScorer(tiny, prompt, output, removal, batch_size=batch_size, reuse_prefix=reuse_prefix)
        runs.append(PaperSearch(steps=80, lookahead=lookahead).run(jopa.Problem(scorer), 3, seed=2))
    alone, together = runs
    assert alone.removed == together.removed
    for one, other in zip(alone.trace, together.trace, strict=True):
        assert one.step == other.step
        assert one.log_prob == pytest.approx(other.log_prob, abs=5e-4)


def test_the_same_mask_is_never_scored_twice():
    question = problem(6, redundant_pair)
    PaperSearch(steps=300, sampling="uniform").run(question, 2)
    assert len(question.scorer.asked) == len(set(question.scorer.asked)) <= 15 + 1


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    def run(seed):
        return PaperSearch(steps=20, initial="random").run(problem(12, redundant_pair), 3, seed=seed)

    assert run(1) == run(1)
    assert len({run(seed).trace for seed in range(5)}) > 1


def test_initial_sets_are_what_they_are_called():
    slopes = torch.tensor([0.5, -3.0, 2.0, -0.1, 1.0])

    class Slopes(TableWhiteBoxScorer):
        def mask_gradient(self, keep):
            assert keep.all()
            return slopes

    def first(initial):
        return PaperSearch(steps=0, initial=initial).run(jopa.Problem(Slopes(5, lambda _: -1.0)), 2).removed

    assert first("abs") == (1, 2)
    assert first("signed-low") == (1, 3)
    assert first("signed-high") == (2, 4)


def test_gradient_sampling_prefers_units_with_a_large_gradient():
    class Slopes(TableWhiteBoxScorer):
        def mask_gradient(self, keep):
            return torch.tensor([9.0, 0.0, 0.0, 5.0, 0.0, 0.0])

    question = jopa.Problem(Slopes(6, lambda _: -1.0))
    PaperSearch(steps=40, sampling="gradient").run(question, 1)
    proposed = question.scorer.asked[1:]
    assert set(proposed) <= {frozenset({3}), frozenset({1}), frozenset({2}), frozenset({4}), frozenset({5})}
    assert frozenset({3}) in proposed and len(proposed) < 4  # e^5 against four times e^0
    even = jopa.Problem(Slopes(6, lambda _: -1.0))
    PaperSearch(steps=40, sampling="uniform").run(even, 1)
    assert len(even.scorer.asked) == 6  # the first set and all five others


def test_removing_every_unit_leaves_nothing_to_search():
    question = problem(3, lambda removed: -float(len(removed)))
    selection = PaperSearch().run(question, 3)
    assert sorted(selection.removed) == [0, 1, 2]
    assert selection.stop == "every unit is removed"


def test_a_black_box_scorer_is_refused_before_any_work():
    scorer = TableScorer(4, redundant_pair)
    with pytest.raises(jopa.SettingError, match="method 'jopa' needs gradients, which this model or scorer"):
        PaperSearch().run(jopa.Problem(scorer), 2)
    assert scorer.asked == []


@pytest.mark.parametrize("k", [0, -1, 9])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(jopa.SettingError, match=f"k must be between 1 and the prompt's 8 units, got {k}"):
        PaperSearch().run(problem(8, redundant_pair), k)


def test_settings_out_of_range_are_refused():
    with pytest.raises(jopa.SettingError, match="steps must be at least 0, got -1"):
        PaperSearch(steps=-1)
    with pytest.raises(
        jopa.SettingError, match="initial must be one of abs, signed-low, signed-high, random, got 'top'"
    ):
        PaperSearch(initial="top")
    with pytest.raises(jopa.SettingError, match="sampling must be one of gradient, uniform, got 'greedy'"):
        PaperSearch(sampling="greedy")
    with pytest.raises(jopa.SettingError, match="gradients must be one of once, fresh, got 'often'"):
        PaperSearch(gradients="often")
    with pytest.raises(jopa.SettingError, match="lookahead must be at least 1, got 0"):
        PaperSearch(lookahead=0)


def test_make_method_knows_names_settings_and_budgets():
    assert jopa.make_method("jopa", steps=7, initial="random") == PaperSearch(7, "random")
    assert jopa.make_method("jopa", budget=9).steps == 9
    with pytest.raises(jopa.SettingError, match=r"unknown method 'jopper': choose one of .*jopa"):
        jopa.make_method("jopper")
    with pytest.raises(
        jopa.SettingError, match="has no setting 'step': it has steps, initial, sampling, gradients, lookahead"
    ):
        jopa.make_method("jopa", step=3)


def test_progress_is_told():
    told = []
    scorer = TableWhiteBoxScorer(5, redundant_pair)
    PaperSearch(steps=3).run(jopa.Problem(scorer, lambda done, total: told.append((done, total))), 2)
    assert told == [(1, 3), (2, 3), (3, 3)]
