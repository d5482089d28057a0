"""Methods that only remove units, on planted problems with brute force as the oracle, and on tiny random models."""

import math
from itertools import combinations, permutations

import pytest
import torch

import jopa
import tiny_models
from jopa.methods.perturbation import Ablation, Exhaustive, Greedy, Random, Shapley
from table_scorer import TableScorer, best_sets, redundant_pair

TEXT = "write a story about the doctor"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())
ALL = [Random(), Ablation(), Shapley(permutations=4), Greedy(), Exhaustive()]


def black_box(n_units, log_prob, told=None):
    progress = None if told is None else lambda done, total: told.append((done, total))
    return jopa.Problem(TableScorer(n_units, log_prob), progress)


def on_model(model, removal="delete", text=TEXT):
    prompt = jopa.build_prompt(model.tokenizer, text)
    output = jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))
    return jopa.Problem(jopa.ModelScorer(model, prompt, output, removal))


def random_game(seed, n_units=6):
    """A log-probability with interactions of every order: an independent number for each removed set."""
    table = torch.randn(2**n_units, generator=torch.Generator().manual_seed(seed)).tolist()
    return lambda removed: table[sum(2**unit for unit in removed)]


def pairwise_game(seed, n_units=6):
    """A log-probability in which units interact in pairs only."""
    weights = torch.randn(n_units, n_units, generator=torch.Generator().manual_seed(seed))
    return lambda removed: float(weights[sorted(removed)][:, sorted(removed)].sum())


def exact_shapley(question):
    """The definition: the mean contribution over all orders in which units enter."""
    units = frozenset(range(question.n_units))
    subsets = [frozenset(s) for size in range(len(units) + 1) for s in combinations(units, size)]
    value = dict(zip(subsets, question.log_probs([units - subset for subset in subsets]), strict=True))
    total = dict.fromkeys(units, 0.0)
    for order in permutations(units):
        for position, unit in enumerate(order):
            before = frozenset(order[:position])
            total[unit] += value[before | {unit}] - value[before]
    return [total[unit] / math.factorial(len(units)) for unit in sorted(units)]


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_distinct_units_and_no_set_scored_twice(method, k):
    question = black_box(8, redundant_pair)
    selection = method.run(question, k, seed=4)
    assert len(selection.removed) == len(set(selection.removed)) == k
    assert set(selection.removed) <= set(range(8))
    assert len(question.scorer.asked) == len(set(question.scorer.asked)) == question.evaluations
    assert selection == method.run(black_box(8, redundant_pair), k, seed=4)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
@pytest.mark.parametrize("k", [0, 9])
def test_k_out_of_range_is_refused_before_any_work(method, k):
    question = black_box(8, redundant_pair)
    with pytest.raises(jopa.SettingError, match=f"k must be between 1 and the prompt's 8 units, got {k}"):
        method.run(question, k)
    assert question.scorer.asked == []


def test_who_finds_the_pair_that_only_joint_removal_reveals():
    """Leave-one-out cannot, greedy does not from the larger single effects, Shapley values and enumeration do."""

    def chosen(method, k):
        return set(method.run(black_box(8, redundant_pair), k).removed)

    assert chosen(Ablation(), 2) == chosen(Greedy(), 2) == {0, 1}
    assert not {2, 5} <= chosen(Ablation(), 3)
    assert chosen(Greedy(), 3) == {0, 1, 2}
    assert chosen(Greedy(), 4) == {0, 1, 2, 5}  # the pair's second half is worth a lot once the first is gone
    assert chosen(Exhaustive(), 2) == chosen(Shapley(), 2) == {2, 5}
    assert chosen(Exhaustive(), 3) == chosen(Shapley(), 3) == {0, 2, 5}


# --- random


def test_random_draws_every_unit_equally_often_and_asks_nothing():
    question = black_box(5, redundant_pair)
    draws = [Random().run(question, 2, seed=seed).removed for seed in range(500)]
    assert question.scorer.asked == []
    counts = [sum(unit in draw for draw in draws) for unit in range(5)]
    assert sum(counts) == 1000
    assert all(abs(count - 200) < 4 * math.sqrt(500 * 0.4 * 0.6) for count in counts)


