"""Messages and tools as other chat APIs and data sets write them, in the form that chat templates take.

    OpenAI      what its client returns; `function_call` and role "function", as they were before tools; items
                `reasoning`, `function_call` and `function_call_output` of the Responses API
    Anthropic   blocks of a content: `thinking`, `tool_use`, and `tool_result`, which becomes a message of role "tool"
    Amazon      the same of Bedrock's Converse API: `reasoningContent`, `toolUse`, `toolResult`; `toolConfig`
    Google      `parts` in place of a content, with `functionCall` and `functionResponse`, and role "model"; `contents`,
                `systemInstruction`, `functionDeclarations`
    LangChain   messages of type "human" and "ai", with calls as `name` and `args`
    ShareGPT    `from` and `value`, also with "function_call" and "observation"

What is none of these stays as it is. Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jopa.json_values import parse_json

TEXT_PARTS = ("text", "input_text", "output_text")
"""What chat APIs call a part that is text; the last two are those of https://platform.openai.com/docs/api-reference."""
_ROLES = {
    "human": "user",
    "prompter": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai", "bard", "bing", "claude"), "assistant"),
    "function_response": "tool",
    "observation": "tool",
    "function": "tool",
}
_TYPES = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
}
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
    if "content" not in message and isinstance(message.get("parts"), list | str | Mapping):
        parts = message.pop("parts")
        message["content"] = [parts] if isinstance(parts, Mapping) else parts
        role = message.get("role", "user")  # Google's requests may leave it out
        message["role"] = _ROLES.get(str(role), role)
    if message.get("role") == "function":
        message["role"] = "tool"
    message = _with_calls(message)
    content = listed(message.get("content"))
    if isinstance(content, Mapping) and content.get("type") in TEXT_PARTS:
        content = [content]
    if isinstance(content, list):
        content = [_block(part) for part in content if not _is_cache_point(part)]
    if message.get("role") == "tool" and not _is_text(content) and not any(map(_type_of, _parts(content))):
        content = "" if content is None else json.dumps(content, ensure_ascii=False, default=str)
    if message.get("role") == "assistant" and content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    message |= {"content": content} if content is not None else {}
    if not any(map(_type_of, _parts(content))):
        yield message
        return
    yield from _without_blocks(message, _parts(content))


def joined_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in which items that an API lists one by one are those of one message: thoughts, calls, what is said."""
    found: list[dict[str, Any]] = []
    after_item = False
    for message in messages:
        is_item = message.pop(_ITEM, False) or _is_reasoning(message)
        last = found[-1] if found and found[-1]["role"] == message["role"] == "assistant" else None
        if last is not None and (is_item or after_item) and not (last["content"] and message["content"]):
            found[-1] = _merged(last, message)
        else:
            found.append(message)
        after_item = is_item
    return found


def _is_reasoning(message: Mapping[str, Any]) -> bool:
    """Whether a message holds reasoning alone, as that of a client that sends each block by itself."""
    return message.keys() == {"role", "content", "reasoning_content"} and message["content"] is None


def _merged(last: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """Two messages of the assistant, of which one says nothing, as one."""
    both = {**last, **message, "content": last["content"] or message["content"]}
    if thoughts := [each["reasoning_content"] for each in (last, message) if each.get("reasoning_content")]:
        both["reasoning_content"] = "\n".join(thoughts)
    if calls := [call for each in (last, message) for call in each.get("tool_calls", ())]:
        both["tool_calls"] = calls
    return both


_ITEM = "\0item"
"""Marks a message that was an item of the Responses API, until `joined_calls` has seen it."""


def _of_no_role(item: dict[str, Any]) -> dict[str, Any]:
    """A message of ShareGPT or LangChain, or an item of the Responses API, with its role."""
    kind, speaker = item.get("type"), item.get("from")
    if isinstance(speaker, str) and "value" in item:
        rest = {name: each for name, each in item.items() if name not in ("from", "value")}
        if speaker == "function_call" and (calls := _written_calls(item["value"])):
            return {"role": "assistant", "content": None, "tool_calls": calls, **rest}
        role = "assistant" if speaker == "function_call" else _ROLES.get(speaker, speaker)
        return {"role": role, "content": item["value"], **rest}
    if kind in _TYPES:
        fields = item["data"] if isinstance(item.get("data"), Mapping) else item
        if "content" in fields:
            return {"role": _TYPES[kind], **{name: each for name, each in fields.items() if name != "type"}}
    if kind == "function_call" and isinstance(item.get("name"), str):
        call = _call({"id": item.get("call_id"), "name": item["name"], "arguments": item.get("arguments")})
        return {"role": "assistant", "content": None, "tool_calls": [call], _ITEM: True}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind == "reasoning":
        texts = [*_parts(item.get("summary")), *_parts(item.get("content"))]
        thought = "\n".join(str(part.get("text", "")) for part in texts if isinstance(part, Mapping))
        return {"role": "assistant", "content": None, "reasoning_content": thought, _ITEM: True}
    return item


def _written_calls(text: object) -> list[dict[str, Any]]:
    """The calls that a text of JSON holds, one or a list of them; none if it holds anything else."""
    try:
        found = parse_json(text) if isinstance(text, str) else text
    except ValueError:
        return []
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        return []
    return [_call(call) for call in calls]


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls of tools have the form of `tool_calls`; without any, the field goes."""
    called, calls = message.get("function_call"), listed(message.get("tool_calls"))
    if isinstance(called, Mapping) and isinstance(called.get("name"), str) and not calls:
        rest = {name: each for name, each in message.items() if name != "function_call"}
        return {**rest, "content": message.get("content"), "tool_calls": [_call(called)]}
    if calls == []:
        return {name: each for name, each in message.items() if name != "tool_calls"}
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call(mapped(call)) for call in calls]}


