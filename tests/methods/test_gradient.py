"""Gradient methods on planted problems with closed forms, and on tiny models against plain autograd and Captum."""

import json
from itertools import combinations
from math import factorial, prod

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients

import jopa
import tiny_models
from jopa.methods.gradient import AttentionGradient, ContinuousMask, GradientTimesInput, IntegratedGradients
from table_scorer import TableScorer, TableWhiteBoxScorer, best_sets, problem, redundant_pair

METHODS = [GradientTimesInput(), AttentionGradient(), IntegratedGradients(), ContinuousMask()]
COEFFICIENTS = (0.5, -1.0, 2.0, 0.0, 1.25)
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())
SPANS = [(0, 13), (20, 30), (31, 46)]


def additive(removed):
    return -1.0 - sum(COEFFICIENTS[unit] for unit in removed)


def needs_both(removed):
    """y needs units 1 and 3: to lose either is to lose it."""
    return -4.0 * bool({1, 3} & removed)


def needs_either(removed):
    """Unit 1 or unit 3 is enough: only to lose both is to lose y."""
    return -4.0 * ({1, 3} <= removed)


def random_table(n_units, seed):
    values = torch.randn(2**n_units, generator=torch.Generator().manual_seed(seed)).tolist()
    return lambda removed: values[sum(1 << unit for unit in removed)]


def shapley(n_units, log_prob, unit):
    """By definition: the unit's effect, averaged over all orders in which units can be removed."""
    others = [other for other in range(n_units) if other != unit]
    total = 0.0
    for size in range(n_units):
        weight = factorial(size) * factorial(n_units - 1 - size) / factorial(n_units)
        for before in map(frozenset, combinations(others, size)):
            total += weight * (log_prob(before) - log_prob(before | {unit}))
    return total


def case(architecture, removal="zero", unit="token", target=(0, 7), **settings):
    model = tiny_models.language_model(architecture)
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor and his patient", unit=unit)
    output = jopa.Output(ANSWER, model.decode(ANSWER), target)
    return model.model, prompt, output, jopa.Problem(jopa.ModelScorer(model, prompt, output, removal, **settings))


def embeddings_of(model, prompt, output):
    return model.get_input_embeddings()(torch.tensor([[*prompt.ids, *output.ids]])).detach()


def log_prob_of(model, prompt, output, embeddings):
    """log p(target) of every row: one plain forward from embeddings, all logits, no cache."""
    logits = model(inputs_embeds=embeddings, use_cache=False).logits.log_softmax(-1)
    start, end = output.target
    reads = torch.arange(len(prompt.ids) - 1 + start, len(prompt.ids) - 1 + end)
    return logits[:, reads, list(output.ids[start:end])].sum(dim=1)


def by_unit(prompt, products):
    """Σ over the hidden size and the unit's tokens."""
    return [products[0, list(unit.positions)].sum().item() for unit in prompt.units]


def without(prompt, embeddings, units):
    zeroed = embeddings.clone()
    zeroed[0, [position for unit in units for position in prompt.units[unit].positions]] = 0.0
    return zeroed


@pytest.mark.parametrize("method", [GradientTimesInput(), IntegratedGradients(), IntegratedGradients(steps=1)])
def test_effects_that_add_up_are_found_exactly(method):
    selection = method.run(problem(5, additive), 2)
    assert selection.scores == pytest.approx(COEFFICIENTS, abs=1e-6)
    assert selection.removed == (2, 4)
    question = problem(5, additive)
    alone = [question.log_prob() - question.log_prob([unit]) for unit in range(5)]
    assert selection.scores == pytest.approx(alone, abs=1e-6)


def test_the_gradient_is_blind_to_what_is_said_twice_and_integrated_gradients_halve_it():
    assert GradientTimesInput().rank(problem(5, needs_either)).scores == pytest.approx([0, 0, 0, 0, 0], abs=1e-6)
    assert IntegratedGradients().rank(problem(5, needs_either)).scores == pytest.approx([0, 2, 0, 2, 0], abs=1e-5)


def test_the_gradient_counts_a_shared_effect_twice_and_integrated_gradients_halve_it():
    assert GradientTimesInput().rank(problem(5, needs_both)).scores == pytest.approx([0, 4, 0, 4, 0], abs=1e-6)
    assert IntegratedGradients().rank(problem(5, needs_both)).scores == pytest.approx([0, 2, 0, 2, 0], abs=1e-5)


