"""From text, chat messages and documents to token ids, removable units and the template around them.

The prompt is rendered and tokenised once, by the tokenizer's own code (`rendering`); every later step carries ids and
positions, and no text is tokenised again. How tokens become units is in `units`.

Knows tokenizers, never a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from jopa.choices import UNIT_KINDS, WHOLE_KINDS
from jopa.errors import PromptError, SettingError
from jopa.prompt.attributable import Attributable, attributable
from jopa.prompt.content_parts import joined_as_shown
from jopa.prompt.documents import PLAIN_FRAME, Document, checked_documents
from jopa.prompt.fixed_parts import FixedPart, fixed_parts
from jopa.prompt.frames import framed_positions
from jopa.prompt.language import is_language_code
from jopa.prompt.messages import Conversation, Message, conversation, question_of, reasoning_of
from jopa.prompt.options import PromptOptions, PromptSettings
from jopa.prompt.passages import Layout, RenderedPrompt, layout_of
from jopa.prompt.rendering import Renderer, render, render_first, takes_documents
from jopa.prompt.segmentation import SEGMENTERS, Span, fitting_unit
from jopa.prompt.units import Unit, atoms_of, checked_spans, grouped, joined, no_unit, pieces_of
from jopa.prompt.unshown import unshown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"
"""In place of a kind of unit: the one that fits the prompt, by `fitting_unit`."""
GAP = "\n\n"
"""What stands between attributable texts in `Prompt.text`."""


@dataclass(frozen=True)
class Source:
    """An attributable text of a prompt: a message or a document.

    Attributes:
        start: its first character in `Prompt.text`.
        end: one past the last.
        message: the place of the message that it is or stands in, from 0; None for a document beside the messages.
        role: that message's role; "trace" for the reasoning before the answer.
        document: the document's id; None for a message.
        title: the document's title.
        n_tokens: how many tokens it has, its frame included where that is known.
        removed_with: "frame" or "text" where its units are whole ones: what goes with it. None for smaller units.
    """

    start: int
    end: int
    message: int | None
    role: str | None
    document: str | None
    title: str | None
    n_tokens: int
    removed_with: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: the attributable text, exactly as the caller gave it; several texts with `GAP` between them.
        ids: the whole input of the model, template included.
        units: the removable parts, in reading order; every other position of `ids` is template.
        unit_kind: what the units are: one of `UNIT_KINDS` or `WHOLE_KINDS`, or "spans" where the caller gave them.
        fixed: what stays in place beside `text`, in reading order.
        rendered: the whole input as text, as the chat template writes it.
        sources: the messages and documents that `text` consists of.
        documents_through: "template" or "frame" where there are documents: what shows them to the model.
        left_out: places of messages that were asked for and that the chat template does not show as they are.
        trace: whether the reasoning before the answer is attributable; its units follow once there is an output.
        language: of the text, as `PromptOptions.language` has it; None to guess.
    """

    text: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]
    unit_kind: str = "spans"
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""
    sources: tuple[Source, ...] = ()
    documents_through: str | None = None
    left_out: tuple[int, ...] = ()
    trace: bool = False
    language: str | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """What a result records of the sources; nothing for a prompt that is one message."""
        record: dict[str, Any] = {}
        telling = any(source.removed_with or source.role == "trace" for source in self.sources)
        if len(self.sources) > 1 or self.documents_through or telling:
            record["sources"] = [
                {name: value for name, value in asdict(source).items() if value is not None} for source in self.sources
            ]
        if self.documents_through:
            record["documents_through"] = self.documents_through
            if self.documents_through == "frame":
                record["documents_frame"] = PLAIN_FRAME
        if self.left_out:
            record["messages_left_out"] = list(self.left_out)
        return record


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    options: PromptOptions | None = None,
    *,
    unit: str | Sequence[Span] = "token",
    **settings: Unpack[PromptSettings],
) -> Prompt:
    """Turn text or chat messages, and perhaps documents, into ids, units and template.

    Args:
        tokenizer: a fast tokenizer (one that reports character offsets).
        prompt: the prompt, or chat messages `[{"role": ..., "content": ...}, ...]`, of which `options.attribute` says
            what is attributable. A last message of the assistant is taken as a prefilled answer.
        options: what stands around the prompt.
        unit: "token", "word", "sentence", "line" or "paragraph", "auto" for the one that fits the prompt's length,
            "message" or "document" for whole ones, or character spans `[(start, end), ...]` of the attributable text;
            text outside the spans is then template. A unit always consists of whole tokens.
        settings: fields of `PromptOptions`, in place of those of `options`.

    Raises:
        PromptError: the prompt is empty, has the wrong shape, or the chat template refuses or rewrites it.
        SettingError: the unit is unknown, or a setting needs a chat model.
    """
    options = replace(options or PromptOptions(), **settings)
    documents, said, parts = _checked(prompt, options, unit)
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"the tokenizer {type(tokenizer).__name__} reports no character offsets; jopa needs a fast tokenizer "
            "(a tokenizer.json beside the model)"
        )
    smallest = getattr(tokenizer, "smallest_unit", "token")  # of a model whose tokens nobody knows
    if unit == "token" and unit != smallest:
        raise SettingError(f"this model's tokens are not known; choose unit '{smallest}' or a larger one")
    lead = "" if not options.prefix else options.prefix if options.prefix[-1].isspace() else options.prefix + "\n"
    said = replace(said, messages=joined_as_shown(tokenizer, options, said.messages, said.parts))
    renderer, layout, tokens = _rendered(tokenizer, said, documents, parts, options, lead)
    through = None if not documents else "template" if layout.documents else "frame"
    fixed = partial(
        fixed_parts,
        said.messages,
        {*parts.messages} - {*tokens.left_out},
        prefix=lead,
        prefill=said.prefill,
        prefill_reasoning=reasoning_of(said.prefill_fields),
        tools=options.tools,
        documents=() if parts.documents else documents,
        left_out=unshown(renderer, layout, tokens.rendered, {*parts.messages} - {*tokens.left_out}),
    )
    if not tokens.passages:  # the trace alone, which is not written yet
        return Prompt(
            text="",
            ids=tuple(tokens.ids),
            units=(),
            unit_kind=unit if isinstance(unit, str) else "spans",
            fixed=fixed(),
            rendered=tokens.rendered,
            documents_through=through,
            left_out=tokens.left_out,
            trace=True,
            language=options.language,
        )
    sources, atoms = _sources(tokens, said.messages)
    text = GAP.join(passage.text for passage in tokens.passages)
    if unit == AUTO:
        unit = fitting_unit(text, options.language)
        unit = smallest if unit == "token" else unit
    if isinstance(unit, str) and unit in WHOLE_KINDS:
        sources, units = _whole_units(renderer, layout, tokens, sources, atoms)
    else:
        units = units_of(text, sources, atoms, unit, options.language)
    framed = [s.message for s in sources if s.removed_with == "frame" and s.document is None and s.message is not None]
    return Prompt(
        text=text,
        ids=tuple(tokens.ids),
        units=tuple(units),
        unit_kind=unit if isinstance(unit, str) else "spans",
        fixed=fixed(whole=framed),
        rendered=tokens.rendered,
        sources=tuple(sources),
        documents_through=through,
        left_out=tokens.left_out,
        trace=parts.trace,
        language=options.language,
    )


