"""Messages and template arguments as clients of chat APIs write them."""

import pytest

import jopa
from jopa.prompt.building import build_prompt
from jopa.prompt.options import PromptOptions
from small_tokenizers import small_tokenizer

ARGUMENTS = '{"city": "Oslo", "days": 2}'
USER = {"role": "user", "content": "a coat then"}
MESSAGES = [
    USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4 degrees"},
    USER,
]


def template(arguments):
    return (
        "{% for m in messages %}{{ m['role'] + ': ' + (m['content'] or '') }}{% for c in m['tool_calls'] or [] %}"
        "{% set a = c['function']['arguments'] %}" + arguments + "{% endfor %}{{ '\n' }}{% endfor %}"
    )


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("{{ a | tojson }}", ARGUMENTS),  # as most templates do; a text would be encoded twice
        ("{% for name, value in a.items() %}{{ name }}={{ value }} {% endfor %}", "city=Oslo days=2"),
        ("{% if a is string %}{{ a }}{% else %}{{ a | tojson }}{% endif %}", ARGUMENTS),
        ("{{ 'call ' + a }}", "call " + ARGUMENTS),  # takes a text only
        ("{% if a is string %}{{ a | tojson }}{% else %}{{ a.lower() }}{% endif %}", '"{\\"city\\"'),  # texts only, too
    ],
)
def test_arguments_of_a_call_in_the_form_that_the_template_takes(arguments, shown):
    tokenizer = small_tokenizer("byte-level", template(arguments))
    prompt = build_prompt(tokenizer, MESSAGES)
    assert shown in tokenizer.decode(list(prompt.ids))
    assert prompt.text == "a coat then"


def test_arguments_that_are_no_object_stay_as_they_are():
    tokenizer = small_tokenizer("byte-level", template("{{ a | tojson }}"))
    call = {"type": "function", "function": {"name": "weather", "arguments": "Oslo"}}
    prompt = build_prompt(tokenizer, [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER])
    assert '"Oslo"' in tokenizer.decode(list(prompt.ids))


@pytest.mark.parametrize("kind", ["input_text", "output_text"])
def test_text_parts_of_the_newer_chat_api(kind):
    tokenizer = small_tokenizer("byte-level", "chatml")
    parts = [{"type": kind, "text": "hello"}, {"type": "text", "text": " world"}]
    assert build_prompt(tokenizer, [{"role": "user", "content": parts}]).text == "hello world"


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"x", [float("inf")]])
def test_what_a_result_cannot_record_is_refused_before_any_work(value):
    with pytest.raises(jopa.SettingError, match="template_args must be values of JSON"):
        PromptOptions(template_args={"x": value})
    with pytest.raises(jopa.SettingError, match="tools must be values of JSON"):
        PromptOptions(tools=[{"name": value}])


def test_values_of_json_are_taken():
    assert PromptOptions(template_args={"x": [1, 2.5, None, {"a": ("b", True)}]}).rendering
