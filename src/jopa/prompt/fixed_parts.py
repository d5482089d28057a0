"""What stays in place beside the attributable text: earlier turns, system message, prefix, prefill and tools, as text.

A report shows these parts, so that whoever reads it sees everything that the model was asked. Knows messages only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jopa.prompt.documents import Document
from jopa.prompt.messages import question_of

Message = Mapping[str, Any]


@dataclass(frozen=True)
class FixedPart:
    """A part of the input that no method can remove.

    Attributes:
        kind: the role of a message ("system", "user", "assistant", "tool", …), or "prefix", "prefill", "tools" or
            "document".
        text: what it says; tools and calls of tools are JSON text.
    """

    kind: str
    text: str


def fixed_parts(
    messages: Sequence[Message],
    attributable: Collection[int],
    *,
    prefix: str = "",
    prefill: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Document] = (),
) -> tuple[FixedPart, ...]:
    """Everything that stays in place, in reading order.

    Args:
        messages: the conversation, each message with its `role` and a `content` that is a text or None.
        attributable: the places of the messages that hold attributable text, from 0; they are left out.
        prefix: the fixed instruction before the last message of the user.
        prefill: the beginning of the answer.
        tools: what the model may call.
        documents: those that are not attributable.
    """
    question = question_of(messages)
    said: list[FixedPart] = []
    for i, message in enumerate(messages):
        if i == question:
            said += [FixedPart("document", document.heading + document.text) for document in documents]
            said.append(FixedPart("prefix", prefix))
        if i not in attributable:
            said.append(FixedPart(str(message["role"]), _said(message)))
    parts = [FixedPart("tools", _json(list(tools)) if tools else ""), *said, FixedPart("prefill", prefill)]
    return tuple(part for part in parts if part.text.strip())


def _said(message: Message) -> str:
    """A message's text, and the tools that it calls."""
    calls = message.get("tool_calls") or message.get("function_call")
    return "\n".join(filter(None, (message.get("content"), _json(calls) if calls else "")))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
