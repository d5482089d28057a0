"""What stayed in place while units were removed: the fixed parts of an input, named for people.

Sees values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from jopa.prompt.building import Prompt
from jopa.reports.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.citation.result import Citations
    from jopa.diagnosis.result import Diagnosis
    from jopa.prompt.building import Unit
    from jopa.prompt.fixed_parts import FixedPart
    from jopa.results.attribution import Attribution

_NAMES = {
    "system": "System message",
    "developer": "Developer message",
    "user": "Message of the user",
    "assistant": "Message of the assistant",
    "tool": "Result of a tool",
    "tools": "Tools that the model could call",
    "prefix": "Fixed instruction before the prompt",
    "prefill": "Beginning of the answer, given",
    "reasoning": "Reasoning of the model, given",
}
_WIDTH = 200
"""Characters of a part that a terminal shows."""


@dataclass(frozen=True)
class InPlace:
    """What stayed in place.

    Attributes:
        parts: a title and a text each, in reading order.
        rendered: the model's whole input as text; empty where it is not recorded.
        note: a sentence: how many tokens belong to no unit, and what they are where no part tells.
    """

    parts: tuple[tuple[str, str], ...]
    rendered: str
    note: str


def in_place(value: Attribution | Diagnosis | Citations) -> InPlace:
    """What stayed in place while the units of a value were removed."""
    return in_place_of(Prompt(value.prompt, value.input_ids, value.units, fixed=value.fixed, rendered=value.rendered))


def in_place_of(prompt: Prompt) -> InPlace:
    """What stays in place while the units of a prompt are removed."""
    rest = _text_outside_units(prompt.text, prompt.units)
    parts = [(_title(part), part.text) for part in prompt.fixed]
    if rest:
        parts.append(("Text of the prompt that belongs to no unit", rest))
    n_fixed = len(prompt.ids) - len({position for unit in prompt.units for position in unit.positions})
    tokens = f"{n_fixed:,} of the input's {len(prompt.ids):,} tokens belong to no unit"
    if not n_fixed:
        note = "Nothing: every token of the input belongs to a unit"
    elif parts:
        note = f"{tokens}, the chat template's marks included"
    elif prompt.rendered:
        note = f"{tokens}: what the chat template or the tokenizer adds"
    else:
        note = f"{tokens}; this older record does not hold their text"
    return InPlace(tuple(parts), prompt.rendered, note)


def _title(part: FixedPart) -> str:
    """What a fixed part is called, and whether the model read it."""
    name = _NAMES.get(part.kind, one_line(part.kind))
    return name if part.shown else f"Not read: {name[:1].lower()}{name[1:]} (the chat template leaves it out)"


def in_place_lines(value: Attribution | Diagnosis | Citations) -> list[tuple[str, str]]:
    """What stayed in place for a terminal: a title and the beginning of the text each, a note last."""
    found = in_place(value)
    lines = [(title, _beginning(text)) for title, text in found.parts]
    return [*lines, ("Tokens", found.note)]


def _beginning(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}… ({len(text):,} characters)"


def _text_outside_units(prompt: str, units: Sequence[Unit]) -> str:
    """The text of a prompt that lies outside its units, its pieces on lines of their own."""
    ordered = sorted((unit.start, unit.end) for unit in units)
    gaps = pairwise([(0, 0), *ordered, (len(prompt), len(prompt))])
    pieces = (prompt[end:start].strip() for (_, end), (start, _) in gaps)
    return "\n".join(piece for piece in pieces if piece)
