"""Chat messages as their writer gave them, checked and brought to one form.

A message's content is a text, parts of text (`[{"type": "text", "text": ...}, ...]`, joined), or, of the assistant,
nothing. Messages of other chat APIs are brought into this form by `jopa.prompt.chat_formats`. Every other field is
handed to the chat template as it is. Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jopa.errors import PromptError, SettingError
from jopa.json_values import parse_json
from jopa.prompt.chat_formats import TEXT_PARTS, joined_calls, listed, messages_of, request_tools, system_of
from jopa.prompt.options import PromptOptions

Message = Mapping[str, Any]
_CONVERSATIONS = ("messages", "input", "conversations", "contents")
"""What APIs and data sets call the messages of a request."""
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""What templates call the reasoning of a message."""


@dataclass(frozen=True)
class Conversation:
    """What was said before the answer, and how the answer begins.

    Attributes:
        messages: a system message first where one is asked for, without a prefilled answer at the end.
        prefill: the beginning of the answer; empty for none.
        prefill_fields: what else the message has whose text is the beginning of the answer, as its reasoning.
        parts: by their places, the parts of those messages that were given as parts.
    """

    messages: list[dict[str, Any]]
    prefill: str = ""
    prefill_fields: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[int, Sequence[str]] = field(default_factory=dict)


def conversation(prompt: str | Sequence[Message], options: PromptOptions) -> Conversation:
    """The chat messages in full, checked.

    Raises:
        PromptError: the prompt is empty or has the wrong shape.
        SettingError: two settings do not fit.
    """
    parted: dict[int, list[str]] = {}
    if isinstance(prompt, str):
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        if options.system is not None:
            messages.insert(0, {"role": "system", "content": options.system})
    elif options.system is not None:
        raise SettingError("give the system text as a message of role 'system', not as a setting beside messages")
    else:
        messages, parted = _checked(prompt)
    for name, text in (("prefix", options.prefix), ("prefill", options.prefill)):
        require_text(name, text or "")
    for message in messages:
        if message.get("content") is not None:
            require_text(f"{message['role']} message", message["content"])
    prefill = options.prefill or ""
    prefill = prefill if prefill.strip() else ""
    prefill_fields: dict[str, Any] = {}
    if messages[-1]["role"] == "assistant":
        if prefill:
            raise SettingError("the last message is the assistant's and a prefill is given too: give one of them")
        prefill_fields = messages.pop()
        prefill = _beginning(prefill_fields)
    if options.documents is not None or isinstance(prompt, str):
        question = question_of(messages)
        if question is None:
            raise PromptError("documents stand beside a question, and no message is of role 'user'; add one")
        if not (messages[question]["content"] or "").strip():
            raise PromptError("the prompt is empty; give a text with something in it besides blanks")
    parts = {place: texts for place, texts in parted.items() if place < len(messages)}
    return Conversation(messages, prefill, prefill_fields if prefill else {}, parts)


def _beginning(message: Mapping[str, Any]) -> str:
    """The beginning of the answer in a last message of the assistant; empty where it says nothing at all.

    Raises:
        PromptError: it holds what an answer cannot follow.
    """
    said = message["content"]
    if message.get("tool_calls") or said is None:
        what = "calls tools" if message.get("tool_calls") else "has no text"
        raise PromptError(f"the last message is the assistant's and {what}; end with a message of another role")
    if not said.strip() and message.get("reasoning_content"):
        raise PromptError("the last message is the assistant's and has reasoning alone; give its text, too")
    return said if said.strip() else ""


def chat_of(value: object) -> tuple[list[Message], list[Mapping[str, Any]] | None]:
    """The messages and tools of a chat that was written as JSON.

    Args:
        value: a list of messages, or a whole request to a chat API: an object with "messages" (or "input",
            "conversations" or "contents"), and perhaps "tools" and "system" (or "instructions"); other fields are left
            alone.

    Returns:
        The messages, whose contents are not checked here, and the tools; None where there are none.

    Raises:
        PromptError: it is neither.
    """
    request = value if isinstance(value, Mapping) else {"messages": value}
    tools = request_tools(request)
    messages = next((request[name] for name in _CONVERSATIONS if name in request), None)
    if isinstance(messages, str) and "input" in request:
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping) and "contents" in request:
        messages = [messages]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise PromptError(
            'chat messages are a JSON list, as [{"role": "user", "content": "…"}], or an object with it as "messages"'
        )
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise PromptError('"tools" must be a list of JSON schemas, as a chat template takes it; or leave it out')
    system = system_of(request)
    return [*([{"role": "system", "content": system}] if system else []), *messages], tools or None


