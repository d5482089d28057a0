"""What reports write, and how: texts of strangers, units, numbers, and the templates they stand in.

Prompts and outputs are text from strangers. They are never read as markup, and characters that a reader cannot see
(control, direction and zero-width characters) are shown as escapes, so that nothing is hidden in a report and no text
controls a terminal.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from difflib import SequenceMatcher
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment

REMOVAL_WORDS = {
    "delete": "the tokens of removed units are cut out and later tokens move up, as if a person had edited the prompt",
    "zero": "the input embeddings of removed units are multiplied by zero; every position stays where it was",
    "hide": "no other token attends to removed units; every position stays where it was",
}
GLOSSARY = {
    "nats": "natural-log units of probability; a fall of 0.69 nats = half as likely",
    "individual effect": "how far log p(output) falls when one unit is removed alone",
    "joint effect": "how far it falls when all are removed together",
    "synergy": "the joint effect beyond the sum of the individual effects",
    "PR": "probability ratio: geometric mean over the tokens of p without / p with the units; 1 = nothing changed",
    "FFE": "full-forward equivalents: model work, in forward passes over prompt and output",
    "certificate": "what the scored sets prove: optimal (no set of this size does more), one-swap-optimal, or none",
}
"""The words of a report, a line each; every view takes them from here."""
NOTHING = "(nothing: it stops at once)"
HEADING = -1
"""The mark of a line above a message or document."""

# Unseen characters, but not what joins letters and emoji (U+200C, U+200D, U+FE0F), nor newline, tab and spaces.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)
_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+)|\s+")
_MAX_PAIRS = 1_000_000
"""Pairs of equal words in two texts up to which their differences are looked for: the time grows with them. Two texts
of 5,000 words of prose have about half as many."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Piece(NamedTuple):
    """A run of text; `mark` is 0, or what sets it apart: a removed unit's rank, 1 where outputs differ, `HEADING`."""

    text: str
    mark: int = 0


def word_diff(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Mark the words in which two texts differ; the pieces of each side, joined, are that text exactly.

    Words are compared without the blanks before them; blanks that differ are marked by themselves. What texts begin and
    end with alike is set aside first; where the rest would take too long, all of it counts as different.
    """
    left, right = _WORD.findall(before), _WORD.findall(after)
    marked: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, i1, i2, j1, j2 in _changes([w.lstrip() for w in left], [w.lstrip() for w in right]):
        words = left[i1:i2], right[j1:j2]
        n_paired = {"equal": i2 - i1, "replace": 1}.get(tag, 0)
        for pair in zip(words[0][:n_paired], words[1][:n_paired], strict=True):
            blanks = [word[: len(word) - len(word.lstrip())] for word in pair]
            for side, word, blank in zip(marked, pair, blanks, strict=True):
                side.append(Piece(blank, int(blanks[0] != blanks[1])))
                side.append(Piece(word[len(blank) :], int(tag != "equal")))
        for side, rest in zip(marked, words, strict=True):
            side.extend(Piece(word, 1) for word in rest[n_paired:])
    return _merged(marked[0]), _merged(marked[1])


def _changes(left: list[str], right: list[str]) -> list[tuple[str, int, int, int, int]]:
    """What makes one list of words of the other, as `SequenceMatcher.get_opcodes` has it."""
    shortest = min(len(left), len(right))
    first = next((i for i in range(shortest) if left[i] != right[i]), shortest)
    last = next((i for i in range(shortest - first) if left[-1 - i] != right[-1 - i]), shortest - first)
    (i1, i2), (j1, j2) = (first, len(left) - last), (first, len(right) - last)
    counts = Counter(right[j1:j2])
    if sum(counts[word] for word in left[i1:i2]) > _MAX_PAIRS:
        inside = [("replace", 0, i2 - i1, 0, j2 - j1)]
    else:
        inside = SequenceMatcher(None, left[i1:i2], right[j1:j2], autojunk=False).get_opcodes()
    return [
        ("equal", 0, first, 0, first),
        *((tag, i1 + a, i1 + b, j1 + c, j1 + d) for tag, a, b, c, d in inside),
        ("equal", i2, len(left), j2, len(right)),
    ]


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours with the same mark become one piece."""
    runs = groupby((piece for piece in pieces if piece.text), key=lambda piece: piece.mark)
    return [Piece("".join(piece.text for piece in run), mark) for mark, run in runs]


def visible(text: str) -> str:
    """The text with unseen characters as escapes, such as `\\x1b`; newlines and tabs stay."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text on one line, with unseen characters as escapes: for messages, labels and cells of tables."""
    return " ".join(part for part in re.split("[ \t\n]+", visible(text.replace("\r\n", "\n"))) if part)


def unit_name(text: str, width: int = 32) -> str:
    """A unit on one line, without the blanks around it; of a unit that is all blanks, signs for them."""
    core = visible(text.strip()).replace("\n", "⏎").replace("\t", "⇥")
    name = core or "".join(_BLANKS.get(char, ascii(char)[1:-1]) for char in text)
    return name if len(name) <= width else name[: width - 1] + "…"


def nats(value: float, *, signed: bool = False) -> str:
    """A number of nats with two decimals and a true minus sign; zero has no sign."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.2f}".replace("-", "−")


def ratio_text(value: float) -> str:
    """A ratio for reading: two decimals, none when large, a power of ten when very large or small."""
    if value >= 1e6 or 0 < value < 0.01:
        digits, power = f"{value:.1e}".split("e") if math.isfinite(value) else ("1", "308")
        return f"{digits} × 10{str(int(power)).translate(_SUPERSCRIPT)}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def made_with(model: Mapping[str, str | None], versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """The model and the versions that an explanation was made with, as terms and plain words."""
    return [
        ("Model", " · ".join(model.get(key) or "" for key in ("id", "dtype", "device"))),
        ("Revision", model.get("revision") or "not recorded"),
        ("Versions", " · ".join(f"{name} {number}" for name, number in versions.items())),
    ]


def glossary_of(*terms: str) -> list[tuple[str, str]]:
    """Some terms of the glossary with their words."""
    return [(term, GLOSSARY[term]) for term in terms]


@cache
def environment() -> Environment:
    """Templates that escape every value, after its unseen characters became visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jopa.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.globals["glossary"] = GLOSSARY
    environment.filters |= {"nats": nats, "ratio": ratio_text, "unit_name": unit_name}
    return environment
