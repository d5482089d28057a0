"""From text or chat messages to token ids, removable units and the template around them.

The prompt is rendered and tokenised once, by the tokenizer's own code; every later step carries ids and positions,
and no text is tokenised again. Chat prompts go through the model's chat template, so their ids are
`tokenizer.apply_chat_template(...)`'s ids by construction. Where the attributable text sits in the rendered chat is
found by rendering a second time with a marker in the middle of it.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import index as whole_number
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, SettingError
from jopa.prompt.language import is_language_code
from jopa.prompt.options import PromptOptions
from jopa.prompt.segmentation import SEGMENTERS, Span, fitting_unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNIT_KINDS = ("token", *SEGMENTERS)
AUTO = "auto"
"""In place of a kind of unit: the one that fits the prompt, by `fitting_unit`."""
_MARKS = ("Mn", "Mc", "Me", "Cf")
"""Unicode categories of characters that belong to the one before."""

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
        unit_kind: what the units are: one of `UNIT_KINDS`, or "spans" where the caller gave them.
    """

    text: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]
    unit_kind: str = "spans"


@dataclass(frozen=True)
class _Tokens:
    """The model's whole input, and where the attributable text lies in it."""

    ids: list[int]
    offsets: list[Span | None]
    """The characters of `rendered` that each token stands for; None for one the tokenizer adds to any text."""
    rendered: str
    """The whole input as text."""
    text: str
    """What the caller wrote."""
    visible: Span
    """The part of `text` that survived rendering; templates often strip blanks at the ends."""
    shift: int
    """`text[i]` is `rendered[i + shift]`."""


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    options: PromptOptions | None = None,
    **settings: Any,
) -> Prompt:
    """Turn text or chat messages into ids, units and template.

    Args:
        tokenizer: a fast tokenizer (one that reports character offsets).
        prompt: the prompt, or chat messages `[{"role": ..., "content": ...}, ...]` whose last user message is the
            attributable text. A last message of the assistant is taken as a prefilled answer.
        options: units, and what stands around the prompt.
        settings: fields of `PromptOptions`, in place of those of `options`.

    Raises:
        PromptError: the prompt is empty, has the wrong shape, or the chat template refuses or rewrites it.
        SettingError: the unit is unknown, or a setting needs a chat model.
    """
    options = replace(options or PromptOptions(), **settings)
    unit, prefix = options.unit, options.prefix
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
    messages = _conversation(prompt, options.system, options.prefill)
    index = max(i for i, message in enumerate(messages) if message["role"] == "user")
    if not messages[index]["content"].strip():
        raise PromptError("the prompt is empty; give a text with something in it besides blanks")
    _require_text("prefix", prefix or "")
    lead = "" if not prefix else prefix if prefix[-1].isspace() else prefix + "\n"

    tokenise = _chat_tokens if tokenizer.chat_template and not options.plain else _plain_tokens
    tokens = tokenise(tokenizer, messages, index, lead)
    if unit == AUTO:
        unit = fitting_unit(tokens.text, options.language)
    kind = unit if isinstance(unit, str) else "spans"
    return Prompt(tokens.text, tuple(tokens.ids), tuple(_units(tokens, unit, options.language)), kind)


def _conversation(prompt: str | Sequence[Message], system: str | None, prefill: str | None) -> list[dict[str, Any]]:
    """The chat messages in full: a system message first where one is asked for, a prefilled answer last."""
    if isinstance(prompt, str):
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
    elif system is not None:
        raise SettingError("give the system text as a message of role 'system', not as a setting beside messages")
    else:
        messages = _checked_messages(prompt)
    if prefill:
        if messages[-1]["role"] == "assistant":
            raise SettingError("the last message is the assistant's and a prefill is given too: give one of them")
        messages.append({"role": "assistant", "content": prefill})
    for message in messages:
        _require_text(f"{message['role']} message", message["content"])
    return messages


