"""What stays in place beside the attributable text: earlier turns, reasoning, prefix, prefill and tools, as text.

A report shows these parts, so that whoever reads it sees everything that the model was asked. Knows messages only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jopa.prompt.documents import Document
from jopa.prompt.messages import question_of, reasoning_of
from jopa.prompt.unshown import Unshown

Message = Mapping[str, Any]


@dataclass(frozen=True)
class FixedPart:
    """A part of the input that no method can remove.

    Attributes:
        kind: the role of a message ("system", "user", "assistant", "tool", …), or "reasoning", "prefix", "prefill",
            "tools" or "document".
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
    prefill_reasoning: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Document] = (),
    left_out: Unshown | None = None,
    whole: Collection[int] = (),
) -> tuple[FixedPart, ...]:
    """Everything that stays in place, in reading order.

    Args:
        messages: the conversation, each message with its `role` and a `content` that is a text or None.
        attributable: the places of the messages that hold attributable text, from 0; that text is left out.
        prefix: the fixed instruction before the last message of the user.
        prefill: the beginning of the answer.
        prefill_reasoning: the reasoning before that.
        tools: what the model may call.
        documents: those that are not attributable.
        left_out: what the chat template does not show; by default it shows everything.
        whole: the places of attributable messages of which nothing stays: their frames go, too.
    """
    left_out = left_out or Unshown()
    question = question_of(messages)
    parts: list[FixedPart] = []
    for i, message in enumerate(messages):
        if i == question:
            parts += [FixedPart("document", document.heading + document.text) for document in documents]
            parts.append(FixedPart("prefix", prefix))
        if i not in whole:
            parts += _parts_of_message(message if i not in attributable else {**message, "content": None}, i, left_out)
    offered = FixedPart("tools", _json(list(tools)) if tools else "", not left_out.tools)
    parts.append(FixedPart("reasoning", prefill_reasoning, len(messages) not in left_out.reasoning))
    return tuple(part for part in (offered, *parts, FixedPart("prefill", prefill)) if part.text.strip())


def _parts_of_message(message: Message, place: int, left_out: Unshown) -> list[FixedPart]:
    """A message's reasoning, its text and the tools that it calls; the last two in one part if the model reads both."""
    role, calls = str(message["role"]), message.get("tool_calls")
    text, called = message.get("content") or "", _json(calls) if calls else ""
    n_of_trace = left_out.traces.get(place, 0) if text else 0
    parts = [
        FixedPart("reasoning", reasoning_of(message), place not in left_out.reasoning),
        FixedPart("reasoning", text[:n_of_trace], shown=False),
    ]
    text = text[n_of_trace:]
    text_shown, calls_shown = place not in left_out.texts, place not in left_out.calls
    if text_shown == calls_shown or not (text and called):
        both = "\n".join(filter(None, (text, called)))
        return [*parts, FixedPart(role, both, text_shown if text else calls_shown)]
    return [*parts, FixedPart(role, text, text_shown), FixedPart(role, called, calls_shown)]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
