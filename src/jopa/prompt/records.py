"""A prompt and an output as JSON has them, with the types and ranges that are checked when they are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from jopa.prompt.building import Source, Unit
from jopa.prompt.fixed_parts import FixedPart

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Cost = Annotated[float, Meta(ge=0)]
Nats = Annotated[float, Meta(ge=-1e100, le=1e100)]
"""Beyond this, squares and sums could not be computed."""


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


def result_fields(prompt: PromptRecord, output: OutputRecord) -> dict[str, Any]:
    """The fields of a result, by name, that its records of prompt and output hold."""
    return {
        "prompt": prompt.text,
        "input_ids": prompt.ids,
        "units": prompt.units,
        "fixed": prompt.fixed,
        "rendered": prompt.rendered,
        "output": output.text,
        "output_ids": output.ids,
        "target": output.target,
    }


def require_set(removed: Sequence[int], n_units: int, **numbers: Collection[float] | None) -> None:
    """Refuse what is no set of units, or numbers that are not one a unit.

    Args:
        removed: indices of units.
        n_units: how many units there are.
        numbers: by name, numbers of the removed units (`individual`) or of all (any other name); None for none.

    Raises:
        ValueError: naming the field.
    """
    if len(set(removed)) < len(removed) or any(i >= n_units for i in removed):
        raise ValueError(f"'removed' must be different units below {n_units}, got {list(removed)}")
    for name, values in numbers.items():
        n = len(removed) if name == "individual" else n_units
        if values is not None and len(values) != n:
            raise ValueError(f"'{name}' must have {n} numbers, got {len(values)}")
