"""What is tried once and remembered: a stop or a lack of memory in a trial is not taken for the model's answer."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import jopa
from jopa.errors import StoppedError
from jopa.model import length_dependence
from jopa.model.agreement import tried
from jopa.model.generation_probe import InputKind
from jopa.scoring.packed_rows import packs_rows
from jopa.scoring.probe import probe_of
from tiny_models import SHAPE, language_model, tokenizer

QUESTIONS = {
    "generation": lambda model: model.generation_probe.agrees(InputKind()),
    "packed rows": packs_rows,
    "positions": lambda model: model.takes_positions,
    "gradients": lambda model: probe_of(model).gradients,
    "cache": lambda model: probe_of(model).crops_caches,
}
ERRORS = (StoppedError("ended"), torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no room"))


def fresh():
    """A model of which nothing is known yet."""
    model = language_model("llama")
    return jopa.LanguageModel(copy.deepcopy(model.model), model.tokenizer, "fresh")


def interrupted(model, question, error, at):
    """Ask while the forward number `at` raises an error; whether there was one."""
    n_forwards = 0

    def end(*_):
        nonlocal n_forwards
        n_forwards += 1
        if n_forwards == at:
            raise error

    hook = model.model.register_forward_pre_hook(end)
    try:
        if_undisturbed = question(model)
    except type(error):
        return True
    finally:
        hook.remove()
    assert n_forwards < at, f"{error!r} in forward {at} was taken for the answer {if_undisturbed}"
    return False


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", QUESTIONS)
def test_an_interrupted_trial_is_not_an_answer(name, error):
    question = QUESTIONS[name]
    expected, at = question(fresh()), 1
    assert expected
    while interrupted(model := fresh(), question, error, at):
        assert question(model) == expected
        at += 1
    assert at > 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_interrupted_trial_of_a_length_is_not_an_answer(error, monkeypatch):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 64, "rope_parameters": rope})
    monkeypatch.setattr(length_dependence, "_declared_limits", lambda _model: [])  # so that it is tried
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()

    def undisturbed():
        return jopa.LanguageModel(copy.deepcopy(model), tokenizer(True), "dynamic")

    def question(model):
        return model.changes_with_length(100)

    assert question(undisturbed())
    at = 1
    while interrupted(asked := undisturbed(), question, error, at):
        assert question(asked)
        at += 1
    assert at > 2


def test_factors_are_restored_by_the_thread_that_holds_the_model(monkeypatch):
    model = fresh()
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor", unit="word")
    owned, restore = [], length_dependence.LengthDependence.restore

    def recorded(dependence):
        owned.append(model.lock._is_owned())
        restore(dependence)

    monkeypatch.setattr(length_dependence.LengthDependence, "restore", recorded)
    monkeypatch.setattr(length_dependence.LengthDependence, "changes_at", lambda *_: True)  # each row alone
    output = jopa.Output((6, 7), model.decode((6, 7)), (0, 2))
    scorer = jopa.ModelScorer(model, prompt, output, "delete")
    n_probed = len(owned)
    scorer.attention()
    assert len(owned) > n_probed > 0
    assert all(owned)


def test_any_other_error_means_that_a_model_cannot_do_it():
    def fails():
        raise TypeError("forward() got an unexpected keyword argument 'position_ids'")

    assert not tried(fails)
    assert tried(fails, failed=True)
