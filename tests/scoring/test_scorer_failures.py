"""What goes wrong while the scorer works is one clear line, and the model stays as it was."""

import math

import pytest
import torch
from scorer_cases import ANSWER, case

import jopa
import tiny_models
from slow_reference import keep_masks


def test_the_users_weights_and_hooks_are_not_touched(llama):
    prompt, output = case(llama)
    before = {name: parameter.clone() for name, parameter in llama.model.named_parameters()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.model.modules()]
    jopa.ModelScorer(llama, prompt, output, "delete").log_probs(keep_masks(9, [(), (1,), (2,), (1, 2)]))
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.model.named_parameters())
    after = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.model.modules()]
    assert after == hooks


def test_out_of_memory_halves_the_batch_and_goes_on(llama, monkeypatch):
    prompt, output = case(llama)
    sets = [(i,) for i in range(9)]
    expected = jopa.ModelScorer(llama, prompt, output, "delete").log_probs(keep_masks(9, sets))
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    sizes = []
    score = scorer._masked._score

    def tight(rows, *rest):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no room")
        return score(rows, *rest)

    monkeypatch.setattr(scorer._masked, "_score", tight)
    assert torch.allclose(scorer.log_probs(keep_masks(9, sets)), expected, atol=1e-5)
    assert sizes == [9, 4, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    "said",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
        "MPS backend out of memory (MPS allocated: 9.06 GB, other allocations: 2 KB, max allowed: 9.07 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_with_one_mask_says_what_to_do(llama, monkeypatch, said):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")

    def never(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(scorer._masked, "_score", never)
    with pytest.raises(jopa.ScoringError, match="out of memory with one input"):
        scorer.log_probs(keep_masks(9, [()]))


def test_other_errors_of_the_model_are_not_swallowed(llama, monkeypatch):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(scorer._masked, "_score", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        scorer.log_probs(keep_masks(9, [()]))


def test_nan_is_an_error_that_names_the_mask(llama):
    prompt, output = case(llama)
    with torch.no_grad():
        weight = llama.model.get_input_embeddings().weight
        token = prompt.ids[prompt.units[4].positions[0]]
        saved = weight[token].clone()
        weight[token] = math.nan
        try:
            scorer = jopa.ModelScorer(llama, prompt, output, "delete")
            scorer.log_probs(keep_masks(9, [(4,)]))  # without the broken token all is well
            with pytest.raises(jopa.ScoringError, match=r"nan .* units \[2, 3\] removed \(delete\)"):
                scorer.log_probs(keep_masks(9, [(4,), (2, 3)]))
        finally:
            weight[token] = saved


def test_nothing_left_to_predict_from_is_refused():
    model = tiny_models.language_model("gpt2", chat=False)
    prompt, output = case(model)
    for removal in ("delete", "hide"):
        scorer = jopa.ModelScorer(model, prompt, output, removal)
        with pytest.raises(jopa.PromptError, match="nothing is left"):
            scorer.log_probs(keep_masks(9, [tuple(range(9))]))
    scorer = jopa.ModelScorer(model, prompt, output, "zero")
    assert scorer.log_probs(keep_masks(9, [tuple(range(9))])).isfinite().all()


def test_training_mode_and_dropout_are_put_back():
    model = tiny_models.language_model("gpt2")
    prompt, output = case(model)
    model.model.train()
    model.model.get_submodule("transformer.h.0").eval()
    try:
        modes = [module.training for module in model.model.modules()]
        first = jopa.ModelScorer(model, prompt, output, "delete").log_probs(keep_masks(9, [(1,)]))
        second = jopa.ModelScorer(model, prompt, output, "delete").log_probs(keep_masks(9, [(1,)]))
        assert torch.equal(first, second)
        assert [module.training for module in model.model.modules()] == modes
    finally:
        model.model.eval()


def test_bad_settings_are_refused(llama):
    prompt, output = case(llama)
    with pytest.raises(jopa.SettingError, match="unknown removal 'blank': choose one of delete, zero, hide"):
        jopa.ModelScorer(llama, prompt, output, "blank")
    with pytest.raises(jopa.SettingError, match="batch_size must be at least 1"):
        jopa.ModelScorer(llama, prompt, output, "zero", batch_size=0)
    with pytest.raises(jopa.SettingError, match="target must lie within the output's 7 tokens, got 3:9"):
        jopa.Output(ANSWER, "", (3, 9))
