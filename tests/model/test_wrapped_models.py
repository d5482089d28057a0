"""Models as people have them: offloaded to the processor or to disk, quantised, with a wrapper of somebody else's."""

import copy

import pytest
import torch

import jopa
from slow_reference import keep_masks, reference

TEXT = "write a story about the doctor and his patient in rain"
SETS = [(), (0,), (10,), (2, 5), (1, 2, 3, 9)]
SHORT = jopa.SearchOptions(counterfactual=jopa.Generation(3))


def require_plain_scores(model, plain, removal, atol=1e-4):
    """The scores of `model` are those of plain forwards of `plain`."""
    prompt = jopa.build_prompt(model.tokenizer, TEXT, system="tell me")
    output = jopa.Output((7, 8, 9, 10), "", (0, 4))
    for settings in ({}, {"batch_size": 1}, {"reuse_prefix": False}):
        scorer = jopa.ModelScorer(model, prompt, output, removal, **settings)
        scores = scorer.log_probs(keep_masks(len(prompt.units), SETS)).double()
        for own, removed in zip(scores, SETS, strict=True):
            torch.testing.assert_close(own, reference(plain, prompt, output, removal, removed), atol=atol, rtol=0)


@pytest.mark.parametrize("place", ["processor", "disk"])
def test_offloaded_models_score_and_answer_as_they_do_when_they_are_not(llama, place, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    moved = copy.deepcopy(llama.model)
    if place == "disk":
        accelerate.disk_offload(moved, tmp_path, execution_device="cpu")
    else:
        accelerate.cpu_offload(moved, execution_device="cpu")
    assert next(moved.parameters()).device.type == "meta"
    model = jopa.LanguageModel(moved, llama.tokenizer, "offloaded")
    for removal in ("delete", "zero", "hide"):
        require_plain_scores(model, llama, removal)
    ids = list(jopa.build_prompt(llama.tokenizer, TEXT).ids)
    assert model.generate_ids(ids, jopa.Generation(8)) == llama.generate_ids(ids, jopa.Generation(8))
    found, expected = (
        jopa.explain(TEXT, model=one, k=2, method="jopa", output="once upon time", search=SHORT)
        for one in (model, llama)
    )
    assert found.removed == expected.removed
    assert found.log_prob_removed == pytest.approx(expected.log_prob_removed, abs=1e-4)
    assert next(moved.parameters()).device.type == "meta"


@pytest.mark.parametrize("way", ["in place", "forward"])
def test_compiled_code_is_left_aside_and_put_back(llama, way):
    """It keeps the hooks that were there when it was made, and so the positions whose logits were wanted then."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    model = copy.deepcopy(llama.model)
    if way == "in place":
        model.compile(backend=backend)
    else:
        model.forward = torch.compile(model.forward, backend=backend)
    made = {name: vars(model).get(name) for name in ("_compiled_call_impl", "forward")}
    compiled = jopa.LanguageModel(model, llama.tokenizer, "compiled")
    require_plain_scores(compiled, llama, "delete")
    assert {name: vars(model).get(name) for name in made} == made
    assert not graphs


class Int8Linear(torch.nn.Module):
    """Weights in int8 with a scale for each output, as bitsandbytes and GPTQ have them: nothing is differentiated.

    With `steps`, inputs are rounded to so many steps of their range in the whole batch.
    """

    def __init__(self, layer, steps=None):
        super().__init__()
        weight = layer.weight.detach()
        self.scale = torch.nn.Parameter(weight.abs().amax(dim=1) / 127, requires_grad=False)
        self.weight = torch.nn.Parameter((weight / self.scale[:, None]).round().to(torch.int8), requires_grad=False)
        self.steps = steps

    def forward(self, inputs):
        with torch.no_grad():
            if self.steps:
                step = inputs.abs().max() / self.steps
                inputs = (inputs / step).round() * step
            return inputs @ (self.weight * self.scale[:, None]).T


class BlockLinear(torch.nn.Module):
    """A product that runs by blocks of rows and rounds what is left over, as int8 products of some processors do."""

    def __init__(self, layer, block):
        super().__init__()
        self.weight = layer.weight
        self.block = block

    def forward(self, inputs):
        rows = inputs.reshape(-1, inputs.shape[-1])
        whole = len(rows) // self.block * self.block
        rest = (rows[whole:] * 200).round() / 200
        return (torch.cat([rows[:whole], rest]) @ self.weight.T).reshape(*inputs.shape[:-1], -1)


def with_layers(llama, name, replaced, quantization=None):
    """A copy of the model with other linear layers."""
    model = copy.deepcopy(llama.model)
    if quantization is not None:
        model.config.quantization_config = quantization
    for module in list(model.model.layers.modules()):
        for place, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Linear):
                setattr(module, place, replaced(layer))
    return jopa.LanguageModel(model, llama.tokenizer, name)


def quantised(llama, steps=None):
    return with_layers(llama, f"int8-{steps}", lambda layer: Int8Linear(layer, steps))


@pytest.mark.parametrize("steps", [None, 4000])
def test_quantised_models_score_and_answer_as_their_own_plain_forwards(llama, steps):
    model = quantised(llama, steps)
    assert model.changes_with_length(12) == (steps is not None)
    for removal in ("delete", "zero", "hide"):
        require_plain_scores(model, model, removal, atol=1e-5)
    ids = list(jopa.build_prompt(model.tokenizer, TEXT).ids)
    answer = model.generate_ids(ids, jopa.Generation(6))
    for token in answer:
        with torch.no_grad():
            assert int(model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize(("block", "declared"), [(16, False), (64, True)])
def test_nothing_fast_is_used_where_the_number_of_rows_changes_a_product(llama, block, declared):
    """Short rows may all lie in the block that is left over, and agree with each other."""
    quantization = {"quant_method": "torchao"} if declared else None
    model = with_layers(llama, "blocks", lambda layer: BlockLinear(layer, block), quantization)
    assert model.changes_with_length(12) == declared
    for removal in ("delete", "zero", "hide"):
        require_plain_scores(model, model, removal, atol=1e-5)


@pytest.mark.parametrize("steps", [None, 4000])
def test_what_a_quantised_model_cannot_do_is_found_by_trying(llama, steps):
    model = quantised(llama, steps)
    assert "gradient" not in model.capabilities
    found = jopa.explain(TEXT, model=model, k=2, removal="delete", output="once upon time", search=SHORT)
    assert len(found.removed) == 2
    alone = any("the length of a row" in line for line in found.details["slow_paths"])
    assert alone == (steps is not None)
    diagnosed = jopa.diagnose(TEXT, model=model, unit="word", removal="delete", output="once upon time")
    assert jopa.Diagnosis.from_json(diagnosed.to_json()).details["slow_paths"] == found.details["slow_paths"]
    with pytest.raises(jopa.SettingError, match=r"^method 'jopa' needs gradients, which this model"):
        jopa.explain(TEXT, model=model, k=2, method="jopa", output="once upon time", search=SHORT)


def test_a_model_whose_tokens_change_much_with_those_behind_them_is_refused(llama):
    with pytest.raises(jopa.ModelError, match=r"^what 'int8-20' says after a token changes with the number of tokens"):
        quantised(llama, 20)
