"""Sparse surrogates on planted problems, with brute force as the oracle, and on tiny random models."""

import importlib.util
import sys
from decimal import Decimal, localcontext
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

import jopa
import tiny_models
from jopa.methods import context_cite, interactions
from jopa.methods.context_cite import ContextCite
from jopa.methods.interactions import Interactions
from jopa.methods.random_removals import random_removals, token_log_probs
from table_scorer import TableScorer, best_sets, redundant_pair

TEXT = "write a story about the doctor and his patient"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())
WEIGHTS = [0.5, 2.0, 0.0, -1.0, 1.5, 0.0, 0.25, 0.0, -0.5, 0.0]


def black_box(n_units, log_prob, told=None):
    progress = None if told is None else lambda done, total: told.append((done, total))
    return jopa.Problem(TableScorer(n_units, log_prob), progress)


def additive(removed):
    return -20.0 - sum(WEIGHTS[unit] for unit in removed)


def three_that_stand_in_for_each_other(removed):
    """All of 0, 1 and 2 must go before it costs anything; 3 and 4 are a pair that costs less."""
    return -2.0 - 9.0 * ({0, 1, 2} <= removed) - 2.0 * ({3, 4} <= removed)


def sparse_game(seed, n_units, order=2):
    """Half of the units have an effect, four groups of them one together."""
    random = np.random.default_rng(seed)
    alone = random.normal(size=n_units) * (random.random(n_units) < 0.5)
    groups = [frozenset(random.choice(n_units, order, replace=False).tolist()) for _ in range(4)]
    joint = dict(zip(groups, random.normal(size=4) * 3, strict=True))
    return lambda removed: (
        -30.0 - sum(alone[unit] for unit in removed) - sum(joint[group] for group in joint if group <= removed)
    )


def on_model(model, removal="delete", text=TEXT):
    prompt = jopa.build_prompt(model.tokenizer, text)
    output = jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))
    return jopa.Problem(jopa.ModelScorer(model, prompt, output, removal))


# ContextCite


def test_coefficients_of_an_additive_table_are_its_effects():
    ranking = ContextCite(alpha=1e-6).rank(black_box(10, additive), seed=1)
    assert ranking.scores == pytest.approx(WEIGHTS, abs=1e-3)  # logit p = log p where p is small
    assert ranking.details["r2"] == pytest.approx(1, abs=1e-5)
    assert ranking.details["held_out_correlation"] > 0.99
    selection = ContextCite().run(black_box(10, additive), 3, seed=1)
    assert selection.removed == (1, 4, 0)
    assert selection.scores[3] < 0 and selection.scores[8] < 0  # the units whose removal helps


def test_the_penalty_leaves_few_coefficients():
    mild, strict = (ContextCite(alpha=alpha).rank(black_box(10, additive)) for alpha in (0.01, 0.5))
    assert mild.details["nonzero"] == 6 and [score == 0 for score in mild.scores] == [w == 0 for w in WEIGHTS]
    assert strict.details["nonzero"] == sum(score != 0 for score in strict.scores) < 6
    assert strict.details["r2"] < mild.details["r2"] < 1


def test_sees_redundant_units_but_not_which_belong_together():
    """With half of the prompt gone the pair matters; but so do, more, two of three that stand in for each other."""
    assert set(ContextCite().run(black_box(8, redundant_pair), 2).removed) == {2, 5}
    question = black_box(6, three_that_stand_in_for_each_other)
    assert set(ContextCite().run(question, 2).removed) < {0, 1, 2}
    assert best_sets(question.scorer, 2) == {frozenset({3, 4})}
    for seed in range(3):
        assert set(Interactions().run(question, 2, seed=seed).removed) == {3, 4}


def test_every_mask_is_taken_once_where_they_are_few():
    question = black_box(5, additive)
    selection = ContextCite().run(question, 2)
    assert selection.stop == "linear surrogate fitted to 31 masks"
    assert len(question.scorer.asked) == len(set(question.scorer.asked)) == 31
    assert frozenset(range(5)) not in question.scorer.asked
    assert selection.scores == pytest.approx(ContextCite().run(black_box(5, additive), 2, seed=9).scores)


def test_a_mask_drawn_twice_costs_nothing_and_counts_twice():
    question = black_box(7, additive)
    selection = ContextCite().run(question, 2)
    assert selection.stop == "linear surrogate fitted to 64 masks"
    assert question.evaluations == len(question.scorer.asked) == len(set(question.scorer.asked)) < 64
    assert frozenset(range(7)) not in question.scorer.asked


