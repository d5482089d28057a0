"""Messages, prefills and template arguments as people bring them."""

import json

import pytest

from jopa.errors import PromptError, SettingError
from jopa.prompt.building import build_prompt
from jopa.prompt.options import PromptOptions
from small_tokenizers import KINDS, small_tokenizer

THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
TOOLS = (
    "{% for t in tools or [] %}{{ 'tool ' + t['function']['name'] + '\n' }}{% endfor %}{% for m in messages %}"
    "{{ m['role'] + ': ' + (m['content'] or '') }}{% for c in m['tool_calls'] or [] %}"
    "{{ ' calls ' + c['function']['name'] }}{% endfor %}{{ '\n' }}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "{{ '\n' }}{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def text_of(tokenizer, prompt) -> str:
    return tokenizer.decode(prompt.ids)


def test_calls_of_tools_and_their_results_are_handed_on():
    tokenizer = small_tokenizer("byte-level", TOOLS)
    messages = [
        {"role": "user", "content": "is it cold"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4 degrees"},
        {"role": "user", "content": "a coat then"},
    ]
    prompt = build_prompt(tokenizer, messages, tools=[CALL])
    assert text_of(tokenizer, prompt) == (
        "tool weather\nuser: is it cold\nassistant:  calls weather\ntool: 4 degrees\nuser: a coat then\n"
    )
    assert "".join(unit.text for unit in prompt.units) == "a coat then"
    last = build_prompt(tokenizer, messages[:3])
    assert last.text == "is it cold"


def test_no_content_is_an_empty_one_where_a_template_needs_a_text():
    tokenizer = small_tokenizer("byte-level", "chatml")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    prompt = build_prompt(tokenizer, [*messages, {"role": "user", "content": "and"}])
    assert "<|im_start|>assistant\n<|im_end|>" in text_of(tokenizer, prompt)


@pytest.mark.parametrize("template", ["chatml", PARTS])
def test_parts_of_text_are_one_text(template):
    tokenizer = small_tokenizer("byte-level", template)
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": " world"}]
    prompt = build_prompt(tokenizer, [{"role": "user", "content": parts}])
    assert prompt.ids == build_prompt(tokenizer, "hello world").ids
    assert prompt.text == "hello world"


@pytest.mark.parametrize(
    ("written", "between"),
    [
        ("{% for p in m['content'] %}{{ ' ' + p['text'] }}{% endfor %}", " "),
        (
            "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
            "{{ m['content'] | join('\\n', 'text') }}{% endif %}",
            "\n",
        ),
        ("{{ m['content'] }}", ""),  # would print the list
        ("{{ m['content'] + '' }}", ""),
    ],
)
def test_several_parts_of_text_read_as_the_template_shows_them(written, between):
    source = "{% for m in messages %}[{{ m['role'] }}]" + written + "{% endfor %}"
    tokenizer = small_tokenizer("byte-level", source)
    parts = [{"type": "text", "text": text} for text in ("hello", "world")]
    chat = [{"role": "system", "content": parts}, {"role": "user", "content": parts}]
    prompt = build_prompt(tokenizer, chat, attribute="all", unit="message")
    assert [unit.text for unit in prompt.units] == [f"hello{between}world"] * 2
    shown = tokenizer.apply_chat_template(chat, tokenize=False) if between else "[system]helloworld[user]helloworld"
    assert prompt.rendered == shown


@pytest.mark.parametrize("written", ["{{ m['content'][:5] }}", "{{ m['content'][:5] | tojson }}"])
def test_parts_that_a_template_prints_as_a_list_are_no_way_to_show_a_text(written):
    tokenizer = small_tokenizer("byte-level", "{% for m in messages %}" + written + "{% endfor %}")
    with pytest.raises(PromptError, match="leaves the prompt out or rewrites it"):
        build_prompt(tokenizer, "hello there")
    with pytest.raises(PromptError, match="leaves the prompt out or rewrites it"):
        build_prompt(tokenizer, [{"role": "user", "content": "hello there"}])


def test_a_part_that_is_no_text_is_refused_by_name():
    with pytest.raises(PromptError, match="message 1 has a part of type 'image_url'; jopa explains text only"):
        build_prompt(
            small_tokenizer("byte-level", "chatml"), [{"role": "user", "content": [{"type": "image_url", "url": "x"}]}]
        )


def test_arguments_of_the_template_and_what_is_recorded():
    tokenizer = small_tokenizer("byte-level", THINKING)
    options = PromptOptions(template_args={"enable_thinking": False})
    assert text_of(tokenizer, build_prompt(tokenizer, "hi", options)).endswith("<think>\n\n</think>\n\n")
    assert text_of(tokenizer, build_prompt(tokenizer, "hi")).endswith("assistant\n")
    assert options.rendering == {"template_args": {"enable_thinking": False}}
    with pytest.raises(SettingError, match="'tokenize' is no argument of a chat template"):
        build_prompt(tokenizer, "hi", template_args={"tokenize": True})
    with pytest.raises(SettingError, match="cannot take template_args"):
        build_prompt(tokenizer, "hi", options, plain=True)


def test_a_prefill_that_opens_the_thoughts_is_not_doubled():
    tokenizer = small_tokenizer("byte-level", THINKING)
    prompt = build_prompt(tokenizer, "hi", prefill="<think>\nLet me")
    assert text_of(tokenizer, prompt).endswith("<|im_start|>assistant\n<think>\nLet me")
    usual = build_prompt(tokenizer, "hi", prefill="Sure")
    assert text_of(tokenizer, usual).endswith("assistant\n<think>\n\n</think>\n\nSure")


@pytest.mark.parametrize("unit", ["token", "word", "sentence", "line", "message"])
def test_a_template_may_leave_blanks_out(unit):
    """Falcon's makes one line break of two."""
    shown = r"m['content'].replace('\r\n', '\n').replace('\n\n', '\n')"
    template = f"{{% for m in messages %}}{{{{ 'User: ' + {shown} + '\n' }}}}{{% endfor %}}Falcon:"
    tokenizer = small_tokenizer("byte-level", template)
    text = " Hello there.\r\n\r\nHow are you?  Tell me.\n\n\nBye now.\n"
    prompt = build_prompt(tokenizer, text, unit=unit)
    assert text_of(tokenizer, prompt) == "User:  Hello there.\nHow are you?  Tell me.\n\nBye now.\n\nFalcon:"
    assert "".join(each.text for each in prompt.units) == text
    for each in prompt.units:
        own = tokenizer.decode([prompt.ids[position] for position in each.positions])
        assert own.split() == each.text.split() and own
    for rewriting in ("m['content'] | upper", "m['content'].replace(' ', '_')"):
        with pytest.raises(PromptError, match="rewrites it"):
            build_prompt(small_tokenizer("byte-level", template.replace(shown, rewriting)), text)


def test_a_prefill_that_closes_the_thoughts_is_not_doubled():
    """The template may leave the block empty, close it without opening it, or open it."""
    of_its_own = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}BEGUN{% endif %}"
    for template, begun in {
        THINKING: "assistant\n",
        of_its_own.replace("BEGUN", "A:<think>\n\n</think>\n\n"): "A:<think>\n\n",
        of_its_own.replace("BEGUN", "A:</think>"): "A:",
        of_its_own.replace("BEGUN", "A:<think>\n"): "A:<think>\n",
    }.items():
        tokenizer = small_tokenizer("byte-level", template)
        prompt = build_prompt(tokenizer, "hi", prefill="</think> It")
        assert text_of(tokenizer, prompt).endswith(f"{begun}</think> It")


@pytest.mark.parametrize("template", ["chatml", "llama-3", "gemma", None])
def test_prefills_keep_their_blanks_and_blank_ones_are_none(template):
    tokenizer = small_tokenizer("byte-level", template)
    for prefill in ("Sure ", " Sure", "Sure\n\n"):
        assert text_of(tokenizer, build_prompt(tokenizer, "hi", prefill=prefill)).endswith(prefill)
    assert build_prompt(tokenizer, "hi", prefill=" \n").ids == build_prompt(tokenizer, "hi").ids


def test_plain_text_for_a_base_model_with_a_chat_template():
    tokenizer = small_tokenizer("byte-level", "chatml")
    assert (
        build_prompt(tokenizer, "hi there", plain=True).ids
        == build_prompt(small_tokenizer("byte-level"), "hi there").ids
    )


def test_arguments_as_objects_for_a_template_that_wants_texts():
    """DeepSeek's writes the arguments of a call beside other text."""
    template = TOOLS.replace("c['function']['name']", "c['function']['name'] + ' with ' + c['function']['arguments']")
    tokenizer = small_tokenizer("byte-level", template)
    messages = [
        {"role": "user", "content": "is it cold"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4 degrees"},
    ]
    assert 'calls weather with {"city": "Oslo"}' in text_of(tokenizer, build_prompt(tokenizer, messages))


def test_the_refusal_names_the_message_that_a_template_does_not_show():
    """Not what the template says of a form of the messages that it does not take: here a content of None."""
    shown = "{% if m['role'] != 'tool' %}{{ m['role'] + ': ' + m['content'] }}{% endif %}"
    template = f"{{% for m in messages %}}{shown}{{% endfor %}}"
    tokenizer = small_tokenizer("byte-level", template)
    messages = [
        {"role": "user", "content": "is it cold"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4 degrees"},
    ]
    with pytest.raises(PromptError, match=r"leaves the message at place 2 \(of role 'tool'\) out .*attribute another"):
        build_prompt(tokenizer, messages, attribute="tools")


GEMMA_PARTS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
    "{% for part in m['content'] %}{{ part['text'] | trim }}{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
)
LLAMA_4_PARTS = GEMMA_PARTS.replace("m['content'] | trim", "m['content']")
FIRST_PART = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{{ m['content'][0]['text'] }}"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [GEMMA_PARTS, LLAMA_4_PARTS, FIRST_PART], ids=["gemma", "llama-4", "first"])
@pytest.mark.parametrize("texts", [("Hello doctor.\n", "  What is it? ", "Tell me."), ("  Hello doctor.\n",)])
def test_parts_are_shown_as_the_template_shows_a_list_of_them(template, texts):
    tokenizer = small_tokenizer("byte-level", template)
    given = [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]
    prompt = build_prompt(tokenizer, given, unit="word")
    rendered = str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True))
    assert prompt.rendered == rendered
    assert list(prompt.ids) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert "".join(unit.text for unit in prompt.units) == prompt.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["token", "word", "line"])
