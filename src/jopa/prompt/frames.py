"""Whole messages and documents as units: which tokens go with them when they are removed.

A message's frame is what the chat template writes around it, a document's its heading and the empty line after it.
A frame goes with its text only where that is proved: the input is rendered and tokenised anew without the message, and
the ids must be those of the whole input with one run of tokens cut out; without two neighbours, too, and without the
first and the last two, three, … of them, because a template may look at what a conversation begins or ends with. Where
the template refuses, numbers what comes later, or the tokenizer joins tokens across the gap, the text alone goes.

Knows tokenizers, no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from jopa.errors import PromptError
from jopa.prompt.continuation import end_of_turn_id
from jopa.prompt.passages import Layout, RenderedPrompt
from jopa.prompt.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOSING = re.compile(r"/|(?<![a-z])end(?![a-z])", re.IGNORECASE)
"""Names of marks that close something: `</tool_response>`, `[/INST]`, `<|end_of_role|>`."""


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
    framed = {number: block for number, block in zip(tokens.numbers, blocks, strict=True) if block}

    def proved(together: list[int]) -> bool:
        shorter = _ids_without(renderer, layout, together)
        return shorter is None or shorter == _left(tokens.ids, [framed[number] for number in together])

    for pair in pairwise(list(framed)):
        if all(number in framed for number in pair) and not proved(list(pair)):
            framed = {number: block for number, block in framed.items() if number not in pair}
    for backwards in (False, True):
        together: list[int] = []
        for number in sorted(framed, key=tokens.numbers.index, reverse=backwards):
            if together and not proved([*together, number]):
                del framed[number]
            else:
                together.append(number)
    return [tuple(range(*framed[number])) if number in framed else None for number in tokens.numbers]


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
    alike_before, alike_after = _common_length(ids, shorter), _common_length(ids[::-1], shorter[::-1])
    lowest = max(len(shorter) - alike_after, room[0], text[1] - length)
    highest = min(alike_before, text[0], room[1] - length)
    if length <= 0 or lowest > highest:
        return None
    start = next((start for start in range(highest, lowest - 1, -1) if ids[start] in opening), highest)
    return start, start + length


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def _left(ids: Sequence[int], blocks: Sequence[tuple[int, int]]) -> list[int]:
    """The ids outside some runs."""
    gone = {position for block in blocks for position in range(*block)}
    return [token for position, token in enumerate(ids) if position not in gone]


def _opening(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of special and added tokens but those that close something, as the end of a turn and their names say.

    A run of tokens that began with one of these would cut into its neighbour.
    """
    special = frozenset([*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
    closing = [token for token, said in tokenizer.added_tokens_decoder.items() if _CLOSING.search(str(said))]
    ends = (tokenizer.eos_token_id, end_of_turn_id(tokenizer), *closing)
    return special.difference(token for token in ends if isinstance(token, int))