def _checked_messages(prompt: object) -> list[dict[str, Any]]:
    """Copies of chat messages whose shape is right, at least one of them the user's."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise PromptError(f"a prompt is a text or a list of chat messages, got {type(prompt).__name__}")
    for number, message in enumerate(prompt, start=1):
        fields = [message.get(name) for name in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(field, str) for field in fields):
            raise PromptError(
                f'message {number} is not of the form {{"role": "user", "content": "text"}}: {message!r:.80}'
            )
    if not any(message["role"] == "user" for message in prompt):
        raise PromptError("nothing attributable: no message is of role 'user'; add one")
    return [dict(message) for message in prompt]


def _require_text(name: str, value: object) -> None:
    """Refuse what no tokenizer can read."""
    if not isinstance(value, str):
        raise SettingError(f"the {name} must be a text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the {name} holds half a surrogate pair (character {error.start}), which is no text; remove it"
        ) from error


def _chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], index: int, lead: str) -> _Tokens:
    """Tokenise through the chat template; message `index` holds the attributable text."""
    text = messages[index]["content"]
    continues = messages[-1]["role"] == "assistant"
    goal: dict[str, Any] = {"continue_final_message" if continues else "add_generation_prompt": True}

    def chat(content: str) -> list[dict[str, Any]]:
        return [*messages[:index], {**messages[index], "content": lead + content}, *messages[index + 1 :]]

    def render(content: str) -> str:
        try:
            return str(tokenizer.apply_chat_template(chat(content), tokenize=False, **goal))
        except Exception as error:  # a template is a program of the model's maker and may raise anything
            reason = " ".join(str(error).split())
            raise PromptError(
                f"the model's chat template refuses these messages: {reason:.200}; give messages of the form it takes"
            ) from error

    rendered = render(text)
    visible, shift = _locate(text, rendered, render, "".join(m["content"] for m in messages) + lead)
    encoding: Any = tokenizer.apply_chat_template(
        chat(text),
        return_dict=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        **goal,
    )
    return _Tokens(list(encoding["input_ids"]), list(encoding["offset_mapping"]), rendered, text, visible, shift)


def _locate(text: str, rendered: str, render: Callable[[str], str], said: str) -> tuple[Span, int]:
    """Find the attributable text in the rendered chat.

    The marker goes into the middle of the text without the blanks around it, so that a template that looks at how a
    message begins or ends does what it did, and one that strips shows where its own blanks are.

    Returns:
        The span of `text` that the template shows, and how far to the right it is in `rendered`.
    """
    core = text.strip()
    marker = "jopa\N{LATIN SMALL LETTER THORN}marker"
    while marker in said:
        marker += "x"
    before, after = core[: len(core) // 2], core[len(core) // 2 :]
    around = render(before + marker + after).split(marker)
    if len(around) > 2:
        raise PromptError(
            f"the model's chat template shows the prompt {len(around) - 1} times, and jopa needs it once; "
            "set the tokenizer's chat_template to one that does"
        )
    head, tail = around[0].removesuffix(before), around[-1].removeprefix(after)
    shown = rendered[len(head) : len(rendered) - len(tail)]
    if len(around) < 2 or shown.strip() != core or shown not in text:
        raise PromptError(
            "nothing attributable: the model's chat template leaves the prompt out or rewrites it; "
            "set the tokenizer's chat_template to one that shows it as it is"
        )
    start = text.index(shown)
    return (start, start + len(shown)), len(head) - start


def _plain_tokens(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], index: int, lead: str) -> _Tokens:
    """Tokenise a prompt for a model without a chat template: the text as it is, with the tokenizer's own BOS."""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["user", "assistant"]):
        raise SettingError(
            f"this model has no chat template, so it cannot take several messages ({', '.join(roles)}); put fixed text "
            "into the prefix instead"
        )
    text = messages[index]["content"]
    rendered = "".join([lead, *(message["content"] for message in messages)])
    encoding: Any = tokenizer(rendered, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    added = list(encoding["special_tokens_mask"])
    # Some tokenizers close the text with EOS or SEP; the model must continue it, not start anew.
    length = len(added) - next((i for i, special in enumerate(reversed(added)) if not special), len(added))
    offsets = [
        None if special else offset
        for offset, special in zip(encoding["offset_mapping"][:length], added[:length], strict=True)
    ]
    return _Tokens(list(encoding["input_ids"][:length]), offsets, rendered, text, (0, len(text)), len(lead))


def _units(tokens: _Tokens, unit: str | Sequence[Span], language: str | None) -> list[Unit]:
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


def _atoms(tokens: _Tokens) -> list[Unit]:
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


def _prompt_pieces(tokens: _Tokens) -> Iterator[tuple[Span, list[int]]]:
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
