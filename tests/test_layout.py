"""Another layout in memory, and not one number changed."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import jopa
import tiny_models
from jopa.layout import lay_out


def test_only_the_strides_of_linear_layers_change():
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "linear": nn.Linear(4, 6), "norm": nn.LayerNorm(4)})
    before = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    lay_out(model)
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        assert torch.equal(parameter, old)
        assert parameter.requires_grad == old.requires_grad
        assert parameter.stride() == ((1, 6) if name == "linear.weight" else old.stride())


def test_a_head_that_shares_the_embedding_stays_as_it_is():
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    model["head"].weight = model["embedding"].weight
    lay_out(model)
    assert model["head"].weight.is_contiguous()
    assert model["head"].weight is model["embedding"].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats_are_left_alone(dtype):
    layer = nn.Linear(3, 5).to(dtype)
    lay_out(layer)
    assert layer.weight.is_contiguous()


def test_laying_out_twice_is_laying_out_once():
    layer = nn.Linear(3, 5)
    lay_out(layer)
    address = layer.weight.data_ptr()
    lay_out(layer)
    assert layer.weight.data_ptr() == address


def test_scores_and_gradients_stay_the_same(tiny):
    other = jopa.LanguageModel(copy.deepcopy(tiny.model), tiny.tokenizer)
    lay_out(other.model)
    prompt = jopa.build_prompt(tiny.tokenizer, "write a story about the doctor and his patient")
    output = jopa.Output((7, 8, 9, 10), "", (0, 4))
    keep = ~torch.eye(9, dtype=torch.bool)
    plain, laid_out = (jopa.ModelScorer(model, prompt, output, "delete") for model in (tiny, other))
    assert torch.allclose(plain.log_probs(keep), laid_out.log_probs(keep), atol=1e-4, rtol=0)
    assert torch.allclose(plain.mask_gradient(keep[0]), laid_out.mask_gradient(keep[0]), rtol=1e-3, atol=1e-3)


def test_a_laid_out_model_is_saved_and_loaded_as_any_other(tmp_path):
    model = copy.deepcopy(tiny_models.language_model("llama").model)
    lay_out(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded.parameters(), strict=True))