def require_prompt(
    prompt: str | Sequence[Message], options: PromptOptions | None = None, *, unit: str | Sequence[Span] = AUTO
) -> None:
    """Refuse what `build_prompt` would refuse with any tokenizer: so a model need not be loaded to find out.

    Args:
        prompt: as for `build_prompt`.
        options: as for `build_prompt`.
        unit: as for `build_prompt`.

    Raises:
        PromptError: the prompt is empty or has the wrong shape, or nothing of it is attributable.
        SettingError: the unit is unknown, or two settings do not fit.
    """
    _checked(prompt, options or PromptOptions(), unit)


def _checked(
    prompt: str | Sequence[Message], options: PromptOptions, unit: str | Sequence[Span]
) -> tuple[tuple[Document, ...], Conversation, Attributable]:
    """The documents, what was said, and what of all this is attributable."""
    if isinstance(unit, str) and unit not in (*UNIT_KINDS, AUTO, *WHOLE_KINDS):
        kinds = ", ".join((*UNIT_KINDS, AUTO, *WHOLE_KINDS))
        raise SettingError(f"unknown unit '{unit}': choose one of {kinds}, or give character spans")
    if not isinstance(unit, str | Sequence):
        raise no_unit(unit)
    if options.language is not None and not is_language_code(options.language):
        raise SettingError(f"the language must be a code such as 'de' or 'pt-BR', got {options.language!r:.40}")
    documents = () if options.documents is None else checked_documents(options.documents)
    if unit == "document" and not documents:
        raise SettingError("unit 'document' needs documents; give some, or choose another unit")
    said = conversation(prompt, options)
    parts = attributable(said.messages, options.attribute, bool(documents))
    if parts.trace and not isinstance(unit, str):
        raise SettingError("character spans are of the prompt, not of a reasoning trace; choose a kind of unit")
    if isinstance(prompt, str) and not parts.documents and not isinstance(unit, str):
        checked_spans(prompt, unit)
    return documents, said, parts


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    said: Conversation,
    documents: tuple[Document, ...],
    parts: Attributable,
    options: PromptOptions,
    lead: str,
) -> tuple[Renderer, Layout, RenderedPrompt]:
    """The input with its documents where the chat template puts them, or else in the plain frame."""

    def laid_out(in_template: bool) -> Layout:
        return layout_of(
            said.messages,
            parts.messages,
            documents,
            question=question_of(said.messages),
            lead=lead,
            prefill=said.prefill,
            prefill_fields=said.prefill_fields,
            documents_attributed=parts.documents,
            in_template=in_template,
        )

    framed = laid_out(False)
    renderer, tokens = render_first(tokenizer, options, framed, lenient=parts.lenient)
    if documents:
        of_template = takes_documents(renderer, laid_out(True))
        if of_template:
            try:
                return of_template, laid_out(True), render(of_template, laid_out(True), lenient=parts.lenient)
            except PromptError:  # these texts, unlike those that were tried, it rewrites
                pass
    return renderer, framed, tokens


