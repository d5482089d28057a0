"""From text or chat messages to token ids, removable units and the template around them.

The prompt is rendered and tokenised once, by the tokenizer's own code; every later step carries ids and positions,
and no text is tokenised again. Chat prompts go through the model's chat template, so their ids are
`tokenizer.apply_chat_template(...)`'s ids by construction. Where the attributable text sits in the rendered chat is
found by rendering a second time with a marker in its place.

Units are built in two steps. *Atoms* are the smallest removable pieces: a token, or several tokens where one
character is spread over them (byte-level tokenizers). Characters that no token covers belong to the atom that
follows them, so that the atoms tile the text. Every other kind of unit is a run of atoms: an atom goes to the word,
sentence, line or span that holds its first visible character.

Knows tokenizers, never a model.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNIT_KINDS = ("token", "word", "sentence", "line")

Span = tuple[int, int]
Message = Mapping[str, str]


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
    """

    text: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class _Tokens:
    """Token ids with character offsets in the rendered text, and where the attributable text lies in it."""

    ids: list[int]
    offsets: list[Span]
    text: str
    """What the caller wrote."""
    visible: Span
    """The part of `text` that survived rendering; templates often strip blanks at the ends."""
    offset: int
    """Rendered position of `text[visible[0]]`."""


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    *,
    unit: str | Sequence[Span] = "token",
    system: str | None = None,
    prefix: str | None = None,
    prefill: str | None = None,
) -> Prompt:
    """Turn text or chat messages into ids, units and template.

    Args:
        tokenizer: a fast tokenizer (one that reports character offsets).
        prompt: the prompt, or chat messages `[{"role": ..., "content": ...}, ...]` whose last user message is the
            attributable text. A last message of the assistant is taken as a prefilled answer.
        unit: "token", "word", "sentence" or "line", or character spans `[(start, end), ...]` of the attributable text;
            text outside the spans is then template. A unit always consists of whole tokens.
        system: a system message before a text prompt.
        prefix: a fixed instruction, not attributable, on a line of its own before the attributable text.
        prefill: the beginning of the answer, put into the assistant's mouth.

    Raises:
        PromptError: the prompt is empty, has the wrong shape, or the chat template refuses or rewrites it.
        SettingError: the unit is unknown, or a setting needs a chat model.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"the tokenizer {type(tokenizer).__name__} reports no character offsets; jopa needs a fast tokenizer "
            "(a tokenizer.json beside the model)"
        )
    if isinstance(prompt, str):
        messages: list[dict[str, str]] = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
    else:
        messages, prefill = _checked_messages(prompt, prefill)
        if system is not None:
            raise SettingError("give the system text as a message of role 'system', not as a setting beside messages")
    lead = "" if not prefix else prefix if prefix[-1].isspace() else prefix + "\n"
    index = max(i for i, message in enumerate(messages) if message["role"] == "user")
    if not messages[index]["content"].strip():
        raise PromptError("the prompt is empty: there is no text to explain")

    if tokenizer.chat_template:
        tokens = _chat_tokens(tokenizer, messages, index, lead, prefill)
    else:
        tokens = _plain_tokens(tokenizer, messages, lead, prefill)
    atoms = _atoms(tokens)
    if not atoms:
        raise PromptError("nothing attributable: no token of the model's input comes from the prompt's text")
    if unit == "token":
        units = atoms
    elif isinstance(unit, str):
        units = [joined for _, joined in _group(atoms, tokens.text, _segments(tokens.text, unit))]
    else:
        units = _spanned(atoms, tokens.text, _checked_spans(tokens.text, unit))
    return Prompt(text=tokens.text, ids=tuple(tokens.ids), units=tuple(units))


def _checked_messages(
    prompt: Sequence[Message], prefill: str | None
) -> tuple[list[dict[str, str]], str | None]:
    """Validate the shape of chat messages; a last message of the assistant becomes the prefilled answer."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise PromptError(f"a prompt is a text or a list of chat messages, got {type(prompt).__name__}")
    messages: list[dict[str, str]] = []
    for number, message in enumerate(prompt, start=1):
        if (
            not isinstance(message, Mapping)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            raise PromptError(
                f'message {number} is not of the form {{"role": "user", "content": "text"}}: {message!r:.80}'
            )
        messages.append(dict(message))
    if not any(message["role"] == "user" for message in messages):
        raise PromptError("nothing attributable: the messages hold none of role 'user'")
    if messages[-1]["role"] == "assistant":
        if prefill is not None:
            raise SettingError("the last message is the assistant's and a prefill is given too: give one of them")
        prefill = messages.pop()["content"]
    return messages, prefill


def _chat_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    index: int,
    lead: str,
    prefill: str | None,
) -> _Tokens:
    """Tokenise through the chat template; message `index` holds the attributable text."""
    from jinja2 import TemplateError

    text = messages[index]["content"]
    marker = _marker(text + "".join(message["content"] for message in messages) + lead + (prefill or ""))

    def apply(content: str, **options: Any) -> Any:
        chat = [*messages[:index], {**messages[index], "content": lead + content}, *messages[index + 1 :]]
        if prefill is None:
            options["add_generation_prompt"] = True
        else:
            chat.append({"role": "assistant", "content": prefill})
            options["continue_final_message"] = True
        try:
            return tokenizer.apply_chat_template(chat, **options)
        except (TemplateError, ValueError) as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error

    rendered = apply(text, tokenize=False)
    around = apply(marker, tokenize=False).split(marker)
    if len(around) != 2:
        raise PromptError(f"the model's chat template shows the prompt {len(around) - 1} times; jopa needs it once")
    head, tail = around
    shown = rendered[len(head) : len(rendered) - len(tail)]
    start = text.find(shown)
    if not rendered.startswith(head) or not rendered.endswith(tail) or start < 0:
        raise PromptError("the model's chat template rewrites the prompt, so its units cannot be located")
    encoding = apply(text, tokenizer_kwargs={"return_offsets_mapping": True}, return_dict=True)
    return _Tokens(
        list(encoding["input_ids"]),
        list(encoding["offset_mapping"]),
        text,
        (start, start + len(shown)),
        len(head),
    )


