"""Removable units: tokens joined to pieces, pieces stretched to atoms, atoms grouped to words, sentences or spans.

*Pieces* are tokens joined where they share a character: the bytes of one character, or the parts of one that the
tokenizer normalises. A piece is a text's if it shows some of the text and none of the template, blanks aside. *Atoms*
are the text's pieces stretched until they tile the text: characters that no piece of the text shows go to the atom
after them, combining marks to the one before. Every other kind of unit is a run of atoms: an atom goes to the word,
sentence, line or span that holds its first visible character.

Knows texts and character offsets, no tokenizer.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import index
from typing import Any

from jopa.choices import UNIT_KINDS, WHOLE_KINDS
from jopa.errors import SettingError
from jopa.prompt.passages import Place
from jopa.prompt.segmentation import Span

_MARKS = ("Mn", "Mc", "Me", "Cf")
"""Unicode categories of characters that belong to the one before."""
Piece = tuple[Span, list[int]]
"""Characters of the rendered text, and the positions of the tokens that show them."""


@dataclass(frozen=True)
class Unit:
    """The smallest part of a prompt that can be removed.

    Attributes:
        text: the unit's characters, `prompt.text[start:end]`.
        start: first character in the prompt.
        end: one past the last character.
        positions: the positions of its tokens in `Prompt.ids`, ascending, never empty.
        message: the place of the message that it belongs to, from 0; None for a document beside the messages.
        document: the id of the document that it belongs to; None for none.
    """

    text: str
    start: int
    end: int
    positions: tuple[int, ...]
    message: int | None = None
    document: str | None = None


def atoms_of(rendered: str, text: str, place: Place, pieces: Sequence[Piece]) -> list[Unit]:
    """The smallest removable pieces of a text; their texts, joined, are that text."""
    kept = list(_own_pieces(rendered, place, pieces))
    cuts = [end + _n_marks(text[end:begin]) for ((_, end), _), ((begin, _), _) in pairwise(kept)]
    spans = pairwise([0, *cuts, len(text)]) if kept else ()
    return [
        Unit(text[start:end], start, end, tuple(positions))
        for (start, end), (_, positions) in zip(spans, kept, strict=True)
    ]


def _n_marks(text: str) -> int:
    """How many combining or invisible characters a text begins with."""
    return next((i for i, char in enumerate(text) if unicodedata.category(char) not in _MARKS), len(text))


def _own_pieces(rendered: str, place: Place, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces that are one text's, with the characters that each shows; those that share a character are joined."""
    shown: Piece | None = None
    for span, positions in _shown_pieces(rendered, place, pieces):
        if shown is not None and span[0] < shown[0][1]:
            shown = (shown[0][0], max(span[1], shown[0][1])), [*shown[1], *positions]
            continue
        if shown is not None:
            yield shown
        shown = span, positions
    if shown is not None:
        yield shown


def _shown_pieces(rendered: str, place: Place, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces that show some of one text and none of the template, with the characters of the text."""
    first, last = place.span
    for (begin, end), positions in pieces[bisect_right(pieces, first, key=_end_of) :]:
        if begin >= last:
            break
        start, stop = max(begin, first), min(end, last)
        if start >= stop:
            continue
        if (start, stop) != (begin, end):  # it shows some of the template too
            template = rendered[begin:start] + rendered[stop:end]
            if template.strip() or not rendered[start:stop].strip():
                continue
        yield place.shown(start, stop), positions


def _end_of(piece: Piece) -> int:
    """One past the last character of a piece."""
    return piece[0][1]


def pieces_of(offsets: Sequence[Span | None]) -> list[Piece]:
    """Tokens joined until no two pieces share a character, with the characters of each and the token positions."""
    pieces: list[Piece] = []
    for position, offset in enumerate(offsets):
        if offset is None:
            continue
        begin, end = offset
        reached = pieces[-1][0][1] if pieces else 0
        if begin == end:  # a blank left out of its own token's offsets, or else one that the tokenizer put in
            begin, end = (reached, end) if reached < end else (begin, begin + 1)
        if pieces and begin < reached:
            (first, _), positions = pieces[-1]
            positions.append(position)
            pieces[-1] = (min(first, begin), max(reached, end)), positions
        else:
            pieces.append(((begin, end), [position]))
    return pieces


def checked_spans(text: str, spans: Any) -> list[Span]:
    """The caller's own spans, in reading order."""
    try:
        ordered = sorted((index(start), index(end)) for start, end in spans)
    except (TypeError, ValueError) as error:
        raise no_unit(spans) from error
    if not ordered:
        raise SettingError("nothing attributable: the list of character spans is empty; give at least one")
    for start, end in ordered:
        if not 0 <= start < end <= len(text):
            raise SettingError(
                f"span ({start}, {end}) does not lie within the prompt's {len(text)} characters; "
                f"give 0 <= start < end <= {len(text)}"
            )
    for before, after in pairwise(ordered):
        if after[0] < before[1]:
            raise SettingError(f"spans {before} and {after} overlap; units must be disjoint, so part or join them")
    return ordered


def no_unit(value: object) -> SettingError:
    """The refusal of what is neither the name of a unit nor a list of character spans."""
    return SettingError(
        f"a unit is one of {', '.join((*UNIT_KINDS, *WHOLE_KINDS))}, or character spans [(start, end), ...], got "
        f"{value!r:.80}"
    )


def grouped(atoms: list[Unit], segments: list[Span]) -> dict[int, Unit]:
    """Join the atoms of each segment into one unit; atoms outside every segment are template.

    An atom belongs to the first segment that overlaps it from its first visible character on, so that the blank
    before a word goes with the word.
    """
    ends = [end for _, end in segments]
    members: dict[int, list[Unit]] = {}
    for atom in atoms:
        seen = atom.end - len(atom.text.lstrip()) if atom.text.strip() else atom.start
        segment = bisect_right(ends, seen)
        if segment < len(segments) and segments[segment][0] < atom.end:
            members.setdefault(segment, []).append(atom)
    return {segment: joined(group) for segment, group in members.items()}


def joined(atoms: list[Unit]) -> Unit:
    """One unit of neighbouring atoms."""
    positions = tuple(position for atom in atoms for position in atom.positions)
    first, text = atoms[0], "".join(atom.text for atom in atoms)
    return replace(first, text=text, end=atoms[-1].end, positions=positions)
