"""Gradients, attention and distributions of the scorer equal those of plain transformers."""

import pytest
import torch
from scorer_cases import case, plain_log_prob

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.scoring import model_scorer
from jopa.scoring.probe import probe_of
from slow_reference import keep_masks


@pytest.mark.parametrize("removed", [(), (1,), (0, 8)])
def test_mask_gradient_equals_a_plain_backward(tiny, removed):
    prompt, output = case(tiny)
    keep = keep_masks(9, [removed])[0]
    factor = keep.float().requires_grad_()
    (expected,) = torch.autograd.grad(plain_log_prob(tiny.model, prompt, output, factor), factor)
    gradient = jopa.ModelScorer(tiny, prompt, output, "zero").mask_gradient(keep)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def test_mask_gradient_equals_finite_differences():
    gpt2 = tiny_models.language_model("gpt2")  # its layers keep float64, which small differences need
    prompt, output = case(gpt2)
    double = type(gpt2.model)(gpt2.model.config)
    double.load_state_dict(gpt2.model.state_dict())
    double.double().eval()
    keep = keep_masks(9, [()])[0]
    gradient = jopa.ModelScorer(gpt2, prompt, output, "zero").mask_gradient(keep)
    step = 1e-4
    for unit in range(9):
        change = torch.zeros(9, dtype=torch.double)
        change[unit] = step
        with torch.no_grad():
            up, down = (plain_log_prob(double, prompt, output, 1 + sign * change).item() for sign in (1, -1))
        assert gradient[unit].item() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-3)


def test_gradient_norms_equal_a_plain_backward_by_the_embeddings(tiny):
    prompt, output = case(tiny, unit=[(0, 13), (20, 30), (31, 46)], target=(1, 5))
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    embeddings = tiny.model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = tiny.model(inputs_embeds=embeddings, use_cache=False).logits[0].log_softmax(-1)
    total = torch.stack([logits[len(prompt.ids) - 1 + t, output.ids[t]] for t in range(1, 5)]).sum()
    (gradient,) = torch.autograd.grad(total, embeddings)
    expected = torch.stack([gradient[0, list(unit.positions)].norm() for unit in prompt.units])
    assert expected.min() > 1e-3
    for removal in REMOVALS:
        scorer = jopa.ModelScorer(tiny, prompt, output, removal)
        norms = scorer.gradient_norms()
        assert norms.dtype == torch.float32
        assert torch.allclose(norms, expected, rtol=1e-3, atol=1e-3)
        other = jopa.ModelScorer(tiny, prompt, output, removal)
        other.mask_gradient(keep_masks(3, [()])[0])
        assert scorer.ffe == other.ffe


@pytest.mark.parametrize("reuse_prefix", [True, False])
@pytest.mark.parametrize("hidden", [(), (0,), (2, 5, 7)])
def test_full_attention_changes_nothing_and_none_hides(tiny, reuse_prefix, hidden):
    prompt, output = case(tiny, system="please tell me what you think")
    scorer = jopa.ModelScorer(tiny, prompt, output, "hide", reuse_prefix=reuse_prefix)
    log_factors = torch.zeros(9)
    log_factors[list(hidden)] = -1e9
    scaled = scorer._masked.attention_scaled_log_probs(log_factors).detach()
    assert torch.allclose(scaled, scorer.log_probs(keep_masks(9, [hidden]))[0], atol=1e-4, rtol=0)


def test_attention_gradient_equals_finite_differences(tiny):
    if tiny.id == "tiny-moe":
        pytest.skip("a small step may choose other experts")
    prompt, output = case(tiny, unit=[(0, 5), (6, 13), (20, 30), (31, 46)], target=(1, 5))
    scorer = jopa.ModelScorer(tiny, prompt, output, "delete")
    factors, step = torch.tensor([0.5, 0.2, 1.0, 0.02]), 2e-2
    gradient = scorer.attention_gradient(factors)
    assert gradient.dtype == torch.float32
    assert gradient.abs().max() > 0.1
    for unit in range(4):
        change = torch.zeros(4)
        change[unit] = step
        with torch.no_grad():
            up, down = (
                scorer._masked.attention_scaled_log_probs(factors.log() + sign * change).double().sum()
                for sign in (1, -1)
            )
        assert float(gradient[unit]) == pytest.approx(float(up - down) / (2 * step), rel=2e-2, abs=5e-3)


def test_an_attention_gradient_counts_as_three_forwards(llama):
    prompt, output = case(llama, system="please tell me what you think")
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    prefix = scorer._forward.prefix().length
    scorer.attention_gradient(torch.full((9,), 0.5))
    assert prefix > 0
    assert scorer.work.tokens == prefix + 3 * (len(prompt.ids) + len(output.ids) - 1 - prefix)
    assert (scorer.work.forwards, scorer.work.backwards) == (2, 1)