def _plain_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], lead: str, prefill: str | None
) -> _Tokens:
    """Tokenise a prompt for a model without a chat template: the text as it is, with the tokenizer's own BOS."""
    if len(messages) > 1:
        roles = ", ".join(message["role"] for message in messages)
        raise SettingError(
            f"this model has no chat template, so it cannot take messages of several roles ({roles}); put fixed text "
            "into the prefix instead"
        )
    text = messages[0]["content"]
    encoding = tokenizer(
        lead + text + (prefill or ""), return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, special = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
    offsets = [tuple(offset) for offset in encoding["offset_mapping"]]
    # Some tokenizers close the text with EOS or SEP; the model must continue it, not start anew.
    while ids and special[-1] and offsets[-1][0] == offsets[-1][1]:
        ids.pop(), special.pop(), offsets.pop()
    return _Tokens(ids, offsets, text, (0, len(text)), len(lead))


def _marker(text: str) -> str:
    """A string without blanks that does not occur in `text`."""
    marker = "jopa\N{LATIN SMALL LETTER THORN}marker"
    while marker in text:
        marker += "x"
    return marker


def _atoms(tokens: _Tokens) -> list[Unit]:
    """The smallest removable pieces; their texts, joined, are the prompt's text."""
    first, last = tokens.visible
    pieces: list[tuple[Span, list[int]]] = []
    for position, (begin, end) in enumerate(tokens.offsets):
        begin, end = begin - tokens.offset + first, end - tokens.offset + first
        straddles = begin < first or end > last
        begin, end = max(begin, first), min(end, last)
        # A token across the border is the prompt's only if it carries something of it that can be seen.
        if begin >= end or (straddles and not tokens.text[begin:end].strip()):
            continue
        if pieces and begin < pieces[-1][0][1]:  # shares a character with the token before
            span, positions = pieces[-1]
            pieces[-1] = (span[0], max(span[1], end)), [*positions, position]
        else:
            pieces.append(((begin, end), [position]))
    atoms: list[Unit] = []
    start = 0
    for number, ((_, end), positions) in enumerate(pieces, start=1):
        end = len(tokens.text) if number == len(pieces) else end
        atoms.append(Unit(tokens.text[start:end], start, end, tuple(positions)))
        start = end
    return atoms


_WORD = re.compile(r"\s*\S+")
_SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[”’」』）]*)\s*|\s*[\r\n]\s*")
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|cf|No|Fig|Eq|al)\.\s*$")


