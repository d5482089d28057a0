"""How closely `detect` looks at a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from jopa.errors import SettingError

MOST_TOKENS = 1024
"""The longest prompt, in tokens with its template, unless told otherwise: a prompt costs some twelve forwards."""


@dataclass(frozen=True)
class DetectionConfig:
    """How closely to look at a prompt.

    Attributes:
        k: how many units to attribute the answer to; fewer where the prompt has fewer.
        budget: what the search for them may spend, in full-forward equivalents.
        max_new_tokens: the most tokens of an answer.
        most_tokens: a longer prompt (tokens, template included) is refused.
    """

    k: int = 3
    budget: int = 8
    max_new_tokens: int = 16
    most_tokens: int = MOST_TOKENS

    def __post_init__(self) -> None:
        for name in ("k", "budget", "max_new_tokens", "most_tokens"):
            if (value := getattr(self, name)) < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
