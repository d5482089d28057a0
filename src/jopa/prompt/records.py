"""A prompt and an output as JSON has them, with the types and ranges that are checked when they are read."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from jopa.prompt.building import Source, Unit
from jopa.prompt.fixed_parts import FixedPart

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class PromptRecord(Struct, frozen=True, omit_defaults=True):
    """A prompt as JSON has it: its text, the model's whole input, the units, and what stayed in place beside them."""

    text: str
    ids: tuple[Count, ...]
    units: tuple[Unit, ...]
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        for i, unit in enumerate(self.units):
            if not 0 <= unit.start <= unit.end <= len(self.text):
                raise ValueError(f"unit {i} lies outside the prompt's {len(self.text)} characters")
            if not all(0 <= position < len(self.ids) for position in unit.positions):
                raise ValueError(f"unit {i} lies outside the prompt's {len(self.ids)} tokens")


class OutputRecord(Struct, frozen=True):
    """An output as JSON has it: its text, ids, and `[start, end)` of the ids whose probability counts."""

    text: str
    ids: tuple[Count, ...]
    target: tuple[Count, Positive]

    def __post_init__(self) -> None:
        if not self.target[0] < self.target[1] <= len(self.ids):
            raise ValueError(f"the target {list(self.target)} lies outside the output's {len(self.ids)} tokens")