def _segments(text: str, kind: str) -> list[Span]:
    """Character spans of the words, sentences or lines of `text`, in reading order."""
    if kind == "word":
        return [match.span() for match in _WORD.finditer(text)]
    if kind == "line":
        ends = list(accumulate(map(len, text.splitlines(keepends=True))))
        return list(zip([0, *ends[:-1]], ends, strict=True))
    if kind == "sentence":
        return _sentences(text)
    raise SettingError(f"unknown unit '{kind}': choose one of {', '.join(UNIT_KINDS)}, or give character spans")


def _sentences(text: str) -> list[Span]:
    """Split after sentence-ending punctuation and at line breaks; a heuristic, good enough to remove by."""
    spans: list[Span] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        at_line_break = "\n" in match.group() or "\r" in match.group()
        continues = text[match.end() : match.end() + 1].islower()
        if not at_line_break and (continues or _ABBREVIATION.search(text, start, match.end())):
            continue
        if text[start : match.end()].strip():
            spans.append((start, match.end()))
            start = match.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _checked_spans(text: str, spans: Sequence[Span]) -> list[Span]:
    """The caller's own spans, in reading order."""
    ordered: list[Span] = []
    for span in sorted(tuple(span) for span in spans):
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(text):
            raise SettingError(f"span {span} does not lie within the prompt's {len(text)} characters")
        if ordered and span[0] < ordered[-1][1]:
            raise SettingError(f"spans {ordered[-1]} and {span} overlap; units must be disjoint")
        ordered.append((span[0], span[1]))
    if not ordered:
        raise PromptError("nothing attributable: no character span is given")
    return ordered


def _spanned(atoms: list[Unit], text: str, spans: list[Span]) -> list[Unit]:
    """One unit for each of the caller's spans; a span whose tokens all belong to its neighbour is refused."""
    grouped = _group(atoms, text, spans)
    taken = {segment for segment, _ in grouped}
    for number, (start, end) in enumerate(spans):
        if number not in taken:
            raise SettingError(
                f"span ({start}, {end}) {text[start:end]!r:.40} has no token of its own; join it with its neighbour"
            )
    return [unit for _, unit in grouped]


def _group(atoms: list[Unit], text: str, segments: list[Span]) -> list[tuple[int, Unit]]:
    """Join the atoms of each segment into one unit; atoms outside every segment are template.

    An atom belongs to the first segment that overlaps it from its first visible character on, so that the blank
    before a word goes with the word.
    """
    ends = [end for _, end in segments]
    units: list[tuple[int, Unit]] = []
    for atom in atoms:
        seen = atom.end - len(atom.text.lstrip()) if atom.text.strip() else atom.start
        segment = bisect_right(ends, seen)
        if segment == len(segments) or segments[segment][0] >= atom.end:
            continue
        if units and units[-1][0] == segment:
            before = units[-1][1]
            positions = before.positions + atom.positions
            units[-1] = segment, Unit(text[before.start : atom.end], before.start, atom.end, positions)
        else:
            units.append((segment, atom))
    return units