def test_the_redundant_pair():
    """One by one, the pair {2, 5} does not show; the path to zero embeddings runs through it."""
    assert GradientTimesInput().run(problem(8, redundant_pair), 2).removed == (0, 1)
    assert IntegratedGradients().run(problem(8, redundant_pair), 2).removed == (2, 5)


def test_half_of_the_attention_shows_what_is_said_twice():
    assert AttentionGradient().rank(problem(5, needs_either)).scores == pytest.approx([0, 1, 0, 1, 0], abs=1e-6)
    assert AttentionGradient(1.0).rank(problem(5, needs_either)).scores == pytest.approx([0, 0, 0, 0, 0], abs=1e-6)
    assert AttentionGradient().run(problem(8, redundant_pair), 2).removed == (2, 5)


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, float("nan")])
def test_attention_is_multiplied_by_more_than_nothing_and_no_more_than_all(factor):
    with pytest.raises(jopa.SettingError, match="factor must be"):
        AttentionGradient(factor)


@pytest.mark.parametrize("seed", range(3))
def test_integrated_gradients_between_the_corners_of_a_table_are_shapley_values(seed):
    """Owen (1972): the diagonal of the multilinear extension."""
    table = random_table(6, seed)
    ranking = IntegratedGradients().rank(problem(6, table))
    assert ranking.scores == pytest.approx([shapley(6, table, unit) for unit in range(6)], abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_table_between_its_corners_is_the_sum_over_its_sets(seed):
    """As `TableWhiteBoxScorer` defines it, term by term, and its derivative by the difference of two sums."""
    table = random_table(5, seed)
    mask = torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()

    def extension(mask):
        sets = [frozenset(s) for size in range(6) for s in combinations(range(5), size)]
        return sum(table(s) * prod(1 - m if i in s else m for i, m in enumerate(mask)) for s in sets)

    totals, gradients = TableWhiteBoxScorer(5, table).relaxed_gradients(torch.tensor([[1.0] * 5, mask]))
    assert totals.tolist() == pytest.approx([table(frozenset()), extension(mask)], abs=1e-5)
    for unit in range(5):  # the extension is linear in each unit's share
        ends = [extension([*mask[:unit], end, *mask[unit + 1 :]]) for end in (1.0, 0.0)]
        assert gradients[1, unit].item() == pytest.approx(ends[0] - ends[1], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_few_points_are_exact_on_a_polynomial(seed):
    """Six units: the gradient has degree 5 in α, for which 3 Gauss-Legendre points suffice and 1 does not."""
    gaps = {
        steps: IntegratedGradients(steps).rank(problem(6, random_table(6, seed))).details["completeness_gap"]
        for steps in (1, 3, 20)
    }
    assert abs(gaps[1]) > 1e-2
    assert gaps[3] == pytest.approx(0, abs=1e-4)
    assert gaps[20] == pytest.approx(0, abs=1e-4)


def test_scores_and_gap_add_up_to_the_whole_change():
    ranking = IntegratedGradients(1).rank(problem(6, random_table(6, 0)))
    table = random_table(6, 0)
    change = table(frozenset()) - table(frozenset(range(6)))
    assert sum(ranking.scores) - ranking.details["completeness_gap"] == pytest.approx(change, abs=1e-5)


def test_the_completeness_gap_of_a_smooth_model_closes_with_steps():
    *_, question = case("gpt2")
    gaps = [abs(IntegratedGradients(n).rank(question).details["completeness_gap"]) for n in (2, 10, 50)]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2]
    assert gaps[2] < 1e-3


def test_the_completeness_gap_is_told_where_it_stays_open():
    """RMSNorm makes log p turn sharply near zero embeddings, where few points miss it."""
    model, prompt, output, question = case("llama")
    ranking = IntegratedGradients(10).rank(question)
    embeddings = embeddings_of(model, prompt, output)
    with torch.no_grad():
        ends = [
            log_prob_of(model, prompt, output, without(prompt, embeddings, units)).item() for units in ((), range(9))
        ]
    expected = sum(ranking.scores) - (ends[0] - ends[1])
    assert ranking.details["completeness_gap"] == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 0.1


def test_no_gradient_is_taken_at_zero_embeddings():
    """There it overflows in SmolLM2 where a unit is the very first token; neither the path nor the gap needs it."""

    class Overflows(TableWhiteBoxScorer):
        def relaxed_gradients(self, factors):
            if not factors.any(dim=1).all():
                raise jopa.ScoringError("the gradient of the log-probability is not finite")
            return super().relaxed_gradients(factors)

        def relaxed_log_probs(self, factors):
            return super().relaxed_gradients(factors)[0]

    ranking = IntegratedGradients().rank(jopa.Problem(Overflows(5, additive)))
    assert ranking.scores == pytest.approx(COEFFICIENTS, abs=1e-6)
    assert ranking.details["completeness_gap"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("unit", ["token", SPANS])
def test_gradient_times_input_is_what_it_is_called(tiny, unit):
    model, prompt, output, question = case(tiny.id.removeprefix("tiny-"), unit=unit, target=(1, 5))
    embeddings = embeddings_of(model, prompt, output).requires_grad_()
    (gradient,) = torch.autograd.grad(log_prob_of(model, prompt, output, embeddings).sum(), embeddings)
    expected = by_unit(prompt, (embeddings * gradient).detach())
    assert GradientTimesInput().rank(question).scores == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("unit", ["token", SPANS])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_integrated_gradients_equal_captums(architecture, unit):
    model, prompt, output, question = case(architecture, unit=unit, target=(1, 5))
    embeddings = embeddings_of(model, prompt, output)
    captum = CaptumIntegratedGradients(lambda rows: log_prob_of(model, prompt, output, rows))
    baseline = without(prompt, embeddings, range(len(prompt.units)))  # the template and the output keep theirs
    products = captum.attribute(embeddings, baseline, n_steps=30, method="gausslegendre", internal_batch_size=10)
    scores = IntegratedGradients(30).rank(question).scores
    assert scores == pytest.approx(by_unit(prompt, products), rel=1e-3, abs=2e-3)


def test_model_work_is_what_the_methods_say():
    for method, cost in [
        (GradientTimesInput(), 3),
        (AttentionGradient(), 3),
        (IntegratedGradients(25), 3 * 25 + 2),
        (ContinuousMask(4), 3 * 5 + 1),
    ]:
        _, prompt, output, question = case("llama", reuse_prefix=False)
        n_tokens = len(prompt.ids) + len(output.ids)
        method.run(question, 2)
        assert question.ffe == pytest.approx(cost * (n_tokens - 1) / n_tokens)  # the last token is never read
        assert question.evaluations == isinstance(method, ContinuousMask)


@pytest.mark.parametrize("k", [1, 2])
def test_the_continuous_mask_finds_dominant_units(k):
    selection = ContinuousMask().run(problem(5, additive), k)
    assert set(selection.removed) == {2, 4} if k == 2 else {2}
    assert selection.removed[0] == 2
    assert selection.details["projected_log_prob"] == additive(frozenset(selection.removed))


def test_the_continuous_mask_finds_the_redundant_pair_because_it_starts_between_the_corners():
    """At m = 1 the pair does not show (see the gradient above); where every unit is a little removed, it does."""
    question = problem(6, redundant_pair)
    selection = ContinuousMask().run(question, 2)
    assert set(selection.removed) == {2, 5}
    assert best_sets(question.scorer, 2) == {frozenset({2, 5})}


def test_rounding_loses_what_half_removed_units_promised():
    """k = 1: units 2 and 5, both partly removed, lower log p more than unit 0 does, and neither does so alone."""
    selection = ContinuousMask(penalty=10.0).run(problem(6, redundant_pair), 1)
    assert selection.removed == (2,)  # the best single unit is 0
    details = selection.details
    assert details["projected_log_prob"] == pytest.approx(-1.05)
    assert details["relaxed_log_prob"] < -2
    assert details["rounding_gap"] == details["projected_log_prob"] - details["relaxed_log_prob"] > 1
    assert details["mask"][2] == pytest.approx(details["mask"][5])
    assert 0.2 < details["mask"][2] < 0.8


def test_the_penalty_holds_the_number_of_removed_units():
    def removed_in_all(penalty):
        question = problem(4, lambda removed: -3.0 * len(removed))
        return 4 - sum(ContinuousMask(penalty=penalty).run(question, 2).details["mask"])

    assert removed_in_all(0.0) > 3.5
    assert removed_in_all(10.0) == pytest.approx(2, abs=0.3)


def test_the_trace_tells_the_relaxed_log_prob_of_every_step():
    question = problem(6, redundant_pair)
    selection = ContinuousMask(steps=7).run(question, 2)
    assert [step.step for step in selection.trace] == list(range(8))
    even = question.relaxed_gradients(torch.full((1, 6), 1 - 2 / 7))[0].item()
    assert selection.trace[0].log_prob == pytest.approx(even)
    assert selection.trace[-1].log_prob == selection.details["relaxed_log_prob"] < even
    assert selection.stop == "all 7 steps made"


def test_details_are_what_they_are_called():
    question = problem(8, random_table(8, 3))
    selection = ContinuousMask(steps=12).run(question, 3)
    mask = selection.details["mask"]
    assert len(mask) == 8 and all(0 < m < 1 for m in mask)
    assert list(selection.removed) == sorted(range(8), key=mask.__getitem__)[:3]
    assert selection.details["projected_log_prob"] == question.log_prob(selection.removed)
    again = question.relaxed_gradients(torch.tensor([mask]))[0].item()
    assert selection.details["relaxed_log_prob"] == pytest.approx(again, abs=1e-6)
    json.dumps(selection.details, allow_nan=False)


@pytest.mark.parametrize("removal", ["zero", "delete"])
def test_the_claimed_removal_done_again(removal):
    model, prompt, output, question = case("llama", removal)
    selection = ContinuousMask(steps=10).run(question, 3)
    embeddings = embeddings_of(model, prompt, output)
    m = torch.ones(embeddings.shape[1])
    for unit, factor in zip(prompt.units, selection.details["mask"], strict=True):
        m[list(unit.positions)] = factor
    with torch.no_grad():
        relaxed = log_prob_of(model, prompt, output, embeddings * m[None, :, None]).item()
        zeroed = log_prob_of(model, prompt, output, without(prompt, embeddings, selection.removed)).item()
    assert selection.details["relaxed_log_prob"] == pytest.approx(relaxed, abs=1e-3)
    same = selection.details["projected_log_prob"] == pytest.approx(zeroed, abs=1e-3)
    assert same == (removal == "zero")
    assert selection.details["projected_log_prob"] == question.log_prob(selection.removed)


@pytest.mark.parametrize("method", METHODS)
def test_every_unit_can_be_removed(method):
    assert sorted(method.run(problem(4, redundant_pair), 4).removed) == [0, 1, 2, 3]
    assert method.run(problem(1, redundant_pair), 1).removed == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_changes_nothing(method):
    first, second = (method.run(problem(4, random_table(4, 1)), 2, seed=seed) for seed in (1, 2))
    assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_a_black_box_scorer_is_refused_before_any_work(method):
    scorer = TableScorer(4, redundant_pair)
    with pytest.raises(jopa.SettingError, match=f"'{method.name}' needs gradients, which this model or scorer"):
        method.run(jopa.Problem(scorer), 2)
    assert scorer.asked == []


@pytest.mark.parametrize("method", METHODS)
def test_k_out_of_range_is_refused(method):
    with pytest.raises(jopa.SettingError, match="k must be between 1 and the prompt's 8 units, got 9"):
        method.run(problem(8, redundant_pair), 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(steps=0), "steps must be between 1 and 1000, got 0"),
        (lambda: IntegratedGradients(steps=1001), "steps must be between 1 and 1000, got 1001"),
        (lambda: ContinuousMask(steps=0), "steps must be at least 1, got 0"),
        (lambda: ContinuousMask(learning_rate=0.0), "learning_rate must be finite and above 0, got 0.0"),
        (lambda: ContinuousMask(learning_rate=float("nan")), "learning_rate must be finite and above 0, got nan"),
        (lambda: ContinuousMask(penalty=-0.5), "penalty must be finite and at least 0, got -0.5"),
        (lambda: ContinuousMask(penalty=float("inf")), "penalty must be finite and at least 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(jopa.SettingError, match=message):
        make()


def test_a_budget_is_a_number_of_steps():
    assert IntegratedGradients().with_budget(7) == IntegratedGradients(steps=7)
    assert ContinuousMask(penalty=3.0).with_budget(7) == ContinuousMask(steps=7, penalty=3.0)
    with pytest.raises(jopa.SettingError, match="'grad-x-input' takes no budget"):
        GradientTimesInput().with_budget(7)


def test_progress_is_told():
    told = []
    scorer = problem(5, redundant_pair).scorer
    question = jopa.Problem(scorer, lambda done, total: told.append((done, total)))
    IntegratedGradients(50).rank(question)
    assert told == [(20, 50), (40, 50), (50, 50)]
    told.clear()
    ContinuousMask(2).run(question, 2)
    assert told == [(0, 2), (1, 2), (2, 2)]