def test_attention_that_takes_no_factors_and_too_much_of_it_are_one_line(llama, monkeypatch):
    prompt, output = case(llama)
    monkeypatch.setitem(model_scorer._MAX_ATTENTION_WEIGHTS, "cpu", 1000)
    with pytest.raises(jopa.ScoringError, match="too many"):
        jopa.ModelScorer(llama, prompt, output, "delete").attention_gradient(torch.ones(9))
    monkeypatch.setitem(vars(probe_of(llama)), "scales_attention", False)
    with pytest.raises(jopa.ScoringError, match="cannot be made weaker"):
        jopa.ModelScorer(llama, prompt, output, "delete").attention_gradient(torch.ones(9))


def test_relaxed_gradients_of_many_rows_equal_plain_backwards(tiny):
    prompt, output = case(tiny)
    factors = torch.rand(5, 9, generator=torch.Generator().manual_seed(1))
    scorer = jopa.ModelScorer(tiny, prompt, output, "zero", batch_size=2)
    log_probs, gradients = scorer.relaxed_gradients(factors)
    for row, log_prob, gradient in zip(factors, log_probs, gradients, strict=True):
        leaf = row.clone().requires_grad_()
        total = plain_log_prob(tiny.model, prompt, output, leaf)
        (expected,) = torch.autograd.grad(total, leaf)
        assert log_prob.item() == pytest.approx(total.item(), abs=1e-3)
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def test_attention_equals_the_models_own_weights(tiny):
    prompt, output = case(tiny, unit=[(0, 13), (20, 30), (31, 46)], target=(1, 4))
    implementation = tiny.model.config._attn_implementation
    attention = jopa.ModelScorer(tiny, prompt, output, "delete").attention()
    assert tiny.model.config._attn_implementation == implementation
    tiny.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = tiny.model(torch.tensor([[*prompt.ids, *output.ids]]), output_attentions=True).attentions
    finally:
        tiny.model.set_attn_implementation(implementation)
    queries = [len(prompt.ids) - 1 + t for t in range(1, 4)]
    for layer, weights in enumerate(layers):
        for number, unit in enumerate(prompt.units):
            paid = [weights[0, h, q, list(unit.positions)].sum().item() for h in range(4) for q in queries]
            assert attention[layer, number].item() == pytest.approx(sum(paid) / len(paid), abs=1e-5)


def test_attention_to_a_long_prompt_is_read_without_keeping_all_of_it(llama):
    """Weights are kept from the positions that predict the target alone, so memory grows with T and not with T²."""
    prompt, output = case(llama, target=(2, 4))
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    calls = []
    hook = llama.model.register_forward_pre_hook(
        lambda _model, _args, kwargs: calls.append((kwargs["input_ids"].shape[1], "output_attentions" in kwargs)),
        with_kwargs=True,
    )
    try:
        scorer.attention()
    finally:
        hook.remove()
    n_tokens = len(prompt.ids) + output.target[1] - 1
    assert calls == [(n_tokens - 2, False), (2, True)]


@pytest.mark.parametrize("removal", REMOVALS)
def test_scores_are_made_in_inference_mode_and_gradients_are_not(llama, removal):
    prompt, output = case(llama)
    jopa.ModelScorer(llama, prompt, output, removal).gradient_norms()  # what is tried out once a model is tried here
    scorer = jopa.ModelScorer(llama, prompt, output, removal)
    modes = []
    hook = llama.model.register_forward_pre_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    try:
        prefix = scorer._forward.prefix()
        scorer.log_probs(keep_masks(9, [(1,), (2, 3)]))
        assert modes == [False] + [True] * (len(modes) - 1)
        assert not any(tensor.is_inference() for layer in prefix.layers for tensor in layer)
        modes.clear()
        scorer.mask_gradient(keep_masks(9, [(1,)])[0])
        scorer.gradient_norms()
        assert modes == [False, False]
    finally:
        hook.remove()


def test_what_a_model_keeps_of_a_forward_can_still_take_part_in_gradients():
    """Some models let their position tables grow in a forward; those must be ordinary tensors afterwards."""
    model = tiny_models.language_model("llama")
    prompt, output = case(model)
    module = model.model.model

    def grow(*_):
        module.register_buffer("table", torch.arange(4.0) * 2, persistent=False)
        module.noted = torch.arange(4.0) * 3

    hook = module.register_forward_pre_hook(grow)
    try:
        jopa.ModelScorer(model, prompt, output, "zero").log_probs(keep_masks(9, [(1,)]))
        for kept, factor in ((module.table, 2), (module.noted, 3)):
            assert not kept.is_inference()
            leaf = torch.ones(4, requires_grad=True)
            (leaf * kept).sum().backward()
            assert leaf.grad is not None
            assert leaf.grad.tolist() == [0.0, factor, 2.0 * factor, 3.0 * factor]
    finally:
        hook.remove()
        del module._buffers["table"], module.noted
        module._non_persistent_buffers_set.discard("table")
