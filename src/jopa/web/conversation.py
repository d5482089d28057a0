"""The texts of a request as a prompt: one text, or a conversation, and perhaps documents.

prompt      the last message of the user; may be empty where the turns hold one
system      the system message
turns       [{"role": "user", "assistant" or "tool", "content": text}, …], what was said before the prompt
documents   [{"text": text, "id": …, "title": …}, …]
attribute   what of all this is explained
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jopa.errors import PromptError, SettingError
from jopa.prompt.documents import checked_documents
from jopa.prompt.messages import Message
from jopa.prompt.options import PromptOptions
from jopa.web.limits import RequestLimits

ROLES = ("user", "assistant", "tool")
ATTRIBUTES = ("user", "users", "system", "tools", "documents", "all")
"""What can be explained; without a choice it is the documents, or else the last message of the user."""


def read_conversation(
    record: dict[str, Any], limits: RequestLimits, options: PromptOptions
) -> tuple[str | tuple[Message, ...], PromptOptions]:
    """The prompt of a request, and what stands around it.

    Args:
        record: the request; other fields are left alone.
        limits: how much text it may have.
        options: how the page puts every prompt before its model.

    Raises:
        PromptError: there is nothing to explain, or more text than the limit.
        SettingError: a field has another shape.
    """
    prompt, system = record.get("prompt"), record.get("system")
    turns = _turns(record.get("turns"), limits.turns)
    if not isinstance(prompt, str | None):
        raise PromptError("the prompt is empty: type one, or pick an example")
    if not isinstance(system, str | None):
        raise SettingError("the system message must be a text")
    typed = bool(prompt and prompt.strip())
    if not typed and not any(turn["role"] == "user" and turn["content"].strip() for turn in turns):
        raise PromptError("the prompt is empty: type one, or pick an example")
    documents = _documents(record.get("documents"), limits.documents)
    given = [prompt or "", system or "", *(turn["content"] for turn in turns), *_texts_of(documents)]
    if (n_characters := sum(map(len, given))) > limits.characters:
        what = "the prompt has" if len([text for text in given if text]) == 1 else "prompt, turns and documents have"
        raise PromptError(
            f"{what} {n_characters:,} characters and this page takes at most {limits.characters:,}: shorten "
            f"{'it' if what.endswith('has') else 'them'}"
        )
    attribute = record.get("attribute")
    if attribute is not None and attribute not in ATTRIBUTES:
        raise SettingError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r:.40}")
    checked = checked_documents(documents) if documents else None
    options = replace(options, attribute=attribute, documents=checked)
    has_system = bool(system and system.strip())
    if not turns:
        assert prompt is not None, "an empty prompt needs turns"
        return prompt, replace(options, system=system if has_system else None)
    messages: list[Message] = [{"role": "system", "content": system}] if has_system else []
    return (*messages, *turns, *([{"role": "user", "content": prompt}] if typed else ())), options


def _turns(value: Any, most: int) -> list[dict[str, str]]:
    """The turns before the prompt, empty ones left out."""
    if not isinstance(value, list | None) or not all(_is_turn(turn) for turn in value or ()):
        raise SettingError(
            f'turns must be a list of {{"role": "user", "content": "text"}}, each of role {", ".join(ROLES)}'
        )
    turns = [turn for turn in value or () if turn["content"].strip()]
    if len(turns) > most:
        raise PromptError(f"the conversation has {len(turns)} turns and this page takes at most {most}: leave some out")
    return turns


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and turn.keys() == {"role", "content"}
        and turn["role"] in ROLES
        and isinstance(turn["content"], str)
    )


def _documents(value: Any, most: int) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(document, dict) and document.keys() <= {"text", "id", "title"} for document in value
    ):
        raise SettingError('documents must be a list of {"text": "…"}, each perhaps with "id" and "title"')
    if len(value) > most:
        raise PromptError(f"there are {len(value)} documents and this page takes at most {most}: leave some out")
    return value


def _texts_of(documents: list[dict[str, Any]]) -> Iterator[str]:
    for document in documents:
        yield from (text for text in document.values() if isinstance(text, str))
