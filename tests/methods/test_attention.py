"""Attention methods on planted weights and against the models' own; what is borrowed of a model goes back."""

import pytest
import torch

import jopa
import tiny_models
from jopa.methods.attention import Attention, LastAttention
from table_scorer import TableScorer, TableWhiteBoxScorer, problem, redundant_pair

METHODS = [Attention(), LastAttention()]
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())
SPANS = [(0, 13), (20, 30), (31, 46)]


def case(model, unit="token", target=(0, 7)):
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor and his patient", unit=unit)
    output = jopa.Output(ANSWER, model.decode(ANSWER), target)
    return prompt, output, jopa.Problem(jopa.ModelScorer(model, prompt, output, "delete"))


class Layers(TableWhiteBoxScorer):
    """Three layers that look at different units."""

    def attention(self):
        return torch.tensor([[0.5, 0.1, 0.0, 0.2], [0.6, 0.0, 0.1, 0.2], [0.1, 0.2, 0.4, 0.2]])


def test_all_layers_count_alike_and_the_last_alone():
    question = jopa.Problem(Layers(4, redundant_pair))
    every, last = Attention().run(question, 2), LastAttention().run(question, 2)
    assert every.scores == pytest.approx([0.4, 0.1, 0.5 / 3, 0.2])
    assert every.removed == (0, 3)
    assert last.scores == pytest.approx([0.1, 0.2, 0.4, 0.2])
    assert last.removed == (2, 1)  # the first of equals
    assert question.evaluations == 0
    assert (every.stop, last.stop) == ("3 layers read", "the last layer read")


def test_a_last_layer_that_looks_at_what_matters_alone_misses_the_redundant_pair():
    assert LastAttention().run(problem(8, redundant_pair), 2).removed == (0, 1)


@pytest.mark.parametrize("unit", ["token", SPANS])
def test_scores_are_the_models_own_weights(tiny, unit):
    prompt, output, question = case(tiny, unit=unit, target=(1, 4))
    implementation = tiny.model.config._attn_implementation
    tiny.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = tiny.model(torch.tensor([[*prompt.ids, *output.ids]]), output_attentions=True).attentions
    finally:
        tiny.model.set_attn_implementation(implementation)
    queries = [len(prompt.ids) - 1 + t for t in (1, 2, 3)]  # the positions that predict tokens 1 to 3

    def paid(layer, unit):
        weights = layer[0][:, queries][:, :, list(unit.positions)]
        return weights.sum(dim=2).mean().item()

    means = [sum(paid(layer, unit) for layer in layers) / len(layers) for unit in prompt.units]
    assert Attention().rank(question).scores == pytest.approx(means, abs=1e-5)
    lasts = [paid(layers[-1], unit) for unit in prompt.units]
    assert LastAttention().rank(question).scores == pytest.approx(lasts, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_forward_is_all_it_costs(llama, method):
    prompt, output, question = case(llama)
    method.run(question, 2)
    n_tokens = len(prompt.ids) + len(output.ids)
    assert question.ffe == pytest.approx((n_tokens - 1) / n_tokens)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_forwards", [1, 2])  # the prompt's, which gives no weights, and the target's
def test_the_model_goes_back_as_it_came_even_when_a_forward_fails(llama, method, n_forwards, monkeypatch):
    seen = []
    forward = llama.model.model.forward

    def fails(*arguments, **named):
        seen.append(llama.model.config._attn_implementation)
        if len(seen) == n_forwards:
            raise RuntimeError("shape mismatch")
        return forward(*arguments, **named)

    *_, question = case(llama)
    implementation = llama.model.config._attn_implementation
    modes = [module.training for module in llama.model.modules()]
    monkeypatch.setattr(llama.model.model, "forward", fails)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        method.run(question, 2)
    assert seen == [implementation, "eager"][:n_forwards] and implementation != "eager"
    assert llama.model.config._attn_implementation == implementation
    assert [module.training for module in llama.model.modules()] == modes
    assert not llama.model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attentions", [None, (), (None, None)])
def test_a_model_that_hides_its_weights_is_named(llama, method, attentions):
    def hide(_model, _arguments, output):
        output.attentions = attentions

    *_, question = case(llama)
    handle = llama.model.register_forward_hook(hide)
    try:
        with pytest.raises(jopa.ScoringError, match="'tiny-llama' does not give its attention weights; choose another"):
            method.run(question, 2)
    finally:
        handle.remove()


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_changes_nothing(method):
    assert method.run(problem(6, redundant_pair), 2, seed=1) == method.run(problem(6, redundant_pair), 2, seed=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_black_box_scorer_is_refused_before_any_work(method):
    scorer = TableScorer(4, redundant_pair)
    message = f"'{method.name}' needs attention weights, which this model or scorer"
    with pytest.raises(jopa.SettingError, match=message):
        method.run(jopa.Problem(scorer), 2)
    assert scorer.asked == []


@pytest.mark.parametrize("method", METHODS)
def test_k_out_of_range_and_budgets_are_refused(method):
    with pytest.raises(jopa.SettingError, match="k must be between 1 and the prompt's 8 units, got 0"):
        method.run(problem(8, redundant_pair), 0)
    with pytest.raises(jopa.SettingError, match=f"'{method.name}' takes no budget"):
        method.with_budget(5)