def _sources(tokens: RenderedPrompt, messages: Sequence[dict[str, Any]]) -> tuple[list[Source], list[list[Unit]]]:
    """The attributable texts, and the smallest removable pieces of each.

    Raises:
        PromptError: none has a piece, or a document has none.
    """
    pieces = pieces_of(tokens.offsets)
    sources, all_atoms, start = [], [], 0
    for passage, place in zip(tokens.passages, tokens.places, strict=True):
        document = passage.document
        message = passage.slot.index if passage.slot.kind == "message" else None
        atoms = [
            Unit(
                atom.text,
                atom.start + start,
                atom.end + start,
                atom.positions,
                message,
                document.id if document else None,
            )
            for atom in atoms_of(tokens.rendered, passage.text, place, pieces)
        ]
        if not atoms:
            what = f"document {document.id!r:.60}" if document else "the prompt"
            raise PromptError(
                f"nothing attributable: no token of the model's input stands for {what} alone; give a longer text"
            )
        role = None if message is None else messages[message]["role"]
        n_tokens = sum(len(atom.positions) for atom in atoms)
        end = start + len(passage.text)
        sources.append(
            Source(
                start,
                end,
                message,
                role,
                document.id if document else None,
                document.title if document else None,
                n_tokens,
            )
        )
        all_atoms.append(atoms)
        start = end + len(GAP)
    return sources, all_atoms


def _whole_units(
    renderer: Renderer, layout: Layout, tokens: RenderedPrompt, sources: list[Source], atoms: list[list[Unit]]
) -> tuple[list[Source], list[Unit]]:
    """One unit a source, its frame included where that is proved; and the sources, which say so."""
    texts = [joined(group) for group in atoms]
    framed = framed_positions(renderer, layout, tokens, [unit.positions for unit in texts])
    told, units = [], []
    for source, unit, positions in zip(sources, texts, framed, strict=True):
        units.append(replace(unit, positions=positions) if positions else unit)
        told.append(replace(source, n_tokens=len(units[-1].positions), removed_with="frame" if positions else "text"))
    return told, units


def units_of(
    text: str,
    sources: Sequence[Source],
    atoms: Sequence[list[Unit]],
    unit: str | Sequence[Span],
    language: str | None,
) -> list[Unit]:
    """The removable parts of the input, in reading order."""
    if unit == "token":
        return [atom for group in atoms for atom in group]
    if isinstance(unit, str):
        units: list[Unit] = []
        for source, group in zip(sources, atoms, strict=True):
            segments = SEGMENTERS[unit](text[source.start : source.end], language)
            moved = [(start + source.start, end + source.start) for start, end in segments]
            units += grouped(group, moved).values()
        return units
    spans = checked_spans(text, unit)
    by_span: dict[int, Unit] = {}
    for source, group in zip(sources, atoms, strict=True):
        own = [number for number, (start, _) in enumerate(spans) if source.start <= start < source.end]
        for number in own:
            if spans[number][1] > source.end:
                raise SettingError(f"span {spans[number]} reaches from one message or document into another; part it")
        found = grouped(group, [spans[number] for number in own])
        by_span |= {own[number]: unit_of_span for number, unit_of_span in found.items()}
    for number, (start, end) in enumerate(spans):
        if number not in by_span:
            raise SettingError(
                f"span ({start}, {end}) {text[start:end]!r:.40} has no token of its own; join it with its neighbour"
            )
    return [by_span[number] for number in sorted(by_span)]
