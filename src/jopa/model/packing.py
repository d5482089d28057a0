"""The linear layers of a model on the CPU by the fastest product there is, some of them with packed weights.

A library copies the weight of a linear layer into blocks that fit its kernels before it multiplies. The copy is always
the same, and where the input has few rows it takes a good part of the time. So it is kept. `products` says which
product is the fastest for how many rows. The same numbers are multiplied in the same precision.

Knows modules, nothing of language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jopa.model.products import ROWS, Choice, Seconds, Shape, available, choose, measured
from jopa.model.threads import follow_other_work

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor, nn

_MEMORY_SHARE = 0.25
"""The most of the memory now free that packed weights may take."""
_SAMPLED = 64
"""Values of each packed weight that are compared before each use."""
_CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells a container what it may use."""


class PackedWeights:
    """The products of a model's linear layers on the CPU, with packed copies of their weights where these are faster.

    Copies are made when first needed, and made again of a weight that was replaced or changed in place. Changes through
    `weight.data`, as PEFT makes them, leave no mark on the weight; they are found in a sample of its values. Where
    memory is short there are no copies; where no product is faster than the plain one, the layers compute as they
    always do.

    Args:
        model: any module.
        measure: gives the seconds of each product with weights of some shapes.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Callable[[Collection[Shape], torch.dtype], Mapping[Shape, Seconds]] = measured,
    ) -> None:
        import torch

        layers = [module for module in model.modules() if type(module) is torch.nn.Linear and _can_pack(module)]
        shapes: dict[torch.dtype, set[Shape]] = {}
        for layer in layers:
            shapes.setdefault(layer.weight.dtype, set()).add(_shape(layer))
        seconds = {
            (dtype, shape): found
            for dtype, of_dtype in shapes.items()
            for shape, found in measure(sorted(of_dtype), dtype).items()
        }

        def choices(may_pack: bool) -> dict[nn.Linear, Choice]:
            found = {layer: choose(seconds[layer.weight.dtype, _shape(layer)], may_pack) for layer in layers}
            return {layer: choice for layer, choice in found.items() if not choice.is_plain}

        self._choices = choices(True)
        if not _fit([layer for layer, choice in self._choices.items() if choice.packed]):
            self._choices = choices(False)
        self._n_plain = len(layers) - len(self._choices)
        self._products: dict[nn.Linear, _LayerProduct | None] = {}

    def __getstate__(self) -> dict[str, object]:
        """A copy packs for itself: what is packed must stay at its address."""
        return {**vars(self), "_products": {}}

    @property
    def description(self) -> str:
        """The product that most layers take, for each number of rows that was timed: `plain (1), onednn (16, 100)`."""
        rows: dict[str, list[str]] = {}
        for i, n_rows in enumerate(ROWS):
            names = Counter({"plain": self._n_plain})
            names.update(choice.products[i].name for choice in self._choices.values())
            rows.setdefault(names.most_common(1)[0][0], []).append(str(n_rows))
        if len(rows) == 1:
            return next(iter(rows))
        return ", ".join(f"{name} ({', '.join(numbers)})" for name, numbers in rows.items())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the layers compute by these products for the time of a block, which must be without gradients."""
        changed = []
        if self._samples_differ():
            self._products.clear()  # all: what changed some weights may have changed others where no sample shows it
        try:
            # Set in the instances' own dictionaries: through `nn.Module` it would take milliseconds a forward.
            for layer in self._choices:
                if "forward" not in vars(layer) and (product := self._product(layer)):
                    vars(layer)["forward"] = product
                    changed.append(layer)
            yield
        finally:
            for layer in changed:
                del vars(layer)["forward"]

    def _samples_differ(self) -> bool:
        """Whether a packed copy was made of other values than its weight has now."""
        import torch

        pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for product in self._products.values():
            if product and product.sample:
                pairs.setdefault(product.sample[0].dtype, []).append(product.sample)
        return any(
            not torch.equal(*map(torch.cat, zip(*of_dtype, strict=True)))  # one comparison for all layers
            for of_dtype in pairs.values()
        )

    def _product(self, layer: nn.Linear) -> _LayerProduct | None:
        """The function to call in place of the layer's forward, if its weight can be packed as it is now."""
        product = self._products.get(layer)
        if product is None or product.made_of != _contents(layer):
            choice, weight = self._choices[layer], layer.weight
            usable = _can_pack(layer) and {p.name for p in choice.products} <= {p.name for p in available(weight.dtype)}
            product = self._products[layer] = _LayerProduct(layer, choice) if usable else None
        return product


class _LayerProduct:
    """What a linear layer computes, by the product that was chosen for the number of rows."""

    def __init__(self, layer: nn.Linear, choice: Choice) -> None:
        import torch

        self.made_of = _contents(layer)
        self.sample: tuple[Tensor, Tensor] | None
        self._layer, self._weight = layer, layer.weight  # while the weight is kept, no other tensor gets its address
        packed, self.sample = None, None
        if choice.packed and choice.packed.pack:
            with torch.inference_mode():
                packed = choice.packed.pack(layer.weight.detach())
                values = layer.weight.detach().diagonal()
                values = values[:: max(1, len(values) // _SAMPLED)]
                self.sample = (values, values.clone())  # as they are, and as they were
        self._limits = [(most, product.multiply, packed if product.pack else None) for most, product in choice.limits()]

    def __call__(self, inputs: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        follow_other_work()  # a forward of seconds must not wait for its end
        n_rows = inputs.numel() // inputs.shape[-1]
        multiply, packed = next((multiply, packed) for most, multiply, packed in self._limits if n_rows <= most)
        return multiply(inputs, packed, self._layer.weight, self._layer.bias)


def _can_pack(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.is_floating_point() and weight.device.type == "cpu" and not weight.is_inference()


def _shape(layer: nn.Linear) -> Shape:
    n_out, n_in = layer.weight.shape
    return n_out, n_in


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
