"""What stays in place is recorded with the prompt, as text and in reading order."""

import jopa
import tiny_models
from jopa.prompt.fixed_parts import FixedPart

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
