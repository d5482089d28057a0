"""Whole messages and documents as units: which tokens go with them when they are removed.

A message's frame is what the chat template writes around it, a document's its heading and the empty line after it.
A frame goes with its text only where that is proved: the input is rendered and tokenised anew without the message, and
the ids must be those of the whole input with one run of tokens cut out; without all of them together, too. Where the
template refuses, numbers what comes later, or the tokenizer joins tokens across the gap, the text alone goes.

Knows tokenizers, no model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from jopa.errors import PromptError
from jopa.prompt.continuation import end_of_turn_id
from jopa.prompt.passages import Layout, RenderedPrompt
from jopa.prompt.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def framed_positions(
    renderer: Renderer, layout: Layout, tokens: RenderedPrompt, positions: Sequence[Sequence[int]]
) -> list[tuple[int, ...] | None]:
    """For each passage of `tokens` the positions of its text and frame; None where its text alone can go.

    Args:
        renderer: how the input was rendered.
        layout: what was rendered.
        tokens: the result.
        positions: the tokens of each passage's text, ascending.
    """
    opening = _opening(renderer.tokenizer)
    blocks: list[tuple[int, int] | None] = []
    following = len(tokens.ids)  # where what comes after begins
    before = [0, *(of_text[-1] + 1 for of_text in positions)]
    for number, of_text, reached in reversed(list(zip(tokens.numbers, positions, before[:-1], strict=True))):
        shorter = _ids_without(renderer, layout, [number])
        text = (of_text[0], of_text[-1] + 1)
        block = None if shorter is None else _cut(tokens.ids, shorter, text, (reached, following), opening)
        blocks.insert(0, block)
        following = block[0] if block else text[0]
    numbers = dict(zip(tokens.numbers, blocks, strict=True))
    framed = [number for number, block in numbers.items() if block]
    for together in [list(pair) for pair in pairwise(framed)] + ([framed] if len(framed) > 2 else []):
        if not all(numbers[number] for number in together):
            continue
        shorter = _ids_without(renderer, layout, together)
        if shorter is not None and shorter != _left(tokens.ids, [numbers[number] for number in together]):
            numbers |= dict.fromkeys(together)
    return [tuple(range(*block)) if block else None for block in numbers.values()]


def _ids_without(renderer: Renderer, layout: Layout, passages: Collection[int]) -> list[int] | None:
    """The ids of the input without some passages; None where the template refuses."""
    shorter = layout.without(passages)
    if not shorter.messages:
        return None
    try:
        return renderer.encoded(renderer.text(shorter))[0]
    except PromptError:
        return None


def _cut(
    ids: Sequence[int], shorter: Sequence[int], text: tuple[int, int], room: tuple[int, int], opening: Collection[int]
) -> tuple[int, int] | None:
    """The run `[start, end)` of tokens whose removal makes `shorter` of `ids`, around a text and within some room.

    Several runs may do so, where what precedes the text is also what follows it. One that begins with a special token
    that may open a message is preferred; else the last.
    """
    length = len(ids) - len(shorter)
    alike_before, alike_after = _n_alike(ids, shorter), _n_alike(ids[::-1], shorter[::-1])
    lowest = max(len(shorter) - alike_after, room[0], text[1] - length)
    highest = min(alike_before, text[0], room[1] - length)
    if length <= 0 or lowest > highest:
        return None
    start = next((start for start in range(highest, lowest - 1, -1) if ids[start] in opening), highest)
    return start, start + length


def _n_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def _left(ids: Sequence[int], blocks: Sequence[tuple[int, int] | None]) -> list[int]:
    """The ids outside some runs."""
    gone = {position for block in blocks if block for position in range(*block)}
    return [token for position, token in enumerate(ids) if position not in gone]


def _opening(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of special and added tokens but those that end a turn: a run that took one would cut into a neighbour."""
    special = frozenset([*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
    ends = (tokenizer.eos_token_id, end_of_turn_id(tokenizer))
    return special.difference(token for token in ends if isinstance(token, int))
