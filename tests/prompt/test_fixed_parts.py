"""What stays in place is recorded with the prompt, as text and in reading order."""

import pytest

import jopa
import tiny_models
from jopa.prompt.fixed_parts import FixedPart
from jopa.reports.in_place import in_place_of
from small_tokenizers import small_tokenizer

CHAT = [
    {"role": "system", "content": "please tell me"},
    {"role": "user", "content": "write a story"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": {"of": "rain"}}}]},
    {"role": "tool", "content": "green birds"},
    {"role": "user", "content": "what you think of rain"},
    {"role": "assistant", "content": "once upon"},
]
TOOLS = [{"type": "function", "function": {"name": "find"}}]


def test_every_fixed_part_is_kept_in_reading_order():
    built = jopa.build_prompt(tiny_models.tokenizer(True), CHAT, prefix="tell me", tools=TOOLS)
    tools, system, user, calls, tool, prefix, prefill = built.fixed
    assert (system, user) == (FixedPart("system", "please tell me"), FixedPart("user", "write a story"))
    assert tools.kind == "tools" and '"find"' in tools.text
    assert calls.kind == "assistant" and '"rain"' in calls.text
    assert tool == FixedPart("tool", "green birds")
    assert (prefix.kind, prefix.text.strip()) == ("prefix", "tell me")
    assert prefill == FixedPart("prefill", "once upon")
    assert built.text not in [part.text for part in built.fixed]


def test_the_whole_input_is_kept_as_text():
    built = jopa.build_prompt(tiny_models.tokenizer(True), "write a story", system="tell me")
    assert built.rendered == "<s><|system|> tell me </s><|user|> write a story <|assistant|>"


def test_a_plain_text_has_its_prefix_and_prefill():
    built = jopa.build_prompt(tiny_models.tokenizer(False), "write a story", prefix="tell me", prefill=" once")
    assert [part.kind for part in built.fixed] == ["prefix", "prefill"]
    assert jopa.build_prompt(tiny_models.tokenizer(False), "write a story").fixed == ()


@pytest.mark.parametrize("shows", [(), ("tools",), ("calls",), ("result",), ("tools", "calls", "result")])
def test_what_the_template_leaves_out_is_marked(shows):
    template = (
        ("{{ tools | tojson if tools else '' }}" if "tools" in shows else "")
        + "{% for m in messages %}{% if m['role'] != 'tool'"
        + (" or true" if "result" in shows else "")
        + " %}{{ m['role'] + ': ' + (m['content'] or '') }}{% endif %}"
        + ("{{ m['tool_calls'] | tojson if m['tool_calls'] else '' }}" if "calls" in shows else "")
        + "{% endfor %}"
    )
    built = jopa.build_prompt(small_tokenizer("byte-level", template), CHAT, tools=TOOLS)
    found = {part.kind: part.shown for part in built.fixed if part.kind in ("tools", "assistant", "tool")}
    assert found == {"tools": "tools" in shows, "assistant": "calls" in shows, "tool": "result" in shows}
    assert all(part.shown for part in built.fixed if part.kind in ("system", "user", "prefill"))
    titles = [title for title, _ in in_place_of(built).parts]
    assert sum(title.startswith("Not read: ") for title in titles) == 3 - len(shows)


def test_a_text_and_its_calls_are_told_apart_where_one_of_them_is_left_out():
    template = "{% for m in messages %}{{ m['role'] + ': ' + (m['content'] or '') }}{% endfor %}"
    chat = [CHAT[1], {**CHAT[2], "content": "Let me look."}, *CHAT[3:]]
    built = jopa.build_prompt(small_tokenizer("byte-level", template), chat)
    said, called = [part for part in built.fixed if part.kind == "assistant"]
    assert (said.text, said.shown) == ("Let me look.", True)
    assert '"rain"' in called.text and not called.shown
