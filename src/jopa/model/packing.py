"""Weights packed once for the processor's matrix product, which otherwise packs them anew in every call.

Intel's MKL, which torch brings along on x86, copies the factors of a product into blocks that fit its kernels before
it multiplies. The copy of a linear layer's weight is always the same, and where the input has few rows it takes a good
part of the time. MKL can keep it, and torch has the operators, for what its compiler makes. The same numbers are
multiplied in the same precision.

Source: oneMKL's reference, `cblas_?gemm_pack` and `cblas_?gemm_compute`.

Knows modules, nothing of language.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

_ROWS = 256
"""Rows of input that MKL is told to expect; any number may come."""
_MEMORY_SHARE = 0.25
"""The most of the memory now free that packed weights may take."""
_CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells a container what it may use."""


class PackedWeights:
    """Packed copies of the float32 weights of a model's linear layers on the CPU.

    They are made when first needed, and made again of a weight that was replaced or changed in place. Where torch has
    no packed products, or memory is short, there are none, and the layers compute as they always do.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        import torch

        layers = [module for module in model.modules() if type(module) is torch.nn.Linear and _can_pack(module)]
        self._layers = layers if has_packed_product() and _fit(layers) else []
        self._products: dict[nn.Linear, _PackedLinear | None] = {}

    def __getstate__(self) -> dict[str, object]:
        """A copy packs for itself: what is packed must stay at its address."""
        return {**vars(self), "_products": {}}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the layers multiply by packed weights for the time of a block, which must be without gradients."""
        changed = []
        try:
            # By the instances' own dictionaries: the way round by `nn.Module` would take milliseconds a forward.
            for layer in self._layers:
                if "forward" not in vars(layer) and (product := self._product(layer)):
                    vars(layer)["forward"] = product
                    changed.append(layer)
            yield
        finally:
            for layer in changed:
                del vars(layer)["forward"]

    def _product(self, layer: nn.Linear) -> _PackedLinear | None:
        """What stands in for the layer's forward, if its weight can be packed as it is now."""
        product = self._products.get(layer)
        if product is None or product.made_of != _contents(layer):
            product = self._products[layer] = _PackedLinear(layer) if _can_pack(layer) else None
        return product


class _PackedLinear:
    """What a linear layer computes, from a packed copy of its weight."""

    def __init__(self, layer: nn.Linear) -> None:
        import torch

        self.made_of = _contents(layer)
        self._layer, self._weight = layer, layer.weight  # a weight that is kept lends its address to no other
        with torch.inference_mode():
            self._packed = torch.ops.mkl._mkl_reorder_linear_weight(layer.weight.detach(), _ROWS)
        self._multiply = torch.ops.mkl._mkl_linear.default

    def __call__(self, inputs: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        n_rows = inputs.numel() // inputs.shape[-1]
        return self._multiply(inputs, self._packed, self._layer.weight, self._layer.bias, n_rows)


def _can_pack(layer: nn.Linear) -> bool:
    import torch

    weight = layer.weight
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.is_inference()


def _contents(layer: nn.Linear) -> tuple[int, int, int]:
    """What changes whenever the layer's weight is another, or holds something else."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return id(weight), weight.data_ptr(), -1 if weight.is_inference() else weight._version


def _fit(layers: Sequence[nn.Linear]) -> bool:
    """Whether there is memory enough for a copy of these layers' weights."""
    return sum(layer.weight.nbytes for layer in layers) <= _MEMORY_SHARE * _free_memory()


def _free_memory() -> int:
    """Bytes that this process may still take: what the machine has, or its container if that allows less."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit, used = ((_CONTAINER / name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # there is no container, or none with a limit ("max")
        return free


@cache
def has_packed_product() -> bool:
    """Whether this torch has packed products, and they are right for other numbers of rows than was announced.

    The operators are no part of torch's public interface, so they are tried once before they are relied on.
    """
    import torch

    try:
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
            layer = torch.nn.Linear(96, 72)
            packed = _PackedLinear(layer)
            return all(
                torch.allclose(packed(inputs), layer(inputs), atol=1e-4, rtol=0)
                for inputs in (torch.randn(n_rows, 96) for n_rows in (1, 33, _ROWS, 700))
            )
    except (AttributeError, RuntimeError, TypeError):
        return False
