"""What torch makes by default, which the caller may have set to anything, changes no result."""

from contextlib import contextmanager

import pytest
import torch

import jopa
import tiny_models

PROMPT = "write a story about the doctor and his patient"
METHODS = ("joint", "jopa", "ablation", "context-cite", "grad-x-input", "integrated-gradients", "attention-gradient",
           "last-attention", "proxy-search", "interactions", "reagent")  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return tiny_models.language_model("llama")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def explained(model, method, removal=None):
    found = jopa.explain(PROMPT, model=model, k=2, method=method, removal=removal, output="the patient slept")
    return found.removed, found.log_prob, found.log_prob_removed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_of_an_explanation(model, method, dtype):
    expected = explained(model, method)
    with default_dtype(dtype):
        units, *log_probs = explained(model, method)
    assert units == expected[0]
    assert log_probs == pytest.approx(expected[1:], abs=1e-4)


@pytest.mark.parametrize("removal", ["delete", "zero", "hide"])
def test_of_a_model_that_was_not_tried_out_before(removal):
    expected = explained(tiny_models.language_model("llama"), "joint", removal)
    with default_dtype(torch.bfloat16):
        units, *log_probs = explained(tiny_models.language_model("llama"), "joint", removal)
    assert units == expected[0]
    assert log_probs == pytest.approx(expected[1:], abs=1e-4)


def test_of_detection(model):
    expected = jopa.detect(PROMPT, model=model)
    with default_dtype(torch.float64):
        found = jopa.detect(PROMPT, model=model)
    assert found.order == pytest.approx(expected.order, abs=1e-4)