# --- leave-one-out


def test_ablation_scores_are_the_effects_alone():
    question = black_box(7, random_game(1, 7))
    ranking = Ablation().rank(question)
    value = question.scorer.log_prob
    assert ranking.scores == pytest.approx([value(frozenset()) - value(frozenset({i})) for i in range(7)], abs=1e-6)
    assert sorted(question.scorer.asked, key=sorted) == [frozenset(), *(frozenset({i}) for i in range(7))]
    assert Ablation().run(question, 2).scores == ranking.scores
    assert question.evaluations == 8  # the second ranking came from the memo


def test_long_prompts_are_scored_in_chunks_with_progress():
    told = []
    Ablation().rank(black_box(199, lambda removed: -float(len(removed)), told))
    assert told == [(128, 200), (200, 200)]


# --- Shapley values


@pytest.mark.parametrize("seed", range(3))
def test_shapley_errors_shrink_and_stay_within_four_standard_errors(seed):
    exact = torch.tensor(exact_shapley(black_box(6, random_game(seed))))

    def estimate(n):
        ranking = Shapley(permutations=n).rank(black_box(6, random_game(seed)), seed=100 + seed)
        return torch.tensor(ranking.scores), torch.tensor(ranking.details["standard_errors"])

    few, few_errors = estimate(100)
    many, many_errors = estimate(10_000)
    assert ((few - exact).abs() < 4 * few_errors).all()
    assert ((many - exact).abs() < 4 * many_errors).all()
    assert (few_errors / many_errors).mean() == pytest.approx(10, rel=0.2)  # √100
    assert (many - exact).abs().mean() < (few - exact).abs().mean() / 2


def test_shapley_standard_errors_are_as_large_as_they_claim():
    exact = torch.tensor(exact_shapley(black_box(5, random_game(9, 5))))
    question = black_box(5, random_game(9, 5))
    standardised = []
    for seed in range(150):
        ranking = Shapley(permutations=40).rank(question, seed=seed)
        standardised.append((torch.tensor(ranking.scores) - exact) / torch.tensor(ranking.details["standard_errors"]))
    spread = torch.stack(standardised)
    assert spread.mean().abs() < 0.2
    assert spread.std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("permutations", [4, 50])
def test_shapley_values_add_up_to_what_all_units_do(permutations):
    question = black_box(6, random_game(3))
    ranking = Shapley(permutations).rank(question, seed=1)
    assert sum(ranking.scores) == pytest.approx(question.log_prob() - question.log_prob(range(6)), abs=1e-12)


def test_an_order_and_its_reverse_are_exact_where_units_interact_in_pairs():
    question = black_box(6, pairwise_game(2))
    ranking = Shapley(permutations=4).rank(question)
    assert ranking.scores == pytest.approx(exact_shapley(question), abs=1e-5)
    assert max(ranking.details["standard_errors"]) < 1e-5


def test_shapley_scores_prefixes_of_its_orders_only():
    told = []
    question = black_box(9, random_game(0, 9), told)
    Shapley(permutations=6).rank(question)
    assert question.evaluations == len(question.scorer.asked) <= 6 * 8 + 2
    sizes = [len(removed) for removed in question.scorer.asked]
    assert sizes[0] == 9 and sorted(set(sizes)) == list(range(10))
    assert told == [(60, 60)]


def test_shapley_of_a_single_unit():
    question = black_box(1, lambda removed: -2.0 * len(removed))
    ranking = Shapley().rank(question)
    assert ranking.scores == (2.0,) and ranking.details == {"standard_errors": [0.0]}


def test_shapley_on_a_model_equals_the_definition(llama):
    question = on_model(llama)
    ranking = Shapley(permutations=200).rank(question, seed=5)
    exact = exact_shapley(question)
    errors = ranking.details["standard_errors"]
    assert all(abs(a - b) < 4 * error for a, b, error in zip(ranking.scores, exact, errors, strict=True))
    assert max(errors) < 0.2 * (max(exact) - min(exact))
    assert sum(ranking.scores) == pytest.approx(question.log_prob() - question.log_prob(range(6)), abs=1e-9)


