"""How answers are generated, and who is told meanwhile: values alone.

Knows no model, units or masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
        seed: of the sampling.
    """

    max_new_tokens: int = 100
    temperature: float = 0.0
    seed: int = 0
