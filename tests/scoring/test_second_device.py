"""What runs on a GPU, on a device that is strict about where tensors lie; there is no GPU where the tests run."""

import pytest
import torch

import jopa
import second_device
import tiny_models
from jopa.choices import REMOVALS
from jopa.detection.hostility import detect
from jopa.methods import METHODS, make_method
from jopa.model.generation import Generation
from jopa.preparation import Callbacks, answer
from jopa.problem import Problem
from jopa.scoring import forward
from jopa.scoring.batched_runner import BatchedRunner

TEXT = "write a story about the doctor and his patient in rain please"
SAID = "once upon time there was"
FEW = {
    "joint": {"budget": 12},
    "jopa": {"steps": 20},
    "shapley": {"permutations": 4},
    "context-cite": {"ablations": 16},
    "camab": {"queries": 6},
    "trac-llm": {"kept": 3, "permutations": 1},
    "attn-trace": {"subsamples": 3},
    "interactions": {"ablations": 16},
    "integrated-gradients": {"steps": 5},
    "continuous-mask": {"steps": 5},
    "reagent": {"steps": 4, "chains": 1},
}
"""Settings that take as many forwards as show whether a method works, no more."""


@pytest.fixture(autouse=True)
def at_hand(monkeypatch):
    """Limits as on a GPU, whose tensors can be made."""
    monkeypatch.setattr(forward.TargetForward, "kind", "cuda")
    with second_device.at_hand():
        yield


@pytest.fixture(scope="module", params=sorted(tiny_models.BUILDERS))
def pair(request):
    """A model of each architecture, here and there."""
    here = tiny_models.language_model(request.param)
    return here, second_device.moved(here)


@pytest.fixture(scope="module")
def llamas(llama):
    return llama, second_device.moved(llama)


def scorer(model, removal="delete", text=TEXT, **settings):
    prompt = jopa.build_prompt(model.tokenizer, text)
    output = answer(model, prompt, Generation(), output=SAID)
    return jopa.ModelScorer(model, prompt, output, removal, **settings)


def masks(n_units, n=6):
    return torch.rand(n, n_units, generator=torch.Generator().manual_seed(1)) > 0.3


def same(here, there):
    """Whether two results are the same, and the second was brought back."""
    assert type(there) is torch.Tensor
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-3)
    return True


def test_the_device_is_as_strict_as_a_gpu(llamas):
    _, there = llamas
    ids = torch.tensor([[6, 7, 8]])
    with pytest.raises(RuntimeError, match="same device"):
        there.model(input_ids=ids)
    logits = there.model(input_ids=ids.to(there.device)).logits
    assert isinstance(logits, second_device.There) and logits.device == there.device
    for mixed in (
        lambda: logits + torch.zeros(logits.shape),
        lambda: torch.cat([logits, torch.zeros(1, 1, logits.shape[2])], dim=1),
        lambda: torch.zeros(3)[logits[0, 0].argmax()[None]],
        lambda: logits.gather(2, torch.zeros(1, 3, 1, dtype=torch.long)),
        lambda: logits.new_zeros(2).index_put_((torch.tensor([0]),), torch.ones(1)),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert same(logits.cpu()[:, [0, 2]] * 2, (logits[:, torch.tensor([0, 2])] * torch.tensor(2.0)).cpu())


@pytest.mark.parametrize("removal", REMOVALS)
def test_scores(pair, removal):
    here, there = (scorer(model, removal) for model in pair)
    keep = masks(here.n_units)
    assert same(here.log_probs(keep[:4]), there.log_probs(keep[:4]))
    assert same(here.log_probs(keep[3:]), there.log_probs(keep[3:]))  # some begin with caches of the rows before
    assert there.ffe == here.ffe
    assert same(here.log_distributions(keep[:2]), there.log_distributions(keep[:2]))


def test_a_look_inside(pair):
    here, there = map(scorer, pair)
    factors = torch.linspace(0.1, 0.9, here.n_units)
    for look in (
        lambda of: of.gradient_norms(),
        lambda of: of.mask_gradient(masks(of.n_units)[0]),
        lambda of: of.relaxed_log_probs(factors[None]),
        lambda of: of.attention_gradient(factors),
        lambda of: of.attention(),
        lambda of: torch.cat(of.token_attention(masks(of.n_units)[0])),
        lambda of: of.replaced_log_probs(torch.tensor([of.prompt.ids])),
    ):
        assert same(look(here), look(there))


@pytest.mark.parametrize("name", sorted({*METHODS} - {"proxyspex"}))
def test_methods(llamas, name):
    method = make_method(name, **FEW.get(name, {}))
    here, there = (method.run(Problem(scorer(model, method.preset_removal)), 3) for model in llamas)
    assert there.removed == here.removed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers(llamas, temperature):
    texts = []
    callbacks = Callbacks(on_text=lambda _, text: texts.append(text))
    here, there = (
        answer(model, scorer(model).prompt, Generation(6, temperature), callbacks=callbacks) for model in llamas
    )
    assert there == here
    assert len(texts) > 2


@pytest.mark.parametrize("removal", REMOVALS)
def test_answers_to_what_is_left(llamas, removal):
    here, there = (scorer(model, removal) for model in llamas)
    keep = masks(here.n_units)[0]
    here, there = (of.model.generate(of.removed_inputs(keep), max_new_tokens=5) for of in (here, there))
    assert there == here


def test_several_prompts_at_a_time(llamas):
    here, there = llamas

    def asked(text, runner):
        with second_device.operations():  # a search of a batched runner has a thread of its own
            of = scorer(there, text=text, runner=runner)
            yield text, [of.log_probs(masks(of.n_units, n)) for n in (5, 9)]

    runner = BatchedRunner(2)
    texts = TEXT, "please tell me what you think of green birds"
    found = dict(runner.work(asked(text, runner) for text in texts))
    for text in texts:
        alone = scorer(here, text=text)
        assert all(same(alone.log_probs(masks(alone.n_units, len(rows))), rows) for rows in found[text])


def test_explanations_and_verdicts(llamas):
    search = jopa.JointSearch(budget=12)
    here, there = (jopa.explain(TEXT, model=model, output=jopa.Generation(5), method=search) for model in llamas)
    assert there.removed == here.removed
    assert there.log_prob_removed == pytest.approx(here.log_prob_removed, rel=1e-4)
    assert there.counterfactual_output == here.counterfactual_output
    assert there.model == {**here.model, "device": str(second_device.DEVICE)}
    here, there = (detect(TEXT, model=model) for model in llamas)
    assert there.score == pytest.approx(here.score)
