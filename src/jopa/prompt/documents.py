"""Documents that stand in a prompt beside a question: checked, read from files, and put into a plain frame.

Where a chat template takes documents itself, it shows them as it likes (`jopa.prompt.rendering` finds out). Elsewhere
they stand before the question, in its message:

    Document ID: TITLE
    TEXT
    (an empty line)

The first line is "Document ID" where there is no title. Knows texts and files, no tokenizer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from jopa.errors import InputFileError, PromptError
from jopa.json_lines import json_lines
from jopa.json_values import parse_json
from jopa.prompt.chat_formats import listed, mapped
from jopa.prompt.messages import require_text

PLAIN_FRAME = "Document ID: TITLE\nTEXT\n\n"
"""The frame of a document where the chat template has none; without a title its first line is "Document ID"."""

_TEXTS = ("text", "content", "contents", "page_content", "body", "passage", "snippet")
_IDS = ("id", "doc_id", "_id", "document_id", "docid")
"""What people call the fields of a document; the first that is there counts."""


@dataclass(frozen=True)
class Document:
    """A text that the model reads beside a question.

    Attributes:
        text: what can be explained.
        id: its name, unique among the documents of a prompt.
        title: shown with it and never removed by itself; None for none.
    """

    text: str
    id: str
    title: str | None = None

    @property
    def heading(self) -> str:
        """What the plain frame writes before the text."""
        return f"Document {self.id}: {self.title}\n" if self.title else f"Document {self.id}\n"


def checked_documents(values: object) -> tuple[Document, ...]:
    """Documents as people give them: texts, files, or objects with a text and perhaps an id and a title.

    Objects are mappings, rows of a table, or have `page_content` and `metadata`, as those of LangChain. Their text may
    be called "text", "content", "page_content" and the like. A path stands for what `read_documents` finds there. A
    document without an id is called by its number, counted from 1.

    Raises:
        PromptError: one is no text or empty, two have the same id, or there is none.
    """
    if isinstance(values, os.PathLike):
        return read_documents(Path(values))
    values = listed(values)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise PromptError(
            f'documents are a list of texts, or of {{"id": …, "title": …, "text": …}}, got {type(values).__name__}'
        )
    if not values:
        raise PromptError("the list of documents is empty; give at least one, or leave it out")
    read = [_fields(value, number) for number, value in enumerate(values, start=1)]
    names: dict[str, int] = {}
    for number, (_, name, _) in enumerate(read, start=1):
        if name is not None:
            if name in names:
                raise PromptError(
                    f"two documents have the id {name!r:.60} (numbers {names[name]} and {number}); give each an id of "
                    "its own"
                )
            names[name] = number
    documents = []
    for number, (text, name, title) in enumerate(read, start=1):
        while name is None or (name in names and names[name] != number):
            name = str(number) if name is None else name + "b"
        names[name] = number
        documents.append(Document(text, name, title))
    return tuple(documents)


def _fields(value: object, number: int) -> tuple[str, str | None, str | None]:
    """The text, id and title of one document.

    Raises:
        PromptError: it has another shape.
    """
    if isinstance(value, os.PathLike):
        value = {"text": _text_of(Path(value)), "id": Path(value).name}
    if not isinstance(value, Mapping) and isinstance(getattr(value, "page_content", None), str):
        value = {name: getattr(value, name, None) for name in ("page_content", "id", "metadata")}
    value = vars(value) if isinstance(value, Document) else mapped(value)
    record: Mapping[str, Any] = {"text": value} if isinstance(value, str) else {}
    if isinstance(value, Mapping):
        record = value
    text: Any = _first_of(record, _TEXTS)
    if not isinstance(text, str):
        raise PromptError(
            f'document {number} is no text: {value!r:.60}; give a text, or {{"id": …, "title": …, "text": …}}'
        )
    beside = record.get("metadata")
    guess = beside.get("title") if isinstance(beside, Mapping) else None
    title = record.get("title", guess if isinstance(guess, str) else None)
    name, title = (_name(field, given, number) for field, given in (("id", _first_of(record, _IDS)), ("title", title)))
    if not text.strip():
        named = f" (id {name!r:.60})" if name else ""
        raise PromptError(f"document {number}{named} is empty; leave it out, or give its text")
    for what, said in (("text", text), ("id", name), ("title", title)):
        if said is not None:
            require_text(f"{what} of document {number}", said)
    return text, name or None, (" ".join(title.split()) or None) if title else None


def _first_of(record: Mapping[str, Any], fields: Sequence[str]) -> Any:
    """The value of the first of some fields that has one."""
    return next((record[field] for field in fields if record.get(field) is not None), None)


def _name(field: str, given: Any, number: int) -> str | None:
    """An id or a title as a text; numbers are written out, and what a table shows for nothing is nothing.

    Raises:
        PromptError: it is something else.
    """
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, float):
        if math.isnan(given):  # in a table's empty cell
            return None
        return str(int(given)) if given.is_integer() else str(given)
    try:
        if not isinstance(given, bool):
            return str(index(given))
    except TypeError:
        pass
    raise PromptError(f"the {field} of document {number} must be a text, got {given!r:.60}")


def read_documents(path: Path) -> tuple[Document, ...]:
    """The documents of a JSONL file, one a line, or of a folder and the folders in it, one a file.

    A line is a text, or an object with "text" and perhaps "id" and "title". A file's id is its name, with the names of
    the folders that it lies in. What begins with a full stop is left out.

    Raises:
        InputFileError: something cannot be read, or is no text.
        PromptError: as `checked_documents`.
    """
    if path.is_dir():
        names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        files = sorted(name for name in names if not any(part.startswith(".") for part in name.parts))
        if not files:
            raise InputFileError(f"the folder '{path}' holds no files; put one text file a document there")
        return checked_documents([{"id": name.as_posix(), "text": _text_of(path / name)} for name in files])
    values = []
    for number, line in json_lines(path):
        try:
            values.append(parse_json(line))
        except ValueError as error:
            raise InputFileError(
                f"line {number} of '{path}' is no JSON: {error}; write one document a line, as "
                '{"id": "1", "title": "…", "text": "…"}'
            ) from error
    if not values:
        raise InputFileError(f'\'{path}\' holds no documents; write one a line, as {{"text": "…"}}')
    return checked_documents(values)


def _text_of(file: Path) -> str:
    """The text of one file.

    Raises:
        InputFileError: it cannot be read, or is no UTF-8.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputFileError(f"cannot read '{file}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputFileError(
            f"the document '{file}' is no text: byte {error.start} is not UTF-8; leave it out, or save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InputFileError(f"the document '{file}' is no text: it holds a NUL byte; leave it out")
    return text.rstrip("\r\n")
