"""What a caller asks about one prompt, checked once; no model is needed for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jopa.choices import checked_removal, whole_number
from jopa.errors import SettingError
from jopa.explanation.level import require_finer
from jopa.explanation.searching import SearchOptions
from jopa.prompt.building import AUTO, Message, require_prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.segmentation import Span


@dataclass(frozen=True)
class ExplanationRequest:
    """What is explained and how it is searched, before the model, the methods and the output are known.

    Attributes:
        prompt: a text, or chat messages.
        options: what stands around the prompt, documents among it.
        k: how many units to find; None for the default. Of no meaning with `search.until_pr`.
        unit: a kind of unit, "auto" for the one that fits the prompt's length, or character spans.
        removal: "delete", "zero" or "hide"; None for each method's own preset.
        search: what else to look for and to measure.

    Raises:
        PromptError: the prompt is empty or has the wrong shape, or nothing of it is attributable.
        SettingError: k or the budget is below 1, a unit or the removal is unknown, or two settings do not fit.
    """

    prompt: str | Sequence[Message]
    options: PromptOptions = field(default_factory=PromptOptions)
    k: int | None = None
    unit: str | Sequence[Span] = AUTO
    removal: str | None = None
    search: SearchOptions = field(default_factory=SearchOptions)

    def __post_init__(self) -> None:
        require_kind("options", self.options, PromptOptions)
        require_kind("search", self.search, SearchOptions)
        if self.k is not None:
            object.__setattr__(self, "k", whole_number("k", self.k))
        if not isinstance(self.unit, str) and isinstance(self.unit, Iterable):
            object.__setattr__(self, "unit", tuple(self.unit))
        if self.removal is not None:
            checked_removal(self.removal)
        if self.k is not None and self.k < 1 and self.search.until_pr is None:
            raise SettingError(f"k must be at least 1, got {self.k}")
        if self.search.budget is not None and self.search.budget < 1:
            raise SettingError(f"the budget must be at least 1, got {self.search.budget}")
        require_finer(self.search.refine or (), self.unit)
        require_prompt(self.prompt, self.options, unit=self.unit)


def with_documents(options: PromptOptions | None, documents: Sequence[Any] | Path | None) -> PromptOptions:
    """Options with documents; the options' own where none are given beside them.

    Raises:
        SettingError: both are given, or the options are something else.
    """
    options = options or PromptOptions()
    require_kind("options", options, PromptOptions)
    if documents is None:
        return options
    if options.documents is not None:
        raise SettingError("documents are given twice, by themselves and in the options; give them once")
    return replace(options, documents=documents)


def require_kind(name: str, value: object, kind: type) -> None:
    """Refuse an argument of another type.

    Raises:
        SettingError: naming the argument and the type.
    """
    if not isinstance(value, kind):
        raise SettingError(f"{name} must be {kind.__name__}(…), got {type(value).__name__}")