def _call(call: object) -> Any:
    """A call that names its tool itself, as a call of `tool_calls`; others as they are."""
    if not isinstance(call, Mapping) or "function" in call or not isinstance(call.get("name"), str):
        return call
    arguments = next((call[name] for name in ("arguments", "args", "input") if call.get(name) is not None), {})
    known = {"id": call["id"]} if call.get("id") is not None else {}
    return {**known, "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _block(part: object) -> object:
    """A block of Google's or Amazon's as the one of Anthropic's that says the same; other parts as they are."""
    if not isinstance(part, Mapping):
        return part
    for name in ("functionCall", "function_call", "toolUse"):
        if isinstance(call := part.get(name), Mapping):
            arguments = call.get("args", call.get("input"))
            return {"type": "tool_use", "id": _id(call), "name": call.get("name"), "input": arguments}
    for name in ("functionResponse", "function_response", "toolResult"):
        if isinstance(result := part.get(name), Mapping):
            content = result.get("response", result.get("content"))
            if name == "toolResult":
                content = [_text_part(each) for each in _parts(content)]
            return {"type": "tool_result", "tool_use_id": _id(result), "name": result.get("name"), "content": content}
    thought = part.get("reasoningContent")
    if isinstance(thought, Mapping):
        text = thought.get("reasoningText")
        return {"type": "thinking", "thinking": text.get("text", "") if isinstance(text, Mapping) else ""}
    if part.get("thought") is True and isinstance(part.get("text"), str):
        return {"type": "thinking", "thinking": part["text"]}
    return part


def _is_cache_point(part: object) -> bool:
    """Whether a part says to Amazon's service only what to keep."""
    return isinstance(part, Mapping) and part.keys() == {"cachePoint"}


def _text_part(part: object) -> object:
    """A part of a tool's result, which may be JSON, as a part of text."""
    if not isinstance(part, Mapping) or "type" in part or not {"text", "json"} & part.keys():
        return part
    text = part["text"] if "text" in part else json.dumps(part["json"], ensure_ascii=False, default=str)
    return {"type": "text", "text": text}


def _id(block: Mapping[str, Any]) -> object:
    """What a call or its result is known by."""
    return block.get("toolUseId", block.get("id"))


def _parts(content: object) -> Sequence[Any]:
    """The parts of a content; none where it is a text or there is none."""
    return content if isinstance(content, list) else ()


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
            result |= {"name": block["name"]} if block.get("name") else {}
            yield from (each for each in messages_of(result) if isinstance(each, dict))
    said = [block if kind is None else block.get("refusal", "") for kind, block in blocks if kind in (None, "refusal")]
    # Some clients list the calls of the blocks a second time.
    calls = _parts(message.get("tool_calls")) or [_call(block) for kind, block in blocks if kind == "tool_use"]
    thoughts = [str(block.get("thinking", "")) for kind, block in blocks if kind == "thinking"]
    if said or calls or thoughts or not any(kind == "tool_result" for kind, _ in blocks):
        extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if thoughts:
            extra["reasoning_content"] = "".join(thoughts)
        yield {**message, **extra, "content": said or None}


def system_of(request: Mapping[str, Any]) -> object:
    """What a request says to the system beside its messages: a content, or None."""
    names = ("system", "instructions", "systemInstruction", "system_instruction")
    content = next((request[name] for name in names if name in request), None)
    content = content["parts"] if isinstance(content, Mapping) and "parts" in content else content
    return [content] if isinstance(content, Mapping) else content


def request_tools(request: Mapping[str, Any]) -> object:
    """The tools of a request, also where they are written as a text of JSON; None if it has none."""
    config = request.get("toolConfig")
    tools = request.get("tools", config.get("tools") if isinstance(config, Mapping) else None)
    if not isinstance(tools, str):
        return tools
    try:
        return parse_json(tools) if tools.strip() else None
    except ValueError:
        return tools


def tools_of(tools: object) -> object:
    """Tools as JSON schemas of functions, where they are written otherwise or are Python functions."""
    tools = listed(tools)
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        return tools
    declared = [tool for group in tools for tool in _declared(group)]
    return [_tool(tool) for tool in declared]


def _declared(group: object) -> Sequence[Any]:
    """The tools that one entry declares: Google's are groups of them."""
    if isinstance(group, Mapping):
        for name in ("functionDeclarations", "function_declarations"):
            if isinstance(group.get(name), list):
                return [{"type": "function", **tool} if isinstance(tool, Mapping) else tool for tool in group[name]]
        if isinstance(spec := group.get("toolSpec"), Mapping) and isinstance(spec.get("inputSchema"), Mapping):
            return [{**spec, "input_schema": spec["inputSchema"].get("json")}]
    return [group]


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
