"""Words that a prompt and its answer share.

A model often copies: names, numbers and phrases of the answer stand in the prompt, and not seldom several times, so
that taking one mention away changes nothing and taking all of them away changes the answer. Where the words are can be
read off the text; whether the answer needs them, only the model can say.

Sees texts and token ids; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jopa.prompt.building import Prompt


@dataclass(frozen=True)
class RepeatedToken:
    """A word, or a token's piece of one, that prompt and target share.

    Attributes:
        units: those that hold it.
        targets: the target tokens that are it, counted from the target's first.
    """

    units: frozenset[int]
    targets: tuple[int, ...]


def find_repeated_tokens(
    prompt: Prompt, target: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> list[RepeatedToken]:
    """All tokens that units and target share, whatever their case and the blanks around them.

    Args:
        prompt: its units.
        target: token ids.
        decode: the text of token ids.

    Returns:
        In the order in which the target first says them.
    """
    words: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in words:
            text = decode([token]).strip().casefold()
            words[token] = f"{text} {token}" if "\ufffd" in text else text  # part of a character has no text
        return words[token]

    units: dict[str, set[int]] = {}
    for number, unit in enumerate(prompt.units):
        for position in unit.positions:
            units.setdefault(word(prompt.ids[position]), set()).add(number)
    said: dict[str, list[int]] = {}
    for place, token in enumerate(target):
        said.setdefault(word(token), []).append(place)
    return [
        RepeatedToken(frozenset(units[text]), tuple(places)) for text, places in said.items() if text and text in units
    ]