def test_shapley_refuses_a_prompt_that_cannot_be_emptied():
    model = tiny_models.language_model("gpt2", chat=False)
    with pytest.raises(jopa.PromptError, match=r"no template that would be left.*use removal 'zero'"):
        Shapley().run(on_model(model), 2)
    assert len(Shapley(4).run(on_model(model, "zero"), 2).removed) == 2


@pytest.mark.parametrize("value", [2, 0, -4, 7])
def test_shapley_settings_out_of_range_are_refused(value):
    with pytest.raises(jopa.SettingError, match=f"permutations must be an even number of at least 4, got {value}"):
        Shapley(permutations=value)


# --- greedy


@pytest.mark.parametrize("seed", range(4))
def test_greedy_takes_the_best_unit_of_every_round(seed):
    told = []
    question = black_box(7, random_game(seed, 7), told)
    selection = Greedy().run(question, 4)
    value = question.scorer.log_prob
    for size, step in enumerate(selection.trace):
        current = frozenset(selection.removed[:size])
        assert (step.step, step.log_prob) == (size, pytest.approx(value(current), abs=1e-6))
        if size < 4:
            rest = set(range(7)) - current
            assert selection.removed[size] == min(rest, key=lambda unit, s=current: value(s | {unit}))
    assert [step.evaluations for step in selection.trace] == [1, 8, 14, 19, 23]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(selection.trace) == 5 and selection.stop == "4 units added one by one"


def test_greedy_takes_the_first_of_equals():
    assert Greedy().run(black_box(5, lambda removed: -float(len(removed))), 3).removed == (0, 1, 2)


def test_greedy_is_optimal_where_effects_add_up():
    effects = torch.randn(10, generator=torch.Generator().manual_seed(0)).tolist()
    question = black_box(10, lambda removed: -math.fsum(effects[unit] for unit in removed))
    assert frozenset(Greedy().run(question, 4).removed) in best_sets(question.scorer, 4)


# --- all sets


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_exhaustive_is_the_optimum_and_its_certificate_says_so(seed, k):
    question = black_box(6, random_game(seed))
    selection = Exhaustive().run(question, k)
    assert frozenset(selection.removed) in best_sets(question.scorer, k)
    assert question.evaluations == math.comb(6, k)
    assert question.certificate(selection.removed) == "optimal"


def test_exhaustive_scores_every_set_once_in_chunks_with_progress():
    told = []
    question = black_box(12, redundant_pair, told)
    selection = Exhaustive().run(question, 3)
    assert question.scorer.asked == [frozenset(s) for s in combinations(range(12), 3)]
    assert told == [(128, 220), (220, 220)]
    assert (selection.removed, selection.stop) == ((0, 2, 5), "all 220 sets scored")


def test_exhaustive_takes_the_first_of_equals():
    assert Exhaustive().run(black_box(5, lambda _: -1.0), 2).removed == (0, 1)


def test_exhaustive_on_a_model(llama):
    question = on_model(llama)
    selection = Exhaustive().run(question, 2)
    alone = {pair: on_model(llama).log_prob(pair) for pair in combinations(range(6), 2)}
    assert alone[selection.removed] == pytest.approx(min(alone.values()), abs=1e-4)


def test_exhaustive_refuses_more_sets_than_its_limit():
    question = black_box(60, redundant_pair)
    with pytest.raises(
        jopa.SettingError, match=r"C\(60, 3\) = 34,220 sets are more than the limit of 20,000: lower k, take larger"
    ):
        Exhaustive().run(question, 3)
    assert question.scorer.asked == []
    assert Exhaustive(limit=15).run(black_box(6, redundant_pair), 2).removed == (2, 5)
    with pytest.raises(jopa.SettingError, match="limit must be at least 1, got 0"):
        Exhaustive(limit=0)