@pytest.mark.parametrize("text", ['{"t": 4, "of": "Oslo"}', "line one\nline two", '\n "é" \\ 😀\t', "\u2028 a"])
def test_a_result_that_the_template_writes_as_json_is_attributable(kind, unit, text):
    template = "{% for m in messages %}{{ m['role'] + ': ' }}{{ m['content'] | tojson }}{{ '\n' }}{% endfor %}"
    tokenizer = small_tokenizer(kind, template)
    chat = [{"role": "user", "content": "is it cold"}, {"role": "tool", "content": text}]
    prompt = build_prompt(tokenizer, chat, attribute="tools", unit=unit)
    assert prompt.text == text
    assert "".join(each.text for each in prompt.units) == text
    # A unit's tokens, and no others, show its characters: each is shown by its escape.
    offsets = tokenizer(prompt.rendered, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    begin = prompt.rendered.index("tool: ") + len('tool: "')
    for each in prompt.units:
        first, last = (begin + len(json.dumps(text[:end], ensure_ascii=False)) - 2 for end in (each.start, each.end))
        for position in each.positions:
            start, end = offsets[position]
            assert max(first, start) < min(last, end) or not prompt.rendered[start:end].strip()
    covered = [position for each in prompt.units for position in each.positions]
    assert len(covered) == len(set(covered))
