"""Which message or document a unit is of, for people: headings, names, and what went with what was removed whole.

Reads what the `details` of an attribution have of messages and documents. Sees values only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from jopa.errors import InputFileError
from jopa.json_values import converted
from jopa.prompt.records import Count
from jopa.reports.wording import HEADING, Piece, one_line, unit_name

if TYPE_CHECKING:
    from jopa.prompt.building import Source, Unit
    from jopa.results.attribution import Attribution
    from jopa.results.text_attribution import TextAttribution, TextUnit

SHOWN_WORDS = {"template": "by the chat template", "frame": "in a plain frame before the question"}
"""What shows documents to the model, by `details["documents_through"]`."""
_ROLE_WORDS = {
    **{"user": "User", "system": "System message", "developer": "System message", "assistant": "Assistant"},
    **{"tool": "Tool result", "function": "Tool result", "ipython": "Tool result", "trace": "Reasoning trace"},
}
_WIDTH = 40
"""Characters of a document's id beside a unit."""
_NAMED = 4
"""Messages or documents that a line names at most."""


class RecordedSource(Struct, frozen=True):
    """What `Attribution.details` has of a message or document."""

    start: Count
    message: Count | None = None
    role: str | None = None
    document: str | None = None
    title: str | None = None
    removed_with: Literal["frame", "text"] | None = None


class _RecordedSources(Struct, frozen=True):
    sources: tuple[RecordedSource, ...]


def recorded_sources(details: Mapping[str, Any] | None) -> tuple[RecordedSource, ...]:
    """The messages and documents that a result was made of; none where it was one message.

    Raises:
        InputFileError: they have another form.
    """
    recorded = {"sources": (details or {}).get("sources", [])}
    return converted(recorded, _RecordedSources, "the sources of this result").sources


def sources_of(attribution: Attribution | TextAttribution) -> tuple[RecordedSource, ...]:
    """The same, and none where the record has another form: a report shows the rest of it."""
    try:
        return recorded_sources(attribution.details)
    except InputFileError:
        return ()


def heading(source: Source | RecordedSource) -> str:
    """What stands above a message or document."""
    if source.document is not None:
        title = f": {one_line(source.title)}" if source.title else ""
        return f"Document {one_line(source.document)}{title}"
    return _ROLE_WORDS.get(source.role or "", one_line(source.role or "text"))


def cut_by_headings(text: str, done: int, place: int, heads: list[tuple[int, str]]) -> list[Piece]:
    """The text from `done` to `place` with the headings in it, which are taken from the list."""
    pieces: list[Piece] = []
    while heads and heads[0][0] <= place:
        start, words = heads.pop(0)
        pieces += [Piece(text[done:start]), Piece(words, HEADING)]
        done = max(done, start)
    return [*pieces, Piece(text[done:place])]


def headings(sources: Sequence[Source | RecordedSource]) -> list[tuple[int, str]]:
    """Where each message or document begins in the prompt, and its heading; none where there is one message."""
    headed = len(sources) > 1 or any(source.document is not None or source.role == "trace" for source in sources)
    return [(source.start, heading(source)) for source in sources] if headed else []


def origin(attribution: Attribution | TextAttribution, unit: Unit | TextUnit) -> str:
    """What a unit is of, in a few words; empty where all units are of one message or role."""
    sources = sources_of(attribution)
    own = [source for source in sources if source.start <= unit.start][-1:]
    if not own or len({(source.role, source.document) for source in sources}) == 1:
        return ""
    if own[0].document is not None:
        return f"document {unit_name(one_line(own[0].document), _WIDTH)}"
    name = heading(own[0])
    return name[0].lower() + name[1:]


def named(attribution: Attribution | TextAttribution, unit: Unit | TextUnit) -> str:
    """A unit on one line, and what it is of."""
    of = origin(attribution, unit)
    return unit_name(unit.text) + (f" ({of})" if of else "")


def source_facts(attribution: Attribution | TextAttribution) -> list[tuple[str, str]]:
    """How documents were shown, and what went with what was removed whole, as terms and plain words."""
    details, sources = attribution.details or {}, sources_of(attribution)
    shown = SHOWN_WORDS.get(str(details.get("documents_through")))
    facts = [("Documents shown", shown)] if shown else []
    whole = [source for source in sources if source.removed_with]
    if whole:
        facts.append(("Removed whole", _removed_whole(whole)))
    places = details.get("messages_left_out")
    if isinstance(places, list) and places:
        said = ", ".join(str(place) for place in places)
        facts.append(("Left out", f"messages at places {said}, which the chat template does not show as they are"))
    return facts


def _removed_whole(whole: Sequence[RecordedSource]) -> str:
    """What goes with messages and documents that are removed whole."""
    alone = [source for source in whole if source.removed_with == "text"]
    if not alone:
        return "each with its frame, as if it had never been there"
    why = "other tokens are not proved to stay the same without its frame"
    if len(alone) == len(whole):
        return f"the text of each alone: {why}"
    names = [heading(source) + ("" if source.document else f" at place {source.message}") for source in alone]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"each with its frame, but the text alone of {', '.join(names[:_NAMED])}{more}: {why}"
