"""Weights laid out as a processor's matrix product reads them.

A linear layer keeps its weight W as `[out, in]` and computes x Wᵀ. On a CPU the library behind it turns W over in every
call, which costs as much as some thirty rows of x whatever their number. Laid out the other way in memory, the same
numbers under the same shape are read as they lie. Nothing but the strides changes.

Knows modules, nothing of language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def lay_out(model: nn.Module) -> None:
    """Lay out the float32 weights of a model's linear layers on the CPU for matrix products, in place.

    Values, shapes and parameters stay what they are; only `stride()` changes. Weights that an embedding shares are left
    alone: it reads them row by row. So are other dtypes, which go another way through the library.

    Args:
        model: any module; weights on other devices are left alone, too.
    """
    import torch

    shared = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or id(module.weight) in shared:
            continue
        weight = module.weight
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous():
            weight.data = weight.data.t().contiguous().t()
