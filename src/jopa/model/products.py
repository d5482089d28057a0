"""The product of a linear layer: which ones this machine offers, and which of them is the fastest for how many rows.

torch computes a linear layer by one library that suits most machines. It also has operators for others, and for
weights that are packed once instead of in every call:

    plain           `F.linear`
    mkl-packed      Intel's MKL, the weight packed once
    onednn-packed   oneDNN, the weight packed once
    onednn          oneDNN, the weight as it is: no further memory
    transposed      W xᵀ, the weight as it is; a single row is multiplied twice. For very few rows: there, reading the
                    weight is all the work, and some libraries read it much faster for two columns than for one row
    batched         W xᵀ as a batched product, the weight as it is, in two halves for a single row. Where no library
                    has a kernel for few rows, the batched one can read weights at twice the rate

Which of them is the fastest depends on the processor, the shape and the number of rows, by a factor of up to three. So
each is timed with the model's own shapes, in a fraction of a second; the seconds are remembered in the user's cache.
These operators are no part of torch's public interface: each is checked against `F.linear` before it is used.

Source: oneMKL's reference, `cblas_?gemm_pack`; oneDNN's guide, "Memory format propagation".

Knows weights and rows, no modules.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.errors import InputFileError, SettingError
from jopa.model.machine import OtherWork, processor_name
from jopa.storage import write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS = (1, 16, 100, 400)
"""Numbers of rows that are timed; any other number is treated like the one nearest to it, as a ratio."""
_MAX_ROWS = (*(float(math.isqrt(first * second)) for first, second in pairwise(ROWS)), math.inf)
"""The largest number of rows that is treated like each of them."""
_MAX_WEIGHTS = 2**20
"""Larger weights are timed with some of their output features: at most this many numbers,"""
_MAX_PRODUCTS = 2**27
"""and at most this many multiplications: what takes a millisecond is seldom interrupted."""
_FLUSHED_BYTES = 2**26
"""Bytes that are read before each timing, so that weights come from memory, as a model's do, and not from caches."""
_MAX_OTHER_WORK = 0.2
"""What was timed while other processes took more than this share of the processors is not remembered."""
_SETTLED = 1.25
"""Timing of a number of rows ends when the two lowest seconds of each product differ by less than this factor,"""
_MAX_ROUNDS, _MAX_SECONDS = 12, 0.25
"""or after this many rounds or seconds; two rounds are always made."""
_MIN_GAIN = 0.05
"""The share of the time by which another product must be faster than the plain one."""
_PLAIN = "plain"

Shape = tuple[int, int]
"""Output and input features."""
Seconds = Mapping[str, tuple[float, ...]]
"""Of each product, the seconds that it takes for each of `ROWS`."""


@dataclass(frozen=True)
class Product:
    """A way to compute x Wᵀ + b.

    Attributes:
        name: the name in messages and in the cache.
        multiply: takes `Float[*rows, in]`, what `pack` made of the weight, the weight `Float[out, in]` itself, and the
            bias `Float[out]` or None.
        pack: makes what is kept of a weight; None if nothing is.
    """

    name: str
    multiply: Callable[[Tensor, Any, Tensor, Tensor | None], Tensor]
    pack: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Choice:
    """The products of a layer: one for each of `ROWS`; at most one of them has a packed weight."""

    products: tuple[Product, ...]

    @property
    def packed(self) -> Product | None:
        """The product that needs a packed copy of the weight."""
        return next((product for product in self.products if product.pack), None)

    @property
    def is_plain(self) -> bool:
        """Whether the layer computes as it always does."""
        return all(product.name == _PLAIN for product in self.products)

    def limits(self) -> list[tuple[float, Product]]:
        """The largest number of rows for each product, in rising order; equal neighbours are one."""
        found: list[tuple[float, Product]] = []
        for most, product in zip(_MAX_ROWS, self.products, strict=True):
            if found and found[-1][1] is product:
                found.pop()
            found.append((most, product))
        return found


