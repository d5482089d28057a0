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


THINKS = (
    "{% for m in messages %}{% set said = m['content'] or '' %}{% if '</think>' in said %}"
    "{% set said = said.split('</think>')[-1] %}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['reasoning_content'] and SHOWN %}{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ said }}{{ m['tool_calls'] | tojson if m['tool_calls'] else '' }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"
)


@pytest.mark.parametrize("shown", [True, False])
def test_reasoning_beside_a_text_is_listed(shown):
    tokenizer = small_tokenizer("byte-level", THINKS.replace("SHOWN", str(shown).lower()))
    chat = [CHAT[1], {**CHAT[2], "reasoning_content": "hm hm"}, CHAT[3], CHAT[4]]
    reasoning, calls = jopa.build_prompt(tokenizer, chat).fixed[1:3]
    assert reasoning == FixedPart("reasoning", "hm hm", shown)
    assert calls.kind == "assistant" and '"rain"' in calls.text and calls.shown
    begun = jopa.build_prompt(tokenizer, [CHAT[1], {**CHAT[5], "reasoning_content": "oh"}])
    assert begun.fixed == (FixedPart("reasoning", "oh", shown), FixedPart("prefill", "once upon"))


def test_a_trace_that_the_template_cuts_off_is_told_apart_from_the_answer():
    tokenizer = small_tokenizer("byte-level", THINKS.replace("SHOWN", "true"))
    answered = {"role": "assistant", "content": "<think>hm</think>\n\nYes."}
    expected = [FixedPart("reasoning", "<think>hm</think>", shown=False), FixedPart("assistant", "\n\nYes.")]
    for attribute in ("user", "all"):
        built = jopa.build_prompt(tokenizer, [CHAT[1], answered, CHAT[4]], attribute=attribute)
        assert [part for part in built.fixed if part.kind != "user"] == expected
    kept = small_tokenizer("byte-level", "chatml")
    built = jopa.build_prompt(kept, [CHAT[1], answered, CHAT[4]])
    assert built.fixed[1] == FixedPart("assistant", answered["content"])


def test_what_an_attributable_message_has_beside_its_text_stays():
    tokenizer = small_tokenizer("byte-level", THINKS.replace("SHOWN", "true"))
    chat = [CHAT[1], {**CHAT[2], "content": "Let me look.", "reasoning_content": "hm hm"}, CHAT[3], CHAT[4]]
    built = jopa.build_prompt(tokenizer, chat, attribute="all", unit="word")
    assert [part.kind for part in built.fixed] == ["reasoning", "assistant"]
    assert '"rain"' in built.fixed[1].text and "Let me look." not in built.fixed[1].text
    whole = jopa.build_prompt(tokenizer, chat, attribute="all", unit="message")
    assert whole.sources[1].removed_with == "frame" and whole.fixed == ()
