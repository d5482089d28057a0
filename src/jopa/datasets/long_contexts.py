"""Long contexts: documents, a question about them, and where its answer stands; made from real texts by a seed.

    planted    an invented fact stands in 1 to `copies` documents, each time in other words; facts of the same kind
               about other entities stand in others (distractors). The answer is known, and so are its sources
    natural    a question about one of the real documents, named by its title; the model answers for itself

Documents are items of JSONL files with `prompt` and, as a title, `headline` or `topic`, such as those of the data sets
`tldr_news` and `counsel_chat`. The same seed gives the same contexts, whatever the machine.

Knows no model and no tokenizer: the caller says how the tokens of a text are counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jopa.datasets.fields import MalformedError, identity, optional_text, text_field
from jopa.datasets.planted_facts import Fact, draw_facts
from jopa.errors import InputFileError, SettingError
from jopa.json_lines import json_lines
from jopa.json_values import parse_json
from jopa.prompt.segmentation import Span, sentences

Kind = Literal["planted", "natural"]

_MIN_TOKENS = 200
_DISTRACTORS = 3
_TOKENS_PER_WORD = 4 / 3
_FRAME = "Document [{number}] {title}\n{text}\n\n"


@dataclass(frozen=True)
class ContextDocument:
    """One document of a long context.

    Attributes:
        id: unique among the documents of its context.
        text: what it says.
        title: what it is called; may be empty.
    """

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class LongContext:
    """Documents and a question about them.

    Attributes:
        id: unique within its data set.
        documents: in the order in which the model reads them.
        question: what is asked about them.
        answer: the output to explain; None where the model is to answer for itself.
        sources: where the answer stands: the id of a document, and the characters `[start, end)` of its text; empty
            where that is not known.
        kind: how it was made.
    """

    id: str
    documents: tuple[ContextDocument, ...]
    question: str
    answer: str | None = None
    sources: tuple[tuple[str, Span], ...] = ()
    kind: str = "planted"

    @property
    def text(self) -> str:
        """Documents in a plain frame, and the question after them."""
        return "".join(self._frames()) + self.question

    def sentence_spans(self) -> list[Span]:
        """The sentences of the documents, as characters of `text`; frames, titles and the question are in none."""
        spans: list[Span] = []
        for begin, document in zip(self._begins(), self.documents, strict=True):
            spans += [(begin + start, begin + end) for start, end in sentences(document.text, "en")]
        return spans

    def source_units(self, spans: Sequence[Span]) -> list[int]:
        """Which of these spans of `text` hold a part of a source, in their order."""
        begin_of = dict(zip((document.id for document in self.documents), self._begins(), strict=True))
        places = [(begin_of[name] + start, begin_of[name] + end) for name, (start, end) in self.sources]
        return [i for i, (a, b) in enumerate(spans) if any(a < end and start < b for start, end in places)]

    def _frames(self) -> list[str]:
        return [
            _FRAME.format(number=number, title=document.title, text=document.text)
            for number, document in enumerate(self.documents, 1)
        ]

    def _begins(self) -> list[int]:
        """Where each document's text begins in `text`."""
        begins, position = [], 0
        for document, frame in zip(self.documents, self._frames(), strict=True):
            begins.append(position + len(frame) - len(document.text) - 2)
            position += len(frame)
        return begins


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: four for three words."""
    return round(len(text.split()) * _TOKENS_PER_WORD)


def read_texts(path: str | Path) -> list[ContextDocument]:
    """The texts of a JSONL file: `prompt`, `id`, and as a title `headline` or `topic`; each text once.

    A text without an id is called after its line.

    Raises:
        InputFileError: the file cannot be read, a line is no such record, or two texts have one id.
    """
    path = Path(path)
    found: dict[str, ContextDocument] = {}
    ids: set[str] = set()
    for number, line in json_lines(path):
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise MalformedError("not a JSON object")
            text = " ".join(text_field(record, "prompt").split())
            title = optional_text(record, "headline") or optional_text(record, "topic") or ""
            name = identity(record, str(number))
            if text not in found and name in ids:
                raise MalformedError(f"a text before it has the id '{name}', too; give each an id of its own")
        except (MalformedError, ValueError) as error:
            raise InputFileError(f"{path.name}:{number}: {error}") from error
        ids.add(name)
        found.setdefault(text, ContextDocument(name, text, " ".join(title.split())))
    if not found:
        raise InputFileError(f"'{path}' is empty; give one JSON object a line with 'prompt'")
    return list(found.values())


def make_long_contexts(
    texts: Sequence[ContextDocument],
    n: int,
    *,
    tokens: int,
    kind: Kind = "planted",
    copies: int = 1,
    seed: int = 0,
    count: Callable[[str], int] = estimated_tokens,
) -> list[LongContext]:
    """Long contexts of about `tokens` tokens each, drawn from real texts by a seed.

    Args:
        texts: real texts (`read_texts`), each with an id of its own; each is in a context once at most.
        n: contexts.
        tokens: of the real texts in a context, as `count` counts them; the last one may pass it, and facts and question
            come on top.
        kind: "planted" or "natural".
        copies: documents that the planted fact stands in, each time in other words; at most 3.
        seed: of the draw. A larger n begins with the contexts of a smaller one.
        count: tokens of a text.

    Raises:
        SettingError: a setting is out of range, there are too few texts, two have one id, or a context has fewer
            documents than copies.
    """
    if kind not in ("planted", "natural"):
        raise SettingError(f"unknown kind '{kind}': choose planted or natural")
    if tokens < _MIN_TOKENS:
        raise SettingError(f"tokens must be at least {_MIN_TOKENS}, got {tokens}")
    if n < 1:
        raise SettingError(f"n must be at least 1 context, got {n}")
    if not 1 <= copies <= 3:
        raise SettingError(f"copies must be between 1 and 3, got {copies}")
    name, times = next(iter(Counter(document.id for document in texts).most_common(1)), ("", 0))
    if times > 1:
        raise SettingError(
            f"{times} texts have the id '{name}', so a source cannot be told; give each an id of its own"
        )
    return [_context(texts, number, tokens, kind, copies, seed, count) for number in range(n)]


def _context(
    texts: Sequence[ContextDocument],
    number: int,
    tokens: int,
    kind: Kind,
    copies: int,
    seed: int,
    count: Callable[[str], int],
) -> LongContext:
    name = f"{kind}-{copies}x-{tokens}-{number:03d}" if kind == "planted" else f"natural-{tokens}-{number:03d}"
    draw = random.Random(f"{seed}:{name}")
    chosen = _drawn_to_length(draw.sample(texts, len(texts)), tokens, count)
    if kind == "planted":
        if len(chosen) < copies:
            raise SettingError(
                f"copies must be at most {len(chosen)}, the documents of a context of {tokens} tokens, got {copies}; "
                "give shorter texts, or ask for more tokens"
            )
        fact, *others = draw_facts(draw, 1 + min(_DISTRACTORS, len(chosen) - copies))
        return _planted(name, chosen, fact, others, copies, draw)
    titles = Counter(document.title for document in chosen)
    titled = [document for document in chosen if document.title and titles[document.title] == 1]
    if not titled:
        raise SettingError("natural questions need texts with a title of their own ('headline' or 'topic')")
    asked = draw.choice(titled)
    question = f'What does the document "{asked.title}" say? Answer in one or two sentences.'
    return LongContext(name, tuple(chosen), question, None, ((asked.id, (0, len(asked.text))),), kind)


def _drawn_to_length(
    texts: Iterable[ContextDocument], tokens: int, count: Callable[[str], int]
) -> list[ContextDocument]:
    """The first texts that reach the length together.

    Raises:
        SettingError: all of them do not.
    """
    chosen: list[ContextDocument] = []
    length = 0
    for document in texts:
        chosen.append(document)
        length += count(_FRAME.format(number=len(chosen), title=document.title, text=document.text))
        if length >= tokens:
            return chosen
    raise SettingError(
        f"the texts together have about {length} tokens, fewer than {tokens}; give more, or ask for less"
    )


def _planted(
    name: str, chosen: list[ContextDocument], fact: Fact, others: Sequence[Fact], copies: int, draw: random.Random
) -> LongContext:
    """The fact and its distractors, each at the end of some sentence of a document of its own."""
    statements = [*draw.sample(fact.statements, copies), *(draw.choice(other.statements) for other in others)]
    places = draw.sample(range(len(chosen)), min(len(statements), len(chosen)))
    documents, sources = list(chosen), []
    for i, (place, statement) in enumerate(zip(places, statements, strict=False)):
        documents[place], span = _inserted(documents[place], statement, draw)
        if i < copies:
            sources.append((documents[place].id, span))
    return LongContext(name, tuple(documents), fact.question, fact.answer, tuple(sources), "planted")


def _inserted(document: ContextDocument, statement: str, draw: random.Random) -> tuple[ContextDocument, Span]:
    """A document with a sentence more, between two of its own or at an end."""
    text = document.text.strip()
    cut = draw.choice([0, *(end for _, end in sentences(text, "en"))])
    before, after = text[:cut].rstrip(), text[cut:].lstrip()
    start = len(before) + 1 if before else 0
    whole = " ".join(part for part in (before, statement, after) if part)
    return ContextDocument(document.id, whole, document.title), (start, start + len(statement))