@cache
def products() -> dict[str, Product]:
    """All products by name, whether this machine can compute them or not."""
    import torch
    from torch.nn.functional import linear

    def by_mkl(inputs: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n_rows = inputs.numel() // inputs.shape[-1]
        return torch.ops.mkl._mkl_linear.default(inputs, packed, weight, bias, n_rows)

    def by_onednn(inputs: Tensor, packed: Tensor, _weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(inputs, packed, bias, "none", [], "")

    def by_onednn_unpacked(inputs: Tensor, _packed: None, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(inputs, weight, bias, "none", [], "")

    def transposed(inputs: Tensor, _packed: None, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        n_rows = rows.shape[0]
        columns = torch.cat((rows, rows)) if n_rows == 1 else rows
        other = columns.t()
        found = torch.mm(weight, other) if bias is None else torch.addmm(bias.unsqueeze(1), weight, other)
        return found[:, :n_rows].t().contiguous().view(*inputs.shape[:-1], weight.shape[0])

    def batched(inputs: Tensor, _packed: None, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        n_rows, n_out = rows.shape[0], weight.shape[0]
        n_parts = 2 if n_rows == 1 and n_out % 2 == 0 else 1
        # One row of an odd weight is multiplied twice: one column in one batch would be an ordinary product again.
        columns = torch.cat((rows, rows)) if n_rows == n_parts == 1 else rows
        parts, other = weight.unflatten(0, (n_parts, -1)), columns.t().expand(n_parts, -1, -1)
        found = torch.bmm(parts, other) if bias is None else torch.baddbmm(bias.view(n_parts, -1, 1), parts, other)
        return found.view(n_out, -1)[:, :n_rows].t().contiguous().view(*inputs.shape[:-1], n_out)

    found = [
        Product(_PLAIN, lambda inputs, _packed, weight, bias: linear(inputs, weight, bias)),
        # Any number of rows may come, whatever MKL is told here to expect.
        Product("mkl-packed", by_mkl, lambda weight: torch.ops.mkl._mkl_reorder_linear_weight(weight, 256)),
        Product("onednn-packed", by_onednn, lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight)),
        Product("onednn", by_onednn_unpacked),
        Product("transposed", transposed),
        Product("batched", batched),
    ]
    return {product.name: product for product in found}


@cache
def available(dtype: torch.dtype) -> tuple[Product, ...]:
    """The products that this machine computes, and computes right; the plain one is the first."""
    return tuple(product for product in products().values() if product.name == _PLAIN or _is_right(product, dtype))


def _is_right(product: Product, dtype: torch.dtype) -> bool:
    """Whether a product agrees with the plain one, with and without bias, for rows of any number and layout."""
    import torch
    from torch.nn.functional import linear

    atol = 1e-4 if dtype == torch.float32 else 0.1
    try:
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
            weight, bias = torch.randn(72, 96, dtype=dtype), torch.randn(72, dtype=dtype)
            packed = product.pack(weight) if product.pack else None
            inputs = [torch.randn(n_rows, 96, dtype=dtype) for n_rows in (1, 2, 33, 256, 700)]
            inputs += [torch.randn(96, dtype=dtype), torch.randn(96, 6, dtype=dtype).t(), inputs[0].expand(2, 3, 96)]
            return all(
                torch.allclose(product.multiply(x, packed, weight, b), linear(x, weight, b), atol=atol, rtol=0.02)
                for x in inputs
                for b in (bias, None)
            )
    except (AttributeError, RuntimeError, TypeError):
        return False


def choose(seconds: Seconds, may_pack: bool = True) -> Choice:
    """The fastest products by what they took.

    Of the products with packed weights at most one is taken, so that no weight is kept twice: the one with which the
    sum over `ROWS`, each as a ratio to the plain product's seconds, is the lowest.

    Args:
        seconds: of each product that may be taken, the plain one among them.
        may_pack: whether there is memory for packed weights.
    """
    known = {name: product for name, product in products().items() if name in seconds}
    unpacked = [product for product in known.values() if not product.pack]
    best: tuple[float, Choice] | None = None
    for packed in [None, *(product for product in known.values() if product.pack and may_pack)]:
        candidates = [*unpacked, packed] if packed else unpacked
        taken, total = [], 0.0
        for i, plain in enumerate(seconds[_PLAIN]):
            ratios = {
                p.name: seconds[p.name][i] / plain / (1 if p.name == _PLAIN else 1 - _MIN_GAIN) for p in candidates
            }
            name = min(ratios, key=ratios.__getitem__)
            taken.append(known[name])
            total += ratios[name]
        if best is None or total < best[0]:
            best = total, Choice(tuple(taken))
    assert best is not None
    return best[1]


def product_wanted() -> str | None:
    """The product that the environment variable JOPA_LINEAR names; None if it names none.

    Raises:
        SettingError: there is no such product.
    """
    wanted = os.environ.get("JOPA_LINEAR") or None
    if wanted is not None and wanted not in products():
        raise SettingError(f"JOPA_LINEAR is '{wanted}': set it to one of {', '.join(products())}, or to nothing")
    return wanted


def measured(shapes: Collection[Shape], dtype: torch.dtype) -> dict[Shape, Seconds]:
    """What each available product takes with weights of these shapes, from the user's cache if it is there.

    The environment variable JOPA_LINEAR names one product to take, where this machine has it: results are then the same
    to the last bit in every run. Otherwise, another product may round differently.

    The cache holds for one processor, its capability, torch's version and the number of threads. A file that is
    damaged or foreign is ignored and written anew; one that cannot be written is not used. What other work on the
    machine disturbed counts for this process and is not remembered.

    Raises:
        SettingError: JOPA_LINEAR names no product.
    """
    names = [product.name for product in available(dtype)]
    if wanted := product_wanted():
        names = [name for name in names if name in (_PLAIN, wanted)]
        order = {name: 0.5 if name == wanted else 1.0 for name in names}
        return {shape: {name: (seconds,) * len(ROWS) for name, seconds in order.items()} for shape in shapes}
    if names == [_PLAIN]:
        return {shape: {_PLAIN: (1.0,) * len(ROWS)} for shape in shapes}
    path, machine = _cache_file(), _machine()
    remembered = _read(path, machine)
    keys = {shape: f"{str(dtype).removeprefix('torch.')} {shape[0]}x{shape[1]}" for shape in shapes}
    missing = [shape for shape, key in keys.items() if set(remembered.get(key, ())) != set(names)]
    if missing:
        found, settled = time_products(missing, dtype)
        remembered |= {keys[shape]: seconds for shape, seconds in found.items()}
        if settled:
            with suppress(OSError, InputFileError):
                _write(path, machine, remembered)
    return {shape: remembered[key] for shape, key in keys.items()}


def time_products(shapes: Collection[Shape], dtype: torch.dtype) -> tuple[dict[Shape, Seconds], bool]:
    """Time every available product with random weights of these shapes.

    Weights are read from memory, as a forward reads those of a model layer by layer, and not from the processor's
    caches. The lowest of several rounds counts, which other work on the machine disturbs the least.

    Returns:
        The seconds, and whether they can be trusted: the two lowest of each product agree, and other processes left the
        processors to this one.
    """
    import torch

    settled = True
    other_work = OtherWork()
    candidates = available(dtype)
    lowest = {shape: {product.name: [math.inf] * len(ROWS) for product in candidates} for shape in shapes}
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
        for i, n_rows in enumerate(ROWS):
            most = min(_MAX_WEIGHTS, _MAX_PRODUCTS // n_rows)
            inputs = {shape: torch.randn(n_rows, shape[1], dtype=dtype) for shape in shapes}
            weights = {
                shape: torch.randn(max(1, min(shape[0], most // shape[1])), shape[1], dtype=dtype) for shape in shapes
            }
            for (shape, name), seconds in _rounds(candidates, inputs, weights).items():
                lowest[shape][name][i] = min(seconds)
                settled = settled and _agree(seconds)
    trusted = settled and other_work.share() <= _MAX_OTHER_WORK
    return {shape: {n: tuple(values) for n, values in found.items()} for shape, found in lowest.items()}, trusted


def _rounds(
    candidates: Collection[Product],
    inputs: Mapping[Shape, Tensor],
    weights: Mapping[Shape, Tensor],
) -> dict[tuple[Shape, str], list[float]]:
    """The seconds of each shape and product in several rounds, until the two lowest of each agree or time is up."""
    import torch

    flushed = torch.ones(_FLUSHED_BYTES // 4, dtype=torch.float32)
    first = next(iter(weights))
    other = weights[first].clone()
    packed = {
        (shape, product.name): product.pack(weight) if product.pack else None
        for shape, weight in weights.items()
        for product in candidates
    }
    found: dict[tuple[Shape, str], list[float]] = {key: [] for key in packed}
    started = time.perf_counter()
    for n_rounds in range(_MAX_ROUNDS + 1):
        for product in candidates:
            flushed.sum()
            # Another weight comes first: threads wake up, and the product's code comes from memory.
            product.multiply(inputs[first], product.pack(other) if product.pack else None, other, None)
            for shape, weight in weights.items():
                start = _clock()
                product.multiply(inputs[shape], packed[shape, product.name], weight, None)
                if n_rounds:  # the first round prepares the libraries' kernels
                    found[shape, product.name].append(_clock() - start)
        time_is_up = time.perf_counter() - started > _MAX_SECONDS
        if n_rounds >= 2 and (time_is_up or all(map(_agree, found.values()))):
            break
    return found


def _agree(seconds: Sequence[float]) -> bool:
    """Whether the lowest of several times is reliable."""
    first, second, *_ = sorted(seconds)
    return second < _SETTLED * first


def _clock() -> float:
    """Seconds of this thread on a processor, where the system tells them: other work on the machine is not counted.

    This thread has a part in every product and waits for the other threads actively, so its seconds are the product's.
    """
    return time.thread_time() if hasattr(time, "CLOCK_THREAD_CPUTIME_ID") else time.perf_counter()


def _machine() -> dict[str, str | int]:
    """What the seconds hold for."""
    import torch

    return {
        "processor": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cache_file() -> Path:
    from jopa.model.loading import cache_folder  # which imports this file by way of others

    name = hashlib.sha256(json.dumps(_machine()).encode()).hexdigest()[:16]
    return cache_folder() / "products" / f"{name}.json"


def _read(path: Path, machine: Mapping[str, str | int]) -> dict[str, Seconds]:
    """The seconds of a cache file, by dtype and shape; none of a file that is damaged or of another machine."""
    try:
        content = json.loads(path.read_text())
        if content["machine"] != machine or content["rows"] != list(ROWS):
            return {}
        return {key: _checked(found) for key, found in content["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _checked(found: Any) -> Seconds:
    """The seconds of one shape, as a file has them.

    Raises:
        ValueError, TypeError, AttributeError: they are not what `_write` writes.
    """
    seconds = {str(name): tuple(float(value) for value in values) for name, values in found.items()}
    if not all(len(values) == len(ROWS) and all(0 < v < math.inf for v in values) for values in seconds.values()):
        raise ValueError("no seconds")
    return seconds


def _write(path: Path, machine: Mapping[str, str | int], seconds: Mapping[str, Seconds]) -> None:
    """Replace a cache file in one step, so that no reader meets half of it.

    Raises:
        OSError: the folder cannot be made.
        InputFileError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"machine": machine, "rows": ROWS, "seconds": seconds}, indent=1)).chmod(0o600)
