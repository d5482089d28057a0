"""From text or chat messages to token ids, removable units and the template around them.

The prompt is rendered and tokenised once, by the tokenizer's own code (`rendering`); every later step carries ids and
positions, and no text is tokenised again.

Units are built in three steps. *Pieces* are tokens joined where they share a character: the bytes of one character, or
the parts of one that the tokenizer normalises. A piece is the prompt's if it shows some of the prompt and none of the
template, blanks aside. *Atoms* are the prompt's pieces stretched until they tile the text: characters that no piece of
the prompt shows go to the atom after them, combining marks to the one before. Every other kind of unit is a run of
atoms: an atom goes to the word, sentence, line or span that holds its first visible character.

Knows tokenizers, never a model.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import index as whole_number
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, SettingError
from jopa.prompt.fixed_parts import FixedPart, fixed_parts
from jopa.prompt.language import is_language_code
from jopa.prompt.messages import Message, conversation
from jopa.prompt.options import PromptOptions
from jopa.prompt.rendering import RenderedPrompt, render_chat, render_plain
from jopa.prompt.segmentation import SEGMENTERS, Span, fitting_unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNIT_KINDS = ("token", *SEGMENTERS)
AUTO = "auto"
"""In place of a kind of unit: the one that fits the prompt, by `fitting_unit`."""
_MARKS = ("Mn", "Mc", "Me", "Cf")
"""Unicode categories of characters that belong to the one before."""


@dataclass(frozen=True)
class Unit:
    """The smallest part of a prompt that can be removed.

    Attributes:
        text: the unit's characters, `prompt.text[start:end]`.
        start: first character in the prompt.
        end: one past the last character.
        positions: the positions of its tokens in `Prompt.ids`, ascending, never empty.
    """

    text: str
    start: int
    end: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: the attributable text, exactly as the caller gave it.
        ids: the whole input of the model, template included.
        units: the removable parts, in reading order; every other position of `ids` is template.
        unit_kind: what the units are: one of `UNIT_KINDS`, or "spans" where the caller gave them.
        fixed: what stays in place beside `text`, in reading order.
        rendered: the whole input as text, as the chat template writes it.
    """

    text: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]
    unit_kind: str = "spans"
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    options: PromptOptions | None = None,
    *,
    unit: str | Sequence[Span] = "token",
    **settings: Any,
) -> Prompt:
    """Turn text or chat messages into ids, units and template.

    Args:
        tokenizer: a fast tokenizer (one that reports character offsets).
        prompt: the prompt, or chat messages `[{"role": ..., "content": ...}, ...]` whose last user message is the
            attributable text. A last message of the assistant is taken as a prefilled answer.
        options: what stands around the prompt.
        unit: "token", "word", "sentence", "line" or "paragraph", "auto" for the one that fits the prompt's length, or
            character spans `[(start, end), ...]` of the attributable text; text outside the spans is then template. A
            unit always consists of whole tokens.
        settings: fields of `PromptOptions`, in place of those of `options`.

    Raises:
        PromptError: the prompt is empty, has the wrong shape, or the chat template refuses or rewrites it.
        SettingError: the unit is unknown, or a setting needs a chat model.
    """
    options = replace(options or PromptOptions(), **settings)
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"the tokenizer {type(tokenizer).__name__} reports no character offsets; jopa needs a fast tokenizer "
            "(a tokenizer.json beside the model)"
        )
    if isinstance(unit, str) and unit not in (*UNIT_KINDS, AUTO):
        kinds = ", ".join((*UNIT_KINDS, AUTO))
        raise SettingError(f"unknown unit '{unit}': choose one of {kinds}, or give character spans")
    if options.language is not None and not is_language_code(options.language):
        raise SettingError(f"the language must be a code such as 'de' or 'pt-BR', got {options.language!r:.40}")
    messages, index, prefill = conversation(prompt, options)
    prefix = options.prefix
    lead = "" if not prefix else prefix if prefix[-1].isspace() else prefix + "\n"
    if tokenizer.chat_template and not options.plain:
        rendered = render_chat(tokenizer, messages, index, lead, prefill, options)
    else:
        rendered = render_plain(tokenizer, messages, lead, prefill, options)
    smallest = getattr(tokenizer, "smallest_unit", "token")  # of a model whose tokens nobody knows
    if unit == AUTO:
        unit = fitting_unit(rendered.text, options.language)
        unit = smallest if unit == "token" else unit
    elif unit == "token" and unit != smallest:
        raise SettingError(f"this model's tokens are not known; choose unit '{smallest}' or a larger one")
    kind = unit if isinstance(unit, str) else "spans"
    return Prompt(
        rendered.text,
        tuple(rendered.ids),
        tuple(_units(rendered, unit, options.language)),
        kind,
        fixed_parts(messages, [index], prefix=lead, prefill=prefill, tools=options.tools),
        rendered.rendered,
    )


