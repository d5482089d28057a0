"""Products of linear layers: each right, the fastest chosen, what was measured remembered."""

import json
import math
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import linear

from jopa.errors import SettingError
from jopa.model import products
from jopa.model.products import ROWS, available, choose, measured, time_products

DTYPES = [torch.float32, torch.bfloat16]
SHAPE = (24, 16)


class CpuTimes(NamedTuple):
    """Seconds of processors, as psutil gives them."""

    user: float
    system: float
    idle: float


@pytest.fixture(autouse=True)
def _no_product_is_named(monkeypatch):
    monkeypatch.delenv("JOPA_LINEAR", raising=False)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path))
    return tmp_path / "products"


@pytest.fixture
def two_products(monkeypatch):
    """A machine with two products, whatever this one has."""
    found = products.products()
    doubled = products.Product("onednn", lambda x, _packed, weight, bias: linear(x, weight, bias))
    monkeypatch.setattr(products, "available", lambda _dtype: (found["plain"], doubled))
    monkeypatch.setattr(products, "_agree", lambda _seconds: True)  # this machine may be busy
    monkeypatch.setattr(products.OtherWork, "share", lambda _self: 0.0)


def seconds(**times: float | tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    names = {"mkl": "mkl-packed", "packed": "onednn-packed"}
    return {
        names.get(n, n): tuple(map(float, t)) if isinstance(t, tuple) else (float(t),) * len(ROWS)
        for n, t in times.items()
    }


def names(choice: products.Choice) -> list[str]:
    return [product.name for product in choice.products]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (7, 5), (576, 192), (130, 1000)])
def test_every_product_agrees_with_the_plain_one(n_in, n_out, bias, dtype):
    torch.manual_seed(0)
    weight = torch.randn(n_out, n_in, dtype=dtype) / math.sqrt(n_in)
    b = torch.randn(n_out, dtype=dtype) if bias else None
    atol = 1e-5 if dtype == torch.float32 else 0.03
    for product in available(dtype):
        packed = product.pack(weight) if product.pack else None
        for shape in ((), (1,), (2,), (31,), (3, 67), (2, 2, 128), (1100,)):
            x = torch.randn(*shape, n_in, dtype=dtype)
            found = product.multiply(x, packed, weight, b)
            assert found.shape == (*shape, n_out)
            assert torch.allclose(found, linear(x, weight, b), atol=atol, rtol=1e-5), product.name
        x = torch.randn(n_in, 6, dtype=dtype).t()
        assert torch.allclose(product.multiply(x, packed, weight, b), linear(x, weight, b), atol=atol)


def test_the_plain_product_comes_first_and_asking_leaves_the_random_state_alone():
    available.cache_clear()
    random = torch.random.get_rng_state()
    with torch.inference_mode():
        assert available(torch.float32)[0].name == "plain"
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")
def test_a_torch_with_mkl_has_its_packed_product():
    assert "mkl-packed" in [product.name for product in available(torch.float32)]


