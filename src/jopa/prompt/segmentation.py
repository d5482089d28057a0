"""Words, lines and sentences of a text, as character spans that tile it.

Knows text alone: neither tokens nor models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

Span = tuple[int, int]
"""`[start, end)` in characters."""

# Scripts written without blanks (kana, Han); there a word is a character with the punctuation around it.
_UNSPACED = "\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[^\w\s]*[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SENTENCE_END = re.compile(
    r"(?<![.!?…؟۔।])[.!?…؟۔।]++[\"'”’»)\]*_]*+(?=\s)\s*"  # needs a blank: not the point in 3.14 or jopa.org
    r"|[。！？｡]+[”’」』）】]*\s*"
    r"|[\r\n]\s*"
)
_TITLE = re.compile(r"\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Mt|vs|cf|al)\.$")
_COUNTED = re.compile(r"\b(?:No|Nos|Fig|Eq|Sec|Ch|Vol|p|pp)\.$")
_ITEM_NUMBER = re.compile(r"\s*\d{1,3}\.$")


def words(text: str) -> list[Span]:
    """Runs between blanks, each with the blanks before it."""
    return _tiling(text, [match.end() for match in _WORD.finditer(text)])


def lines(text: str) -> list[Span]:
    """Lines with their line breaks; an empty line is one, too."""
    return [match.span() for match in _LINE.finditer(text)]


def sentences(text: str) -> list[Span]:
    """Split after sentence-ending punctuation and at line breaks; a heuristic, good enough to remove by."""
    ends: list[int] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        breaks_line = "\n" in match.group() or "\r" in match.group()
        if text[start:end].isspace() or (not breaks_line and _goes_on(text, start, match)):
            continue
        ends.append(end)
        start = end
    return _tiling(text, ends)


def _goes_on(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sentence from `start` on goes on after a match of `_SENTENCE_END`."""
    follows = text[match.end() : match.end() + 1]
    if match.group()[0] in "。！？｡":
        return False
    recent = text[max(start, match.start() - 8) : match.start() + 1]  # longer than any abbreviation
    abbreviated = _TITLE.search(recent) or (follows.isdigit() and _COUNTED.search(recent))
    numbered = match.start() - start < 8 and _ITEM_NUMBER.fullmatch(recent)
    return follows.islower() or bool(abbreviated or numbered)


def _tiling(text: str, ends: list[int]) -> list[Span]:
    """Spans between ends, the last one as far as the text goes."""
    if text[ends[-1] if ends else 0 :].strip():
        ends = [*ends, len(text)]
    return list(pairwise([0, *ends[:-1], len(text)]))


SEGMENTERS: dict[str, Callable[[str], list[Span]]] = {"word": words, "sentence": sentences, "line": lines}
"""What cuts a text into units larger than tokens, by the kind of unit."""