def test_masks_keep_half_of_the_units():
    question = black_box(40, lambda removed: -1.0 - 0.1 * len(removed))
    ContextCite(ablations=200).run(question, 1)
    assert np.mean([len(removed) for removed in question.scorer.asked]) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("log_prob", [-2000.0, -30.0, -1.0, -1e-3, -1e-6])
def test_logit_is_exact_far_from_one_half(log_prob):
    with localcontext() as context:
        context.prec = 1000
        p = Decimal(log_prob).exp()
        expected = float((p / (1 - p)).ln())
    assert context_cite._logit(np.array([log_prob])) == pytest.approx([expected], rel=1e-12)


def test_logit_of_certainty_is_finite():
    """float32 may say log p = 0, or a little more."""
    assert context_cite._logit(np.array([0.0, 1e-7, -1e-9])) == pytest.approx([16.6] * 3, abs=0.1)


def published_solver():
    """The solver of the package `context-cite`, without what importing the package itself asks for and downloads."""
    package = importlib.util.find_spec("context_cite")
    if package is None:
        pytest.skip("needs the files of context-cite: pip install --no-deps context-cite")
    path = Path(package.submodule_search_locations[0]) / "solver.py"
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location("published_solver", path))
    module.__spec__.loader.exec_module(module)
    return module.LassoRegression


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_equals_the_published_package(llama, alpha):
    question = on_model(llama)
    ranking = ContextCite(alpha=alpha).rank(question, seed=5)
    removed = random_removals(question.n_units, 64, 0.5, seed=5)
    log_prob = np.array(question.log_probs([row.nonzero()[0].tolist() for row in removed]))
    weight, _ = published_solver()(alpha).fit(~removed, log_prob - np.log1p(-np.exp(log_prob)), len(ANSWER))
    assert ranking.scores == pytest.approx(weight, abs=1e-6 * np.abs(weight).max())


# Interactions


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_pair_that_no_single_removal_reveals(seed):
    for n_units in (7, 8, 30):
        for k in (2, 3):
            question = black_box(n_units, redundant_pair)
            selection = Interactions().run(question, k, seed=seed)
            assert frozenset(selection.removed) in best_sets(question.scorer, k)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 4])
def test_reaches_the_enumerated_optimum_of_sparse_problems(seed, k):
    question = black_box(12, sparse_game(seed, 12))
    selection = Interactions().run(question, k, seed=seed)
    assert frozenset(selection.removed) in best_sets(question.scorer, k)
    assert selection.details["r2"] > 0.95


def test_triples_need_order_three():
    def chosen(order, k, seed):
        return Interactions(order=order).run(black_box(9, three_that_stand_in_for_each_other), k, seed=seed)

    for seed in range(3):
        selection = chosen(3, 3, seed)
        assert set(selection.removed) == {0, 1, 2}
        assert selection.details["predicted_log_prob"] == pytest.approx(-11, abs=0.1)
        assert selection.details["terms"] <= 20
        assert chosen(1, 3, seed).details["r2"] < chosen(2, 3, seed).details["r2"] < selection.details["r2"]


def test_a_sparse_table_is_fitted_exactly():
    question = black_box(10, redundant_pair)
    removed = random_removals(10, 128, 0.25, seed=0, distinct=True)
    values = token_log_probs(question, removed).sum(axis=1)
    fitted = interactions._fit_interactions(removed, values, 2)
    coefficients = dict(zip(fitted.terms, fitted.coefficients, strict=True))
    assert fitted.intercept == pytest.approx(-1.0, abs=1e-2)
    assert coefficients[2, 5] == pytest.approx(-5.0, abs=1e-2)
    assert coefficients[0,] == pytest.approx(-0.3, abs=1e-2)
    other = random_removals(10, 128, 0.5, seed=1)
    truth = token_log_probs(question, other).sum(axis=1)
    assert fitted.predict(other) == pytest.approx(truth, abs=0.05)