@pytest.mark.parametrize("broken", ["wrong", "missing", "refuses"])
def test_a_product_that_is_wrong_or_missing_is_not_used(broken, monkeypatch):
    def multiply(x, _packed, weight, bias):
        if broken == "missing":
            return torch.ops.mkl._no_such_operator.default(x)
        if broken == "refuses":
            raise RuntimeError("no instructions for it")
        return linear(x, weight, bias) + 0.01 * (x.numel() // x.shape[-1] > 100)  # for many rows alone

    both = {"plain": products.products()["plain"], "onednn": products.Product("onednn", multiply)}
    monkeypatch.setattr(products, "products", lambda: both)
    available.cache_clear()
    assert len(available(torch.float32)) == 1
    available.cache_clear()


def test_the_fastest_product_is_chosen_for_each_number_of_rows():
    taken = choose(seconds(plain=(1, 4, 4, 4), packed=(2, 2, 2, 5), onednn=(3, 3, 3, 2)))
    assert names(taken) == ["plain", "onednn-packed", "onednn-packed", "onednn"]
    assert taken.packed and taken.packed.name == "onednn-packed"
    assert [(most, product.name) for most, product in taken.limits()] == [
        (4, "plain"),
        (200, "onednn-packed"),
        (math.inf, "onednn"),
    ]


def test_at_most_one_product_has_packed_weights():
    taken = choose(seconds(plain=(10, 10, 10, 10), mkl=(1, 9, 9, 9), packed=(5, 2, 2, 2)))
    assert names(taken) == ["onednn-packed"] * 4


def test_without_memory_no_weight_is_packed():
    times = seconds(plain=10, mkl=1, packed=1, onednn=5)
    assert names(choose(times, may_pack=False)) == ["onednn"] * 4
    assert choose(seconds(plain=10, mkl=1), may_pack=False).is_plain


def test_a_gain_that_could_be_chance_leaves_the_layer_plain():
    assert choose(seconds(plain=1.0, packed=0.97, onednn=0.96)).is_plain
    assert not choose(seconds(plain=1.0, packed=0.9)).is_plain


def test_a_machine_with_the_plain_product_alone_measures_nothing(monkeypatch, cache):
    monkeypatch.setattr(products, "available", lambda _dtype: (products.products()["plain"],))
    monkeypatch.setattr(products, "time_products", None)
    assert choose(measured([SHAPE], torch.float32)[SHAPE]).is_plain
    assert not cache.exists()


def test_every_available_product_is_timed_for_every_number_of_rows():
    found, _ = time_products([SHAPE, (5, 3)], torch.float32)
    assert set(found) == {SHAPE, (5, 3)}
    for times in found.values():
        assert set(times) == {product.name for product in available(torch.float32)}
        assert all(len(values) == len(ROWS) and all(0 < v < math.inf for v in values) for values in times.values())


def test_what_was_measured_is_remembered_by_shape_and_dtype(cache, monkeypatch, two_products):
    calls = []
    timing = products.time_products
    monkeypatch.setattr(products, "time_products", lambda *a: calls.append(a) or timing(*a))
    first = measured([SHAPE], torch.float32)
    assert measured([SHAPE], torch.float32) == first
    assert len(calls) == 1
    assert measured([SHAPE, (5, 3)], torch.float32)[SHAPE] == first[SHAPE]
    assert calls[1] == ([(5, 3)], torch.float32)
    measured([SHAPE], torch.bfloat16)
    assert len(calls) == 3


def test_what_was_disturbed_is_used_and_not_remembered(cache, monkeypatch, two_products):
    monkeypatch.setattr(products, "_agree", lambda _seconds: False)
    assert set(measured([SHAPE], torch.float32)[SHAPE]) == {"plain", "onednn"}
    assert not cache.exists()


def test_another_machine_measures_anew(cache, monkeypatch, two_products):
    measured([SHAPE], torch.float32)
    (file,) = cache.iterdir()
    for name in ("processor", "capability", "torch", "threads"):
        assert json.loads(file.read_text())["machine"][name] == products._machine()[name]
        other = products._machine() | {name: "another"}
        with monkeypatch.context() as patch:
            patch.setattr(products, "_machine", lambda other=other: other)
            measured([SHAPE], torch.float32)
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize("damage", ["not json", "[]", "null", "foreign", "rows", "negative", "short", "text", "names"])
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(damage, cache, two_products):
    measured([SHAPE], torch.float32)
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    (times,) = content["seconds"].values()
    if damage == "foreign":
        content["machine"]["processor"] = "another"
    elif damage == "rows":
        content["rows"] = [1, 2, 3, 4]
    elif damage == "negative":
        times["plain"][0] = -1.0
    elif damage == "short":
        times["plain"].pop()
    elif damage == "text":
        times["plain"] = "fast"
    elif damage == "names":
        times["of a later version"] = times.pop("onednn")
    before = damage if damage in ("not json", "[]", "null") else json.dumps(content)
    file.write_text(before)
    found = measured([SHAPE], torch.float32)[SHAPE]
    assert set(found) == {"plain", "onednn"}
    assert file.read_text() != before
    assert measured([SHAPE], torch.float32)[SHAPE] == found


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path, two_products):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "file"))
    assert set(measured([SHAPE], torch.float32)[SHAPE]) == {"plain", "onednn"}


@pytest.mark.parametrize("name", ["transposed", "batched"])
@pytest.mark.parametrize("n_out", [5, 6])
def test_one_row_by_columns_is_contiguous_and_takes_the_bias_once(name, n_out):
    weight, bias, row = torch.randn(n_out, 3), torch.randn(n_out), torch.randn(1, 1, 3)
    found = products.products()[name].multiply(row, None, weight, bias)
    assert found.is_contiguous() and found.shape == (1, 1, n_out)
    torch.testing.assert_close(found[0, 0], weight @ row[0, 0] + bias)


def test_what_was_timed_beside_other_work_is_not_trusted(monkeypatch):
    monkeypatch.setattr(products, "_agree", lambda _seconds: True)
    for share, trusted in ((0.0, True), (0.9, False)):
        monkeypatch.setattr(products.OtherWork, "share", lambda _self, share=share: share)
        assert time_products([(4, 4)], torch.float32)[1] is trusted


def test_a_product_can_be_named_so_that_every_run_rounds_alike(monkeypatch):
    monkeypatch.setattr(products, "time_products", None)
    monkeypatch.setenv("JOPA_LINEAR", "transposed")
    assert names(choose(measured([SHAPE], torch.float32)[SHAPE])) == ["transposed"] * len(ROWS)
    monkeypatch.setenv("JOPA_LINEAR", "plain")
    assert choose(measured([SHAPE], torch.float32)[SHAPE]).is_plain
    monkeypatch.setenv("JOPA_LINEAR", "fastest")
    with pytest.raises(SettingError, match="JOPA_LINEAR is 'fastest': set it to one of plain"):
        measured([SHAPE], torch.float32)
