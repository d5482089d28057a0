"""What is to be rendered: messages, documents, and the passages in them that units are made of.

A passage is a text whose units can be removed: what a message says, or a document. `Layout` says where each passage
stands in the contents that a chat template is handed; documents stand either in the message of the question, in the
plain frame of `jopa.prompt.documents`, or beside the messages, where the template takes them itself.

Knows texts, no tokenizer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jopa.prompt.documents import Document
from jopa.prompt.segmentation import Span


@dataclass(frozen=True)
class Slot:
    """A content that the chat template shows: that of a message, or the text of a document.

    Attributes:
        kind: "message" or "document".
        index: its place among them.
    """

    kind: str
    index: int


@dataclass(frozen=True)
class Passage:
    """A text whose units can be removed.

    Attributes:
        slot: the content that holds it.
        span: its characters there.
        text: these characters.
        block: the characters of the content that go with it when it is removed as a whole; None where that is all of
            the slot, whose frame the template writes.
        document: the document that it is; None for what a message says.
    """

    slot: Slot
    span: Span
    text: str
    block: Span | None = None
    document: Document | None = None


@dataclass(frozen=True)
class Layout:
    """Everything that is rendered, before the tokenizer sees it.

    Attributes:
        messages: with their contents in full: prefix and framed documents included.
        documents: those handed to the chat template; none if they stand in a message.
        passages: the attributable texts.
        prefill: the beginning of the answer.
        prefill_fields: what else the message of the answer has, as its reasoning.
    """

    messages: tuple[dict[str, Any], ...]
    documents: tuple[Document, ...]
    passages: tuple[Passage, ...]
    prefill: str = ""
    prefill_fields: Mapping[str, Any] = field(default_factory=dict)

    def content(self, slot: Slot) -> str:
        """What a slot holds."""
        if slot.kind == "message":
            return self.messages[slot.index]["content"]
        return self.documents[slot.index].text

    def with_content(self, slot: Slot, content: str) -> Layout:
        """The same with another content in one slot."""
        messages, documents = list(self.messages), list(self.documents)
        if slot.kind == "message":
            messages[slot.index] = {**messages[slot.index], "content": content}
        else:
            old = documents[slot.index]
            documents[slot.index] = Document(content, old.id, old.title)
        return replace(self, messages=tuple(messages), documents=tuple(documents))

    def without(self, passages: Collection[int]) -> Layout:
        """The same without some passages and their frames: what a person would have given instead."""
        gone = [self.passages[number] for number in passages]
        whole = {passage.slot for passage in gone if passage.block is None}
        contents = {slot: self.content(slot) for slot in {passage.slot for passage in gone} - whole}
        for passage in sorted(gone, key=lambda passage: -passage.span[0]):
            if passage.slot in contents and passage.block is not None:
                content = contents[passage.slot]
                contents[passage.slot] = content[: passage.block[0]] + content[passage.block[1] :]
        layout = self
        for slot, content in contents.items():
            layout = layout.with_content(slot, content)
        return replace(
            self,
            messages=tuple(m for i, m in enumerate(layout.messages) if Slot("message", i) not in whole),
            documents=tuple(d for i, d in enumerate(layout.documents) if Slot("document", i) not in whole),
            passages=(),
        )

    def all_texts(self) -> str:
        """Every text in it, for finding a marker that occurs in none."""
        documents = "".join(document.text + document.id + (document.title or "") for document in self.documents)
        return documents + self.prefill + "".join(message["content"] or "" for message in self.messages)


@dataclass(frozen=True)
class Place:
    """Where a passage lies in what was rendered.

    Attributes:
        visible: the part of its text that survived rendering; templates often strip blanks at the ends.
        start: where that part begins in `rendered`, one character there for one of the text.
        starts: where each character of that part begins in `rendered`, and where the last one ends, if the template
            writes some characters as several, as in JSON; empty if not.
    """

    visible: Span
    start: int
    starts: tuple[int, ...] = ()

    @property
    def span(self) -> Span:
        """The characters of `rendered` that show the text."""
        if self.starts:
            return self.starts[0], self.starts[-1]
        return self.start, self.start + self.visible[1] - self.visible[0]

    def shown(self, begin: int, end: int) -> Span:
        """The characters of the text that a part of `rendered` within `span` shows."""
        if self.starts:
            first, last = bisect_right(self.starts, begin) - 1, bisect_left(self.starts, end)
        else:
            first, last = begin - self.start, end - self.start
        return first + self.visible[0], last + self.visible[0]

    def within(self, first: int, last: int, origin: int) -> Place:
        """Where the part `[first, last)` of a content lies, as characters of a text that begins at `origin`."""
        begin, end = max(self.visible[0], first), min(self.visible[1], last)
        skipped = begin - self.visible[0]
        starts = self.starts[skipped : end - self.visible[0] + 1]
        return Place((begin - origin, end - origin), self.start + skipped, starts)


@dataclass(frozen=True)
class RenderedPrompt:
    """The model's whole input, and where each passage lies in it.

    Attributes:
        ids: the token ids.
        offsets: the characters of `rendered` that each token stands for; None for one the tokenizer adds to any text.
        rendered: the whole input as text.
        passages: the attributable texts, in the order in which they are shown.
        places: where each of them lies.
        numbers: which passage of the layout each of them is.
        left_out: messages that the template does not show as they are, by their places.
    """

    ids: list[int]
    offsets: list[Span | None]
    rendered: str
    passages: list[Passage]
    places: list[Place]
    numbers: list[int] = field(default_factory=list)
    left_out: tuple[int, ...] = ()


def layout_of(
    messages: Sequence[dict[str, Any]],
    attributed: Collection[int],
    documents: Sequence[Document],
    *,
    question: int | None,
    lead: str = "",
    prefill: str = "",
    prefill_fields: Mapping[str, Any] | None = None,
    documents_attributed: bool = False,
    in_template: bool = False,
) -> Layout:
    """Put prefix, documents and messages together.

    Args:
        messages: in full.
        attributed: places of the attributable messages.
        documents: what stands beside the question.
        question: the place of the message that documents and prefix stand in.
        lead: the prefix, with the blank that parts it from what follows.
        prefill: the beginning of the answer.
        prefill_fields: what else the message of the answer has.
        documents_attributed: whether documents are passages.
        in_template: hand the documents to the chat template.
    """
    full = [dict(message) for message in messages]
    passages: list[Passage] = []
    before = lead
    if question is not None:
        slot = Slot("message", question)
        if not in_template:
            for document in documents:
                begin, start = len(before), len(before) + len(document.heading)
                before += document.heading + document.text + "\n\n"
                if documents_attributed:
                    span = (start, start + len(document.text))
                    passages.append(Passage(slot, span, document.text, (begin, len(before)), document))
        full[question]["content"] = before + (full[question]["content"] or "")
    if in_template and documents_attributed:
        passages += [
            Passage(Slot("document", i), (0, len(document.text)), document.text, None, document)
            for i, document in enumerate(documents)
        ]
    for place in sorted(attributed):
        content = full[place]["content"]
        start = len(before) if place == question else 0
        alone = not (place == question and before)
        block = None if alone else (start, len(content))
        passages.append(Passage(Slot("message", place), (start, len(content)), content[start:], block))
    passages.sort(key=lambda passage: (passage.slot.kind, passage.slot.index, passage.span))
    beside = tuple(documents) if in_template else ()
    return Layout(tuple(full), beside, tuple(passages), prefill, prefill_fields or {})
