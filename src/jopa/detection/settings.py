"""The settings of `detect`: how much it measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from jopa.choices import whole_number
from jopa.errors import SettingError
from jopa.json_values import Record
from jopa.prompt.options import PromptOptions

MAX_TOKENS = 1024
"""The longest prompt, in tokens with its template, unless the caller gives another limit."""


@dataclass(frozen=True)
class DetectionConfig:
    """How much `detect` measures of a prompt.

    Attributes:
        k: how many units to attribute the answer to; fewer where the prompt has fewer.
        budget: what the search for them may spend, in full-forward equivalents.
        max_new_tokens: the most tokens of an answer.
        most_tokens: a longer prompt (tokens, template included) is refused.
        plain: take the prompt as plain text, without the model's chat template.
        template_args: further arguments of the chat template.
    """

    k: int = 3
    budget: int = 8
    max_new_tokens: int = 16
    most_tokens: int = MAX_TOKENS
    plain: bool = False
    template_args: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> PromptOptions:
        """How the prompt is put before the model."""
        return PromptOptions(plain=self.plain, template_args=self.template_args)

    def to_dict(self) -> Record:
        """What records hold: how the prompt was rendered only where it is not the default."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("plain", "template_args")}

    def __post_init__(self) -> None:
        assert self.options  # refuses what cannot go together
        for name in ("k", "budget", "max_new_tokens", "most_tokens"):
            value = whole_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
