"""The sentences of an answer, as runs of its tokens. Knows texts and how far each token reaches, no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jopa.prompt.continuation import shown_by_tokens
from jopa.prompt.output import Output
from jopa.prompt.segmentation import sentences


@dataclass(frozen=True)
class Part:
    """A sentence of the answer.

    Attributes:
        text: its characters.
        start: its first target token in the output.
        end: one past its last.
    """

    text: str
    start: int
    end: int


def parts_of(text: str, ends: Sequence[int], target: tuple[int, int]) -> tuple[Part, ...]:
    """The sentences of a text that hold target tokens.

    A token belongs to the sentence that holds its first visible character, so that the blank before a word goes with
    the word.

    Args:
        text: the whole output.
        ends: for each token, how many characters it and the tokens before it show; never falling.
        target: `[start, end)`, the tokens that count.
    """
    spans = sentences(text) or [(0, len(text))]
    members: dict[int, list[int]] = {}
    for token, (begin, end) in enumerate(pairwise([0, *ends])):
        if target[0] <= token < target[1]:
            shown = text[begin:end]
            seen = begin + (len(shown) - len(shown.lstrip()) if shown.strip() else 0)
            sentence = next((i for i, (_, stop) in enumerate(spans) if seen < stop), len(spans) - 1)
            members.setdefault(sentence, []).append(token)
    return tuple(Part(text[slice(*spans[i])].strip(), tokens[0], tokens[-1] + 1) for i, tokens in members.items())


def sentences_of(output: Output, decode: Callable[[Sequence[int]], str]) -> tuple[Part, ...]:
    """The sentences of an output that hold target tokens; see `parts_of`.

    Args:
        output: the output.
        decode: gives the text of token ids, as the model's tokenizer does.
    """
    return parts_of(decode(output.ids), shown_by_tokens(decode, output.ids), output.target)
