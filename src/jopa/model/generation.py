"""How answers are generated, and the callbacks during generation: values alone.

Knows no model, units or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from jopa.choices import real_number, whole_number
from jopa.errors import SettingError

if TYPE_CHECKING:
    import torch

_MIN_TEMPERATURE = 1e-6
"""Divided by less, logits overflow float32."""
_SEED_LIMIT = 2**63
"""Seeds are below this and not below its negative: the range that torch and servers share."""

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, the steps done and, if known, the steps in all."""

OnText = Callable[[str, str], None]
"""Called with what is being done and the text generated so far."""


@dataclass(frozen=True)
class Generation:
    """How the model's answers are generated.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        temperature: 0 for greedy; otherwise the softmax temperature to sample with.
        seed: of the sampling, from −2⁶³ to 2⁶³ − 1.
    """

    max_new_tokens: int = 100
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "seed"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        object.__setattr__(self, "temperature", real_number("temperature", self.temperature))
        if not -_SEED_LIMIT <= self.seed < _SEED_LIMIT:
            raise SettingError(f"seed must be from {-_SEED_LIMIT} to {_SEED_LIMIT - 1}, got {self.seed}")
        require_sampling(self.max_new_tokens, self.temperature)


def until_stop(ids: Sequence[int], stop_ids: Collection[int]) -> tuple[int, ...]:
    """The ids before the first stop token."""
    return tuple(takewhile(lambda token: token not in stop_ids, ids))


def require_sampling(max_new_tokens: int, temperature: float) -> None:
    """Refuse settings that no answer can be generated with.

    Raises:
        SettingError: a setting is out of range.
    """
    if max_new_tokens < 1:
        raise SettingError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature != 0 and not _MIN_TEMPERATURE <= temperature < float("inf"):
        raise SettingError(f"temperature must be 0 (greedy) or at least {_MIN_TEMPERATURE:g}, got {temperature}")


GREEDY = Generation()
"""The arg max at every step, 100 tokens at most."""


class TokenListener:
    """Gathers the tokens that `generate` streams, one a call; its first call carries the prompt."""

    def __init__(self, on_new: Callable[[Sequence[int]], None]) -> None:
        self.on_new = on_new
        self.ids: list[int] | None = None

    def put(self, tokens: torch.Tensor) -> None:
        """Take the next tokens, `Int[…]`; called by `generate`."""
        if self.ids is None:
            self.ids = []
        else:
            self.ids += tokens.flatten().tolist()
            self.on_new(self.ids)

    def end(self) -> None:
        """Nothing is left to flush."""
