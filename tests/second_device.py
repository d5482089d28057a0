"""A second device, played by the processor: tensors on it mix with others no more than a GPU's do.

A tensor on it holds one of the CPU's and says that it is elsewhere. Every operation is looked at: one that is given
tensors of both devices fails, as on a GPU, unless a GPU allows it (numbers without dimensions, indices, copies). What
is asked to be made or moved there lies there afterwards. So code that forgets to move something is found without a
GPU; the numbers are the CPU's own.

It goes by the name "meta", a device that torch knows everywhere and that nothing here has another use for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import jopa

aten = torch.ops.aten
DEVICE = torch.device("meta")
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operations whose second argument may lie on the CPU, whatever the first does."""


class There(torch.Tensor):
    """A tensor on the second device."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        """What says of itself that it lies there, and holds a tensor that lies here."""
        there = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation outside of `at_hand`."""
        return _run(operation, args, kwargs or {})

    def __repr__(self) -> str:
        """As it would be printed here."""
        return f"There({self.here})"


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _NewTensors(TorchFunctionMode):
    """Sends tensors made of numbers there; by itself, torch makes them there without any numbers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.tolist and isinstance(args[0], There):
            return args[0].here.tolist()
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        return function(*args, **kwargs)


@contextmanager
def at_hand() -> Iterator[None]:
    """Tensors can be made on the second device, and moved there, for the time of a block.

    Inference mode only leaves out gradients meanwhile, since it does not know tensors like these.
    """
    with patch.object(torch, "inference_mode", _no_gradients), operations():
        yield


@contextmanager
def operations() -> Iterator[None]:
    """What `at_hand` does for one thread; others that want it must ask for themselves."""
    with _Operations(), _NewTensors():
        yield


def _no_gradients(mode: bool = True) -> AbstractContextManager[None]:
    return torch.no_grad() if mode else nullcontext()


def moved(model: jopa.LanguageModel) -> jopa.LanguageModel:
    """A copy of the model on the second device."""
    there = copy.deepcopy(model.model)
    parameters: dict[torch.Tensor, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in there.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in parameters:
                    parameters[parameter] = torch.nn.Parameter(There(parameter.detach()))
                module._parameters[name] = parameters[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer)
    with at_hand():  # the wrapper tries the model
        return replace(model, model=there)


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation here, if its tensors lie where they may, and leave the result where it belongs."""
    leaves = tree_leaves((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, There)]
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    if there and not wanted and operation is not aten.copy_.default:
        _require_one_device(operation, args, leaves)
    args_here, kwargs_here = tree_map(_here, (args, kwargs))
    if operation is aten.histc.default:
        args_here = (args_here[0].float(), *args_here[1:])
    result = operation(*args_here, **kwargs_here)
    if operation is aten.copy_.default:
        return args[0]
    if wanted.type != DEVICE.type if wanted else not there:
        return result
    held = {id(leaf.here): leaf for leaf in there}  # what was changed in place is the argument itself
    return tree_map(lambda leaf: held.get(id(leaf), There(leaf)) if isinstance(leaf, torch.Tensor) else leaf, result)


def _require_one_device(operation: Any, args: Any, leaves: list[Any]) -> None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim()]
    if operation in _INDEXED and isinstance(args[0], There):
        indices = {id(leaf) for leaf in tree_leaves(args[1])}
        strangers = [tensor for tensor in strangers if id(tensor) not in indices]
    if strangers:
        raise RuntimeError(f"expected all tensors to be on the same device: {operation}")


def _here(leaf: Any) -> Any:
    if isinstance(leaf, There):
        return leaf.here
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
