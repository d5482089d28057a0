"""Messages and tools as other chat APIs and data sets write them, in the form that chat templates take.

    OpenAI      what its client returns; items `function_call` and `function_call_output` of the Responses API
    Anthropic   blocks of a content: `thinking`, `tool_use`, and `tool_result`, which becomes a message of role "tool"
    Google      `parts` in place of a content, and role "model"
    ShareGPT    `from` and `value`

What is none of these stays as it is. Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

TEXT_PARTS = ("text", "input_text", "output_text")
"""What chat APIs call a part that is text; the last two are those of https://platform.openai.com/docs/api-reference."""
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "function_response": "tool"}
_THINKING = ("thinking", "redacted_thinking")


def listed(values: object) -> object:
    """Arrays and columns of tables as lists, tables as lists of rows; other values as they are."""
    if hasattr(values, "columns") and callable(rows := getattr(values, "to_dict", None)):
        return rows("records")
    to_list = getattr(values, "tolist", None)
    return to_list() if callable(to_list) and not isinstance(values, str) else values


def mapped(value: object) -> object:
    """Objects of clients and rows of tables as mappings; other values as they are."""
    for name in ("model_dump", "to_dict"):
        if not isinstance(value, Mapping) and callable(convert := getattr(value, name, None)):
            found = convert()
            if isinstance(found, Mapping):
                return {key: each for key, each in found.items() if each is not None or key == "content"}
    return value


def messages_of(value: object) -> Iterator[object]:
    """The message that somebody wrote, or the several that a chat template takes in its place."""
    value = mapped(value)
    if not isinstance(value, Mapping):
        yield value
        return
    message = dict(value)
    if "role" not in message:
        message = _of_no_role(message)
    if "content" not in message and isinstance(message.get("parts"), list | str):
        message["content"] = message.pop("parts")
        message["role"] = _ROLES.get(str(message.get("role")), message.get("role"))
    content = listed(message.get("content"))
    if isinstance(content, Mapping) and content.get("type") in TEXT_PARTS:
        content = [content]
    if message.get("role") == "tool" and not _is_text(content):
        content = "" if content is None else json.dumps(content, ensure_ascii=False, default=str)
    if message.get("role") == "assistant" and content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    message |= {"content": content} if content is not None else {}
    if not isinstance(content, list) or not any(_type_of(part) for part in content):
        yield message
        return
    yield from _without_blocks(message, content)


def joined_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in which calls that follow one another as items of their own are those of one message."""
    found: list[dict[str, Any]] = []
    for message in messages:
        is_item = message.pop(_ITEM, False)
        if is_item and found and found[-1]["role"] == "assistant" and found[-1].get("tool_calls"):
            found[-1] = {**found[-1], "tool_calls": [*found[-1]["tool_calls"], *message["tool_calls"]]}
        else:
            found.append(message)
    return found


_ITEM = "\0item"
"""Marks a message that was an item of the Responses API, until `joined_calls` has seen it."""


def _of_no_role(item: dict[str, Any]) -> dict[str, Any]:
    """A message of ShareGPT, or an item of the Responses API, with its role."""
    kind, speaker = item.get("type"), item.get("from")
    if isinstance(speaker, str) and "value" in item:
        rest = {name: each for name, each in item.items() if name not in ("from", "value")}
        return {"role": _ROLES.get(speaker, speaker), "content": item["value"], **rest}
    if kind == "function_call" and isinstance(item.get("name"), str):
        function = {"name": item["name"], "arguments": item.get("arguments", "{}")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call], _ITEM: True}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    return item


def _is_text(content: object) -> bool:
    """Whether the content of a tool's result is a text, or parts of text."""
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        return False
    return all(isinstance(part, str) or (isinstance(part, Mapping) and "type" in part) for part in content)


def _type_of(part: object) -> str | None:
    """The kind of a block that is no part of a text; None for other parts."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind if kind in (*_THINKING, "tool_use", "tool_result", "refusal") else None


def _without_blocks(message: dict[str, Any], content: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """A message whose blocks are fields or messages of their own; results of tools come before what the user says."""
    blocks = [(_type_of(part), part) for part in content]
    for kind, block in blocks:
        if kind == "tool_result":
            result = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": block.get("content")}
            yield from (each for each in messages_of(result) if isinstance(each, dict))
    said = [block if kind is None else block.get("refusal", "") for kind, block in blocks if kind in (None, "refusal")]
    calls = [
        {
            "id": block.get("id"),
            "type": "function",
            "function": {"name": block.get("name"), "arguments": block.get("input") or {}},
        }
        for kind, block in blocks
        if kind == "tool_use"
    ]
    thoughts = [str(block.get("thinking", "")) for kind, block in blocks if kind == "thinking"]
    if said or calls or thoughts or not any(kind == "tool_result" for kind, _ in blocks):
        extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if thoughts:
            extra["reasoning_content"] = "".join(thoughts)
        yield {**message, **extra, "content": said or None}


def system_of(request: Mapping[str, Any]) -> object:
    """What a request says to the system beside its messages: a content, or None."""
    return request.get("system", request.get("instructions"))


def tools_of(tools: object) -> object:
    """Tools as JSON schemas of functions, where they are written otherwise or are Python functions."""
    tools = listed(tools)
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        return tools
    return [_tool(tool) for tool in tools]


def _tool(tool: object) -> object:
    if callable(tool) and not isinstance(tool, type):
        return _schema_of(tool)
    tool = mapped(tool)
    if not isinstance(tool, Mapping) or "function" in tool or not isinstance(tool.get("name"), str):
        return tool
    parameters = tool.get("input_schema", tool.get("parameters"))
    if not isinstance(parameters, Mapping) or not ("input_schema" in tool or tool.get("type") == "function"):
        return tool
    described = {"description": tool["description"]} if "description" in tool else {}
    return {"type": "function", "function": {"name": tool["name"], **described, "parameters": dict(parameters)}}


def _schema_of(function: Callable[..., Any]) -> object:
    """The schema of a function with types and a docstring, as transformers makes it; without these, the function."""
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        return get_json_schema(function)
    except Exception:  # a function that does not describe itself; what it lacks is said where tools are checked
        return function
