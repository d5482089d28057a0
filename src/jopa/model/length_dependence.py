"""Models whose first tokens change when a row becomes longer: rotary factors that depend on the longest row.

Some rotary embeddings (longrope, dynamic NTK) choose their factors by the largest position of a forward, and some keep
the factors of the longest forward so far. Then a row must be alone in its forward, without a cached beginning, and with
the factors that the model starts with.

Knows modules and positions, nothing of text.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids, tried
from jopa.model.requirements import context_length, input_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_N_TOKENS = 12
"""Tokens of the row that is tried; some models fill up the last chunk of a row, if it is not their first."""
_MIN_LENGTH = 256
"""Tokens; shorter rows are tried as if they had this many."""
_BY_LENGTH = ("dynamic", "longrope")


class LengthDependence:
    """Finds whether short rows and long rows share their factors, and restores the factors of short rows.

    Args:
        model: the model.
        tokenizer: its special tokens are left out of what is tried.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._independent = 0
        """The longest row that was tried and has the factors of short ones."""
        self._dependent: int | None = None
        """The shortest row that was tried and has other factors."""
        self._kept: list[_KeptState] = []
        self._took_positions = False

    def changes_at(self, length: int) -> bool:
        """Whether a row of `length` tokens gives its first tokens other factors than a short row does."""
        if length <= self._independent:
            return False
        if self._dependent is not None and length >= self._dependent:
            return True
        for candidate in dict.fromkeys([self._rounded(length), length]):  # so that few lengths are tried
            if self._agrees(candidate):
                self._independent = candidate
                return False
            self._dependent = candidate
        return True

    @cached_property
    def positions_agree(self) -> bool:
        """Whether the model scores the same when it is told that its tokens stand at 0, 1, …"""
        import torch

        if self._took_positions:  # far ones, as its own but for the last
            return True
        near = self._logits_of_short_row()
        ids, positions = self._row()

        def attempt() -> bool:
            return agree(self._model(input_ids=ids, position_ids=positions, use_cache=False).logits, near)

        with torch.inference_mode(False), torch.no_grad():
            try:
                return tried(attempt)
            finally:
                self.restore()

    def restore(self) -> None:
        """Give rotary modules the state that they have after a short row; nothing to do for most models."""
        for kept in self._kept:
            kept.restore()

    def _agrees(self, length: int) -> bool:
        import torch

        near = self._logits_of_short_row()
        if any(length > limit for limit in _declared_limits(self._model)):
            return False
        ids, far = self._row()
        if length <= ids.shape[1]:
            return True
        far[0, -1] = length - 1

        def attempt() -> bool:
            if agree(self._model(input_ids=ids, position_ids=far, use_cache=False).logits[:, :-1], near[:, :-1]):
                self._took_positions = True
                return True
            # Perhaps it is not the far position that changes its scores, but to be told positions at all.
            return not self.positions_agree

        with torch.inference_mode(False), torch.no_grad():  # what it keeps must be able to take part in gradients
            try:
                return tried(attempt, failed=True)  # it takes no positions, or none so large
            finally:
                self.restore()

    def _rounded(self, length: int) -> int:
        """The next power of two, as far as the model's positions go."""
        rounded = max(_MIN_LENGTH, 1 << (length - 1).bit_length())
        return max(length, min(rounded, _context(self._model)))

    def _row(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and positions of a short row."""
        import torch

        n_tokens = min(_N_TOKENS, *_declared_limits(self._model), _context(self._model))
        ids = torch.tensor([probe_ids(self._model, self._tokenizer, n_tokens)], device=input_device(self._model))
        return ids, torch.arange(n_tokens, device=ids.device)[None]

    def _logits_of_short_row(self) -> torch.Tensor:
        """Logits of a short row; the first time, what rotary modules hold after it is kept."""
        import torch

        self.restore()
        ids, _positions = self._row()
        with torch.inference_mode(False), torch.no_grad():
            near = self._model(input_ids=ids, use_cache=False).logits
        self._kept = self._kept or [_KeptState.of(module) for module in self._model.modules() if _has_factors(module)]
        return near


@dataclass(frozen=True, eq=False)
class _KeptState:
    """What a rotary module holds beside its parameters."""

    module: torch.nn.Module
    buffers: dict[str, Any]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, module: torch.nn.Module) -> _KeptState:
        import torch

        def copied(values: dict[str, Any]) -> dict[str, Any]:
            return {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in values.items()}

        plain = {k: v for k, v in vars(module).items() if isinstance(v, (torch.Tensor, int, float)) and k != "training"}
        return cls(module, copied(module._buffers), copied(plain))

    def restore(self) -> None:
        import torch

        for values, place in ((self.buffers, self.module._buffers), (self.attributes, vars(self.module))):
            for name, value in values.items():
                device = getattr(place.get(name), "device", None)
                place[name] = value.clone().to(device or value.device) if isinstance(value, torch.Tensor) else value


def _has_factors(module: torch.nn.Module) -> bool:
    return any("inv_freq" in name for name in [*module._buffers, *vars(module)])


def _context(model: PreTrainedModel) -> int:
    """The most tokens that the model was made for, as far as it says."""
    return context_length(model.config.get_text_config()) or sys.maxsize


def _declared_limits(model: PreTrainedModel) -> list[int]:
    """Lengths above which a configuration says that rotary factors change."""
    config: Any = model.config.get_text_config()
    found: list[int] = []

    def visit(value: Any) -> None:
        if not isinstance(value, dict):
            return
        kind = value.get("rope_type", value.get("type"))
        if isinstance(kind, str) and kind in _BY_LENGTH:
            default = getattr(config, "original_max_position_embeddings", None) or getattr(
                config, "max_position_embeddings", 0
            )
            found.append(value.get("original_max_position_embeddings") or default)
        for inner in value.values():
            visit(inner)

    visit(getattr(config, "rope_parameters", None))
    visit(getattr(config, "rope_scaling", None))
    return found
