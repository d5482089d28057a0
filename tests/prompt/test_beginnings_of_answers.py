"""A last message of the assistant, and prefills, in templates that show reasoning before an answer."""

import pytest

from jopa.errors import PromptError
from prompt_cases import assistant, build_prompt, user
from small_tokenizers import small_tokenizer

QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (m['reasoning_content'] or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% if m['thinking'] %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m['thinking'] + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|end|>' }}{% else %}"
    "{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
OPENED = HARMONY.replace("'<|start|>assistant' }}", "'<|start|>assistant<|channel|>analysis<|message|>' }}")
"""The generation prompt opens the reasoning."""
CALL = {"type": "function", "function": {"name": "find", "arguments": {}}}


@pytest.mark.parametrize(
    ("template", "field", "shown"),
    [
        (QWEN, "reasoning_content", "<think>\nhm hm\n</think>\n\nIt is"),
        (
            HARMONY,
            "thinking",
            "<|channel|>analysis<|message|>hm hm<|end|><|start|>assistant<|channel|>final<|message|>It is",
        ),
    ],
)
def test_the_reasoning_of_a_last_message_stands_before_its_text(template, field, shown):
    tokenizer = small_tokenizer("byte-level", template)
    last = {**assistant("It is"), field: "hm hm"}
    prompt = build_prompt(tokenizer, [user("What?"), last])
    assert prompt.rendered.endswith(shown)
    # It is what the template itself writes, without the mark that ends the answer.
    whole = str(tokenizer.apply_chat_template([user("What?"), last], tokenize=False))
    assert whole.startswith(prompt.rendered)


def test_reasoning_in_blocks_of_another_api_stands_there_too():
    blocks = [{"type": "thinking", "thinking": "hm hm"}, {"type": "text", "text": "It is"}]
    prompt = build_prompt(
        small_tokenizer("byte-level", QWEN), [user("What?"), {"role": "assistant", "content": blocks}]
    )
    assert prompt.rendered.endswith("<think>\nhm hm\n</think>\n\nIt is")


@pytest.mark.parametrize("text", ["Let me look.", "", None])
def test_no_answer_follows_calls_of_tools(text):
    last = {**assistant(text), "tool_calls": [CALL]}
    with pytest.raises(PromptError, match="the last message is the assistant's and calls tools; end with"):
        build_prompt(small_tokenizer("byte-level", QWEN), [user("What?"), last])


def test_reasoning_without_a_text_is_no_beginning():
    last = {**assistant(""), "reasoning_content": "hm"}
    with pytest.raises(PromptError, match="has reasoning alone; give its text, too"):
        build_prompt(small_tokenizer("byte-level", QWEN), [user("What?"), last])


@pytest.mark.parametrize("template", [HARMONY, OPENED])
@pytest.mark.parametrize("as_message", [False, True])
def test_a_beginning_that_opens_the_reasoning_stands_before_the_mark_of_an_answer(template, as_message):
    tokenizer = small_tokenizer("byte-level", template)
    opening = "<|channel|>analysis<|message|>Let me"
    if as_message:
        prompt = build_prompt(tokenizer, [user("What?"), assistant(opening)])
    else:
        prompt = build_prompt(tokenizer, "What?", prefill=opening)
    assert prompt.rendered == f"<|start|>user<|message|>What?<|end|><|start|>assistant{opening}"