def _units(tokens: RenderedPrompt, unit: str | Sequence[Span], language: str | None) -> list[Unit]:
    """The removable parts of the input, in reading order."""
    atoms = _atoms(tokens)
    if not atoms:
        raise PromptError(
            "nothing attributable: no token of the model's input stands for the prompt alone; give a longer text"
        )
    if unit == "token":
        return atoms
    if isinstance(unit, str):
        return list(_group(atoms, SEGMENTERS[unit](tokens.text, language)).values())
    spans = _checked_spans(tokens.text, unit)
    grouped = _group(atoms, spans)
    for number, (start, end) in enumerate(spans):
        if number not in grouped:
            raise SettingError(
                f"span ({start}, {end}) {tokens.text[start:end]!r:.40} has no token of its own; join it with its "
                "neighbour"
            )
    return list(grouped.values())


def _atoms(tokens: RenderedPrompt) -> list[Unit]:
    """The smallest removable pieces; their texts, joined, are the prompt's text."""
    kept = list(_prompt_pieces(tokens))
    text = tokens.text
    cuts = [end + _n_marks(text[end:begin]) for ((_, end), _), ((begin, _), _) in pairwise(kept)]
    spans = pairwise([0, *cuts, len(text)]) if kept else ()
    return [
        Unit(text[start:end], start, end, tuple(positions))
        for (start, end), (_, positions) in zip(spans, kept, strict=True)
    ]


def _n_marks(text: str) -> int:
    """How many combining or invisible characters a text begins with."""
    return next((i for i, char in enumerate(text) if unicodedata.category(char) not in _MARKS), len(text))


def _prompt_pieces(tokens: RenderedPrompt) -> Iterator[tuple[Span, list[int]]]:
    """The pieces that are the prompt's, with the characters of the prompt that each shows."""
    first, last = (character + tokens.shift for character in tokens.visible)
    for (begin, end), positions in _pieces(tokens.offsets):
        start, stop = max(begin, first), min(end, last)
        if start >= stop:
            continue
        if (start, stop) != (begin, end):  # it shows some of the template too
            template = tokens.rendered[begin:start] + tokens.rendered[stop:end]
            if template.strip() or not tokens.rendered[start:stop].strip():
                continue
        yield (start - tokens.shift, stop - tokens.shift), positions


def _pieces(offsets: Sequence[Span | None]) -> list[tuple[Span, list[int]]]:
    """Tokens joined until no two pieces share a character, with the characters of each and the token positions."""
    pieces: list[tuple[Span, list[int]]] = []
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


def _checked_spans(text: str, spans: Any) -> list[Span]:
    """The caller's own spans, in reading order."""
    try:
        ordered = sorted((whole_number(start), whole_number(end)) for start, end in spans)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"a unit is one of {', '.join(UNIT_KINDS)}, or character spans [(start, end), ...], got {spans!r:.80}"
        ) from error
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


def _group(atoms: list[Unit], segments: list[Span]) -> dict[int, Unit]:
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
    return {segment: _joined(group) for segment, group in members.items()}


def _joined(atoms: list[Unit]) -> Unit:
    """One unit of neighbouring atoms."""
    positions = tuple(position for atom in atoms for position in atom.positions)
    return Unit("".join(atom.text for atom in atoms), atoms[0].start, atoms[-1].end, positions)
