"""Packed weights: the same scores with every product, and a model that is left as it came."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import jopa
from jopa.model import packing
from jopa.model.packing import PackedWeights
from jopa.model.products import ROWS, available
from jopa.scoring.probe import probe_of

PACKED = [product.name for product in available(torch.float32) if product.pack]
FASTER = [product.name for product in available(torch.float32) if product.name != "plain"]
pytestmark = pytest.mark.skipif(not PACKED, reason="this torch has no packed product")


def with_product(model: nn.Module, name: str = PACKED[0] if PACKED else "plain") -> PackedWeights:
    """As if this product were the fastest wherever there is one, and the unpacked one of oneDNN the next."""

    def measure(shapes, dtype):
        there = {product.name for product in available(dtype)}
        order = {name: 1.0, "plain": 3.0} if name in there else {"plain": 3.0}
        return {shape: {product: (seconds,) * len(ROWS) for product, seconds in order.items()} for shape in shapes}

    return PackedWeights(model, measure)


def packed_layers(weights: PackedWeights, model: nn.Module) -> int:
    with weights.active():
        return sum("forward" in vars(module) for module in model.modules())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (7, 5), (576, 192), (130, 1000)])
@pytest.mark.parametrize("product", FASTER)
def test_products_are_right_for_any_number_of_rows_and_of_threads(n_in, n_out, bias, product, threads):
    torch.manual_seed(0)
    layer = nn.Linear(n_in, n_out, bias=bias)
    weights = with_product(layer, product)
    threads(2)
    assert packed_layers(weights, layer) == 1
    exact = copy.deepcopy(layer).double()
    for n_threads in (1, 2):
        threads(n_threads)
        for shape in ((1,), (2,), (31,), (3, 67), (2, 2, 128), (1100,)):
            inputs = torch.randn(*shape, n_in)
            with torch.inference_mode(), weights.active():
                outputs = layer(inputs)
            assert outputs.shape == (*shape, n_out)
            assert torch.allclose(outputs.double(), exact(inputs.double()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("product", FASTER)
def test_inputs_need_not_lie_in_one_piece(product):
    layer = nn.Linear(12, 9)
    inputs = torch.randn(12, 6).t()
    with torch.inference_mode(), with_product(layer, product).active():
        outputs = layer(inputs)
    assert torch.allclose(outputs, layer(inputs), atol=1e-5)


@pytest.mark.parametrize("product", FASTER)
def test_a_weight_changed_in_place_or_replaced_is_packed_again(product):
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    model = nn.Sequential(first, second)
    weights, inputs = with_product(model, product), torch.randn(3, 8)

    def agree() -> bool:
        with torch.inference_mode(), weights.active():
            outputs = model(inputs)
        return torch.allclose(outputs, model(inputs), atol=1e-5)

    assert agree()
    with torch.no_grad():
        first.weight.mul_(2)
    assert agree()
    second.weight = nn.Parameter(torch.randn(8, 8))
    assert agree()
    first.bias = nn.Parameter(torch.randn(8))
    assert agree()
    first.weight.data = torch.randn(8, 8)
    assert agree()
    second.weight.data += 1
    assert agree()
    second.weight.data[0, 1:] += 1  # a row of it, but all of another
    first.weight.data *= 2
    assert agree()
    model.double()
    inputs = inputs.double()
    computes_double = product in [other.name for other in available(torch.float64)]
    assert packed_layers(weights, model) == (2 if computes_double else 0)
    assert agree()


def test_a_packed_weight_replaced_by_an_inference_tensor_is_no_longer_packed():
    layer = nn.Linear(8, 8)
    weights = with_product(layer)
    assert packed_layers(weights, layer) == 1
    with torch.inference_mode():
        layer.weight = nn.Parameter(torch.randn(8, 8), requires_grad=False)
    assert packed_layers(weights, layer) == 0


def test_layers_are_their_own_again_after_the_block_whatever_happens_in_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    weights = with_product(model)
    assert packed_layers(weights, model) == 2
    with pytest.raises(ZeroDivisionError), weights.active():
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_is_no_plain_layer_or_has_no_faster_product_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    own = nn.Linear(3, 3)
    vars(own)["forward"] = lambda inputs: inputs
    model = nn.ModuleList([Doubled(3, 3), nn.Linear(3, 3).double()])
    assert packed_layers(with_product(model), model) == 0
    weights = with_product(own)
    with torch.inference_mode(), weights.active():
        assert torch.equal(own(torch.ones(3)), torch.ones(3))
    assert "forward" in vars(own)


@pytest.mark.parametrize(
    ("short", "limit", "n_packed"), [(0, None, 1), (1, None, 0), (0, "max", 1), (0, "5", 1), (0, "4", 0), (1, "5", 0)]
)
def test_nothing_is_packed_where_memory_is_short(short, limit, n_packed, monkeypatch, tmp_path):
    layer = nn.Linear(64, 64)
    enough = 4 * layer.weight.nbytes
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=enough - short))
    monkeypatch.setattr("jopa.model.packing._CONTAINER", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit if limit == "max" else f"{int(limit) * enough // 4}\n")
        (tmp_path / "memory.current").write_text(f"{enough // 4}\n")
    assert packed_layers(with_product(layer), layer) == n_packed


def test_a_copy_packs_for_itself():
    layer = nn.Linear(5, 4)
    weights = with_product(layer)
    packed_layers(weights, layer)
    other_layer, other = copy.deepcopy((layer, weights))
    with torch.no_grad():
        layer.weight.zero_()
    with torch.inference_mode(), other.active():
        outputs = other_layer(torch.ones(5))
    assert torch.allclose(outputs, other_layer(torch.ones(5)), atol=1e-6)


def test_without_memory_for_packed_weights_an_unpacked_product_may_still_be_taken(monkeypatch):
    layer = nn.Linear(64, 64)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    seconds = {"plain": (4.0,) * len(ROWS), PACKED[0]: (1.0,) * len(ROWS), "onednn": (2.0,) * len(ROWS)}
    assert PackedWeights(layer, lambda shapes, _dtype: dict.fromkeys(shapes, seconds)).description == "onednn"


def test_each_number_of_rows_takes_its_own_product(monkeypatch):
    layer = nn.Linear(6, 5)
    seconds = {"plain": (1.0, 1.0, 9.0, 9.0), PACKED[0]: (2.0, 2.0, 2.0, 2.0)}
    weights = PackedWeights(layer, lambda shapes, _dtype: dict.fromkeys(shapes, seconds))
    assert weights.description == f"plain (1, 16), {PACKED[0]} (100, 400)"
    plain, calls = torch.nn.functional.linear, []
    with torch.inference_mode(), weights.active():
        product = vars(layer)["forward"]
        product._limits = [
            (most, lambda *a, f=multiply, most=most: calls.append(most) or f(*a), packed)
            for most, multiply, packed in product._limits
        ]
        for n_rows in (1, 40, 41, 5000):
            inputs = torch.randn(n_rows, 6)
            assert torch.allclose(layer(inputs), plain(inputs, layer.weight, layer.bias), atol=1e-5)
    assert calls == [40, 40, float("inf"), float("inf")]


@pytest.mark.parametrize("product", FASTER)
@pytest.mark.parametrize("removal", ["delete", "zero", "hide"])
def test_scores_are_those_of_plain_products_and_gradients_have_no_part_in_it(tiny, removal, product):
    prompt = jopa.build_prompt(tiny.tokenizer, "write a story about the doctor and his patient")
    output = jopa.Output((7, 8, 9, 10), "", (0, 4))
    keep = ~torch.eye(9, dtype=torch.bool)
    model, plain_model = (jopa.LanguageModel(copy.deepcopy(tiny.model), tiny.tokenizer) for _ in range(2))
    vars(model)["packed"] = with_product(model.model, product)
    vars(plain_model)["packed"] = with_product(plain_model.model, "plain")
    n_linear = sum(type(module) is nn.Linear for module in model.model.modules())
    assert packed_layers(model.packed, model.model) == n_linear > 0
    assert packed_layers(plain_model.packed, plain_model.model) == 0
    scorer = jopa.ModelScorer(model, prompt, output, removal)
    scores, gradient = scorer.log_probs(keep), scorer.mask_gradient(keep[0])
    plain = jopa.ModelScorer(plain_model, prompt, output, removal)
    assert torch.allclose(scores, plain.log_probs(keep), atol=1e-4, rtol=0)
    assert torch.allclose(gradient, plain.mask_gradient(keep[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("product", FASTER)
def test_scores_and_answers_go_through_the_product_and_gradients_do_not(llama, product, monkeypatch):
    multiply, calls = packing._LayerProduct.__call__, []
    monkeypatch.setattr(packing._LayerProduct, "__call__", lambda layer, x: calls.append(1) or multiply(layer, x))
    model = jopa.LanguageModel(copy.deepcopy(llama.model), llama.tokenizer)
    vars(model)["packed"] = with_product(model.model, product)
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor")
    scorer = jopa.ModelScorer(model, prompt, jopa.Output((7, 8), "", (0, 2)), "delete", reuse_prefix=False)
    assert probe_of(model).gradients  # tried by scores, which are packed
    calls.clear()
    scorer.gradient_norms()
    assert len(calls) == 0
    scorer.log_probs(torch.ones(1, 6, dtype=torch.bool))
    assert len(calls) > 0
    calls.clear()
    ids = torch.tensor([prompt.ids])
    new = model.generate({"input_ids": ids}, max_new_tokens=8)
    assert len(calls) > 0
    with torch.no_grad():
        for token in new:
            assert int(model.model(input_ids=ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