def random_surrogate(seed, n_units):
    random = np.random.default_rng(seed)
    terms = [(unit,) for unit in range(n_units) if random.random() < 0.6]
    terms += [pair for pair in combinations(range(n_units), 2) if random.random() < 0.2]
    return interactions._Surrogate(-3.0, tuple(terms), tuple(random.normal(size=len(terms)).tolist()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_best_sets_of_a_surrogate_are_those_of_enumeration(seed, k):
    fitted = random_surrogate(seed, 11)

    def value(chosen):
        on = [c for term, c in zip(fitted.terms, fitted.coefficients, strict=True) if set(term) <= set(chosen)]
        return fitted.intercept + sum(on)

    expected = sorted(value(chosen) for chosen in combinations(range(11), k))[:5]
    found = interactions._best_sets(fitted, 11, k, 5)
    assert [value(chosen) for chosen in found] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_swaps_find_what_enumeration_finds(seed, monkeypatch):
    fitted = random_surrogate(seed, 14)
    expected = [interactions._best_sets(fitted, 14, k, 8)[0] for k in (1, 2, 3, 5)]
    monkeypatch.setattr(interactions, "_ENUMERABLE", 0)
    assert [interactions._best_sets(fitted, 14, k, 8)[0] for k in (1, 2, 3, 5)] == expected


def test_units_without_a_term_fill_up():
    fitted = interactions._Surrogate(0.0, ((1,), (2, 3)), (-1.0, 5.0))
    assert interactions._best_sets(fitted, 40, 4, 1) == [(0, 1, 2, 4)]
    assert interactions._best_sets(interactions._Surrogate(0.0, (), ()), 40, 3, 4) == [(0, 1, 2)]


def test_hundreds_of_units():
    """79,800 pairs, of which those of the strongest units are looked at."""
    question = black_box(400, redundant_pair)
    selection = Interactions().run(question, 3, seed=0)
    assert {2, 5} <= set(selection.removed)
    assert question.evaluations <= 128 + 16
    many = Interactions(order=3).run(black_box(400, redundant_pair), 12, seed=0)
    assert len(set(many.removed)) == 12 and {2, 5} <= set(many.removed)


@pytest.mark.parametrize(("n_masks", "order", "expected"), [(100, 1, 0), (100, 2, 190), (100, 3, 355), (400, 2, 496)])
def test_the_terms_looked_at_are_limited(n_masks, order, expected, monkeypatch):
    """Pairs of 20 units are within 2 × 100, triples of 11; pairs of 32 units within 512."""
    looked_at = []
    monkeypatch.setattr(interactions, "_lasso", lambda features, _: looked_at.append(features.shape) or np.zeros(1))
    removed = random_removals(60, n_masks, 0.25, seed=0)
    interactions._fit_interactions(removed, removed @ np.arange(60.0), order)
    assert looked_at == [(n_masks, 60 + expected)]


def test_the_chosen_set_is_the_best_one_scored():
    question = black_box(15, sparse_game(3, 15, order=3))
    selection = Interactions(ablations=40, candidates=5).run(question, 3)
    scored = {removed for removed in question.scorer.asked if len(removed) == 3}
    assert question.log_prob(selection.removed) == min(map(question.log_prob, scored))
    assert selection.stop == f"{len(scored)} sets of 3 units scored"
    assert 40 <= question.evaluations <= 45


def test_masks_remove_a_quarter_or_what_is_asked_for():
    def mean_size(k):
        question = black_box(40, lambda removed: -1.0 - 0.1 * len(removed))
        Interactions(ablations=100, order=1, candidates=1).run(question, k)
        return np.mean([len(removed) for removed in question.scorer.asked])

    assert mean_size(3) == pytest.approx(10, abs=1)
    assert mean_size(15) == pytest.approx(15, abs=1)
    assert mean_size(30) == pytest.approx(20, abs=1)


# both


@pytest.mark.parametrize("method", [ContextCite(), Interactions()], ids=lambda method: method.name)
class TestBoth:
    @pytest.mark.parametrize("k", [1, 3, 8])
    def test_k_distinct_units_no_set_scored_twice_and_the_same_for_a_seed(self, method, k):
        question = black_box(8, redundant_pair)
        selection = method.run(question, k, seed=4)
        assert len(selection.removed) == len(set(selection.removed)) == k
        assert set(selection.removed) <= set(range(8))
        assert all(type(unit) is int for unit in selection.removed)
        assert len(question.scorer.asked) == len(set(question.scorer.asked)) == question.evaluations
        assert selection == method.run(black_box(8, redundant_pair), k, seed=4)

    def test_another_seed_draws_other_masks(self, method):
        asked = []
        for seed in (0, 1):
            question = black_box(20, redundant_pair)
            method.run(question, 2, seed=seed)
            asked.append(set(question.scorer.asked))
        assert len(asked[0] & asked[1]) < 20

    def test_a_prompt_of_one_unit(self, method):
        assert method.run(black_box(1, additive), 1).removed == (0,)

    def test_a_prompt_of_two_units(self, method):
        for k, expected in ((1, {1}), (2, {0, 1})):
            assert set(method.run(black_box(2, additive), k).removed) == expected

    def test_units_that_are_all_equal(self, method):
        for log_prob in (lambda removed: -1.0 - 0.5 * len(removed), lambda removed: -1.0, lambda removed: 0.0):
            for n_units in (4, 12):
                selection = method.run(black_box(n_units, log_prob), 2)
                assert len(set(selection.removed)) == 2
                assert all(np.isfinite(value) for value in selection.details.values())

    def test_details_are_plain_numbers(self, method):
        details = method.run(black_box(9, redundant_pair), 2).details
        assert {type(value) for value in details.values()} <= {int, float}

    def test_progress_is_told(self, method):
        told = []
        ask = type(method)(ablations=300)
        ask.run(black_box(12, redundant_pair, told), 2)
        assert told == [(128, 300), (256, 300), (300, 300)]

    @pytest.mark.parametrize("k", [0, 9])
    def test_k_out_of_range_is_refused_before_any_work(self, method, k):
        question = black_box(8, redundant_pair)
        with pytest.raises(jopa.SettingError, match=f"k must be between 1 and the prompt's 8 units, got {k}"):
            method.run(question, k)
        assert question.scorer.asked == []

    def test_without_scikit_learn_says_what_to_install(self, method, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn", None)
        question = black_box(8, redundant_pair)
        with pytest.raises(
            jopa.SettingError,
            match=rf"method '{method.name}' needs the package scikit-learn: pip install 'jopa\[baselines\]'",
        ):
            method.run(question, 2)
        assert question.scorer.asked == []
        with pytest.raises(jopa.SettingError, match="needs the package scikit-learn"):  # before there is an answer
            method.validate(question.shape, 2)

    @pytest.mark.parametrize("removal", ["delete", "zero", "hide"])
    def test_explains_a_model(self, method, removal, llama):
        output, search = jopa.Generation(5, seed=2), jopa.SearchOptions(seed=2)
        attribution = jopa.explain(TEXT, model=llama, method=method, removal=removal, output=output, search=search)
        assert attribution.method["name"] == method.name and len(attribution.removed) == 3
        prompt = jopa.build_prompt(llama.tokenizer, TEXT)
        output = jopa.Output(attribution.output_ids, attribution.output, attribution.target)
        again = jopa.Problem(jopa.ModelScorer(llama, prompt, output, removal))
        assert again.log_prob(attribution.removed) == pytest.approx(attribution.log_prob_removed, abs=1e-4)
        assert jopa.Attribution.from_json(attribution.to_json()) == attribution

    def test_every_architecture(self, method, tiny):
        assert len(method.run(on_model(tiny), 2).removed) == 2

    def test_a_prompt_with_nothing_around_its_units(self, method):
        """Removing all of them would leave nothing to predict from, so that is never asked for."""
        model = tiny_models.language_model("gpt2", chat=False)
        for text in ("write a story", "write a story about the doctor"):
            question = on_model(model, text=text)
            with pytest.raises(jopa.PromptError):
                question.log_prob(range(question.n_units))
            for k in (1, 2):
                assert len(method.run(question, k).removed) == k


def test_interactions_come_close_to_the_optimum_of_a_model(llama):
    question = on_model(llama)
    found = question.log_prob(Interactions(ablations=64, candidates=8).run(question, 3).removed)
    evaluations = question.evaluations
    values = sorted(question.log_probs(combinations(range(question.n_units), 3)))
    assert evaluations <= 73
    assert found <= values[4]  # of 84


def test_settings_out_of_range_are_refused():
    for method in (ContextCite, Interactions):
        with pytest.raises(jopa.SettingError, match="ablations must be at least 8, got 7"):
            method(ablations=7)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(jopa.SettingError, match=f"alpha must be a positive number, got {alpha}"):
            ContextCite(alpha=alpha)
    for order in (0, 4):
        with pytest.raises(jopa.SettingError, match=f"order must be between 1 and 3, got {order}"):
            Interactions(order=order)
    with pytest.raises(jopa.SettingError, match="candidates must be at least 1, got 0"):
        Interactions(candidates=0)


def test_a_budget_is_the_number_of_masks():
    assert ContextCite(alpha=0.1).with_budget(100) == ContextCite(100, 0.1)
    assert Interactions(candidates=10).with_budget(100) == Interactions(90, 2, 10)
    with pytest.raises(
        jopa.SettingError, match=r"budget must be at least 24 \(8 ablations and 16 candidates\), got 23"
    ):
        Interactions().with_budget(23)
