"""The texts of a request as a prompt: one text, or a conversation, and perhaps documents.

prompt      the last message of the user; may be empty where the turns hold one
system      the system message
turns       [{"role": "user", "assistant" or "tool", "content": text}, …], what was said before the prompt
messages    in place of both: the text of a JSON list of messages, or of a request with "messages" and "tools", as
            `jopa explain --messages` reads it; with calls of tools and whatever else a chat template takes
documents   [{"text": text, "id": …, "title": …}, …]
attribute   what of all this is explained
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jopa.errors import PromptError, SettingError
from jopa.json_values import parse_json
from jopa.prompt.documents import checked_documents
from jopa.prompt.messages import Message, chat_of
from jopa.prompt.options import PromptOptions
from jopa.web.limits import RequestLimits

ROLES = ("user", "assistant", "tool")
ATTRIBUTES = ("user", "users", "system", "tools", "documents", "trace", "all")
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
    prompt, system, chat = (record.get(name) for name in ("prompt", "system", "messages"))
    turns = _turns(record.get("turns"), limits.turns)
    if not isinstance(prompt, str | None):
        raise PromptError("the prompt is empty: type one, or pick an example")
    if not isinstance(system, str | None):
        raise SettingError("the system message must be a text")
    if not isinstance(chat, str | None):
        raise SettingError("messages must be the text of a JSON list of chat messages")
    typed, pasted = bool(prompt and prompt.strip()), bool(chat and chat.strip())
    if pasted and (turns or system):
        raise SettingError("messages take the place of the system message and the turns: leave out one of them")
    asked = any(turn["role"] == "user" and turn["content"].strip() for turn in turns)
    if not (typed or pasted or asked):
        raise PromptError("the prompt is empty: type one, or pick an example")
    documents = _documents(record.get("documents"), limits.documents)
    said = [prompt or "", system or "", chat or "", *(turn["content"] for turn in turns), *_texts_of(documents)]
    _require_few_characters(said, limits.characters)
    attribute = record.get("attribute")
    if attribute is not None and attribute not in ATTRIBUTES:
        raise SettingError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r:.40}")
    checked = checked_documents(documents) if documents else None
    options = replace(options, attribute=attribute, documents=checked)
    last: list[Message] = [{"role": "user", "content": prompt}] if typed else []
    if pasted:
        messages, tools = _pasted(chat or "", limits.turns)
        return (*messages, *last), replace(options, tools=tools)
    has_system = bool(system and system.strip())
    if not turns:
        assert prompt is not None, "an empty prompt needs turns"
        return prompt, replace(options, system=system if has_system else None)
    first: list[Message] = [{"role": "system", "content": system}] if has_system else []
    return (*first, *turns, *last), options


def _require_few_characters(texts: list[str], most: int) -> None:
    """Refuse more text than the page takes."""
    n_characters = sum(map(len, texts))
    if n_characters > most:
        alone = len([text for text in texts if text]) == 1
        what, them = ("the prompt has", "it") if alone else ("prompt, conversation and documents have", "them")
        raise PromptError(f"{what} {n_characters:,} characters and this page takes at most {most:,}: shorten {them}")


def _pasted(chat: str, most: int) -> tuple[list[Message], Sequence[Mapping[str, Any]] | None]:
    """The messages of a conversation that was pasted as JSON, and its tools."""
    try:
        messages, tools = chat_of(parse_json(chat))
    except PromptError as error:
        raise PromptError(f"the pasted conversation cannot be used: {error}") from error
    except ValueError as error:
        raise PromptError(f"the pasted conversation is no JSON: {error}") from error
    if len(messages) > most:
        raise PromptError(
            f"the conversation has {len(messages)} messages and this page takes at most {most}: leave some out"
        )
    return messages, tools


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
