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
from jopa.prompt.unshown import Unshown

Message = Mapping[str, Any]


@dataclass(frozen=True)
class FixedPart:
    """A part of the input that no method can remove.

    Attributes:
        kind: the role of a message ("system", "user", "assistant", "tool", …), or "prefix", "prefill", "tools" or
            "document".
        text: what it says; tools and calls of tools are JSON text.
        shown: whether the model reads it; a chat template may leave it out.
    """

    kind: str
    text: str
    shown: bool = True


def fixed_parts(
    messages: Sequence[Message],
    attributable: Collection[int],
    *,
    prefix: str = "",
    prefill: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Document] = (),
    left_out: Unshown | None = None,
) -> tuple[FixedPart, ...]:
    """Everything that stays in place, in reading order.

    Args:
        messages: the conversation, each message with its `role` and a `content` that is a text or None.
        attributable: the places of the messages that hold attributable text, from 0; they are left out.
        prefix: the fixed instruction before the last message of the user.
        prefill: the beginning of the answer.
        tools: what the model may call.
        documents: those that are not attributable.
        left_out: what the chat template does not show; by default it shows everything.
    """
    left_out = left_out or Unshown()
    question = question_of(messages)
    said: list[FixedPart] = []
    for i, message in enumerate(messages):
        if i == question:
            said += [FixedPart("document", document.heading + document.text) for document in documents]
            said.append(FixedPart("prefix", prefix))
        if i not in attributable:
            said += _said(message, i not in left_out.texts, i not in left_out.calls)
    offered = FixedPart("tools", _json(list(tools)) if tools else "", not left_out.tools)
    return tuple(part for part in (offered, *said, FixedPart("prefill", prefill)) if part.text.strip())


def _said(message: Message, text_shown: bool, calls_shown: bool) -> list[FixedPart]:
    """A message's text and the tools that it calls: one part, or two where the model reads one of them alone."""
    role, calls = str(message["role"]), message.get("tool_calls")
    text, called = message.get("content") or "", _json(calls) if calls else ""
    if text_shown == calls_shown or not (text and called):
        return [FixedPart(role, "\n".join(filter(None, (text, called))), text_shown if text else calls_shown)]
    return [FixedPart(role, text, text_shown), FixedPart(role, called, calls_shown)]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