def with_parsed_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls of tools have their arguments as objects: chat APIs write them as a text of JSON.

    What is no object in JSON stays as it is.
    """
    return [_with_arguments(message, _as_object) for message in messages]


def with_written_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls of tools have their arguments as a text of JSON, also where they came as objects."""
    return [_with_arguments(message, _as_text) for message in messages]


def _with_arguments(message: Mapping[str, Any], form: Callable[[Any], Any]) -> dict[str, Any]:
    """A message whose calls of tools have their arguments in some form."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_formed_call(call, form) for call in calls]}


def _formed_call(call: Any, form: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    arguments = form(function["arguments"])
    return call if arguments is function["arguments"] else {**call, "function": {**function, "arguments": arguments}}


def _as_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = parse_json(arguments)
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _as_text(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else arguments


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning that a message has beside its text; empty for none."""
    found = (message.get(name) for name in REASONING_FIELDS)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")


def question_of(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of the user's last message; None if there is none."""
    return max((place for place, message in enumerate(messages) if message["role"] == "user"), default=None)


def require_text(name: str, value: object) -> None:
    """Refuse what no tokenizer can read."""
    if not isinstance(value, str):
        raise SettingError(f"the {name} must be a text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the {name} holds half a surrogate pair (character {error.start}), which is no text; remove it"
        ) from error


def _checked(prompt: object) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
    """Copies of chat messages whose shape is right, parts of text joined; and the parts that they were joined from."""
    prompt = listed(prompt)
    if isinstance(prompt, Mapping) and (named := next((name for name in _CONVERSATIONS if name in prompt), None)):
        raise PromptError(
            f"a prompt is a text or a list of chat messages, and this is a whole request; give its {named!r} alone, "
            "and its tools and system text as PromptOptions(tools=…) and a message of role 'system'"
        )
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise PromptError(f"a prompt is a text or a list of chat messages, got {type(prompt).__name__}")
    messages: list[dict[str, Any]] = []
    for number, given in enumerate(prompt, start=1):
        for message in messages_of(given):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise _shape_error(number, given)
            content = message.get("content")
            if isinstance(content, Sequence) and not isinstance(content, str | bytes):
                texts = [_text_of(part, number) for part in content]
                content = texts[0] if len(texts) == 1 and texts[0] == texts[0].strip() else texts
            require_text(f"message at place {len(messages)}", json.dumps(message, ensure_ascii=False, default=str))
            if not isinstance(content, str | list) and not (content is None and message["role"] == "assistant"):
                raise _shape_error(number, given)
            messages.append({**message, "content": content})
    if not messages:
        raise PromptError("nothing attributable: there are no messages; give at least one of role 'user'")
    messages = joined_calls(messages)
    parted = {place: each["content"] for place, each in enumerate(messages) if isinstance(each["content"], list)}
    for place, parts in parted.items():
        messages[place]["content"] = "".join(parts)
    return messages, parted


def _text_of(part: object, number: int) -> str:
    """The text of one part of a message.

    Raises:
        PromptError: it is of another type, such as an image.
    """
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and (kind in TEXT_PARTS or (kind is None and "text" in part)):
        text = part.get("text")
        text = text.get("value") if isinstance(text, Mapping) else text
        if isinstance(text, str | None):
            return text or ""
    if isinstance(kind, str) and kind not in TEXT_PARTS:
        raise PromptError(f"message {number} has a part of type '{kind}'; jopa explains text only, so leave it out")
    raise PromptError(
        f'part of message {number} is not of the form {{"type": "text", "text": "text"}}: {part!r:.80}; write it so'
    )


def _shape_error(number: int, message: object) -> PromptError:
    return PromptError(f'message {number} is not of the form {{"role": "user", "content": "text"}}: {message!r:.80}')
