"""Messages, tools and documents as other chat APIs, data sets and tables have them."""

import math
from types import SimpleNamespace

import pytest

import jopa
from chat_families import FAMILIES
from jopa.prompt.messages import chat_of, conversation
from jopa.prompt.options import PromptOptions
from prompt_cases import assistant, build_prompt, system, user
from small_tokenizers import small_tokenizer

CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": {"q": "x"}}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "4 degrees"}
FIND = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


class Row:
    """A row of a table, or a message of a client."""

    def __init__(self, **fields):
        self.fields = fields

    def to_dict(self):
        return self.fields


class Table:
    """What of a data frame counts."""

    columns = ("id", "text")

    def __init__(self, *rows):
        self.rows = rows

    def to_dict(self, orient):
        assert orient == "records"
        return list(self.rows)


def result(content):
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": content}]}


def items(*extra):
    return [{"type": "function_call", "call_id": "1", "name": "find", "arguments": '{"q": "x"}'}, *extra]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ([user("a"), {"role": "assistant", "content": None}], assistant("")),
        ([user("a"), {"role": "assistant", "content": None, "refusal": "No."}], assistant("No.")),
        ([user("a"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}], assistant("No.")),
        ([user("a"), {"role": "tool", "content": {"t": 4}}], {"role": "tool", "content": '{"t": 4}'}),
        ([user("a"), {"role": "tool", "content": [{"t": 4}, 5]}], {"role": "tool", "content": '[{"t": 4}, 5]'}),
        ([user("a"), {"role": "tool", "content": 4}], {"role": "tool", "content": "4"}),
        ([user("a"), {"role": "tool", "content": None}], {"role": "tool", "content": ""}),
        ([user("a"), {"from": "gpt", "value": "said"}], assistant("said")),
        ([{"from": "prompter", "value": "a"}, {"from": "chatgpt", "value": "said"}], assistant("said")),
        ([{"parts": [{"text": "a"}]}, {"role": "model", "parts": {"text": "said"}}], assistant("said")),
        ([user("a"), {**assistant("said"), "tool_calls": []}], assistant("said")),
        ([user("a"), {"type": "ai", "content": "said", "tool_calls": [], "invalid_tool_calls": []}], assistant("said")),
        (
            [user("a"), {"role": "assistant", "content": [{"text": "said"}, {"cachePoint": {"type": "default"}}]}],
            assistant("said"),
        ),
        ([user("a"), {"role": "model", "parts": [{"text": "sa"}, {"text": "id"}]}], assistant("said")),
        ([user("a"), Row(role="assistant", content="said", refusal=None)], assistant("said")),
        ([user("a"), {"role": "assistant", "content": {"type": "text", "text": "said"}}], assistant("said")),
        (
            [user("a"), {"role": "assistant", "content": [{"type": "text", "text": {"value": "said"}}, {"text": ""}]}],
            assistant("said"),
        ),
    ],
)
def test_a_message_in_another_form_reads_as_the_plain_one(given, plain):
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    expected = build_prompt(tokenizer, [user("a"), plain, user("b c")])
    assert build_prompt(tokenizer, [*given, user("b c")]) == expected


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "find", "input": {"q": "x"}}]}],
        items(),
        [{"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": '{"q": "x"}'}}],
        [{"role": "model", "parts": [{"functionCall": {"id": "1", "name": "find", "args": {"q": "x"}}}]}],
        [{"role": "model", "parts": [{"function_call": {"name": "find", "args": {"q": "x"}}}]}],
        [{"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "find", "input": {"q": "x"}}}]}],
        [{"type": "ai", "content": "", "tool_calls": [{"name": "find", "args": {"q": "x"}, "id": "1"}]}],
        [{"type": "ai", "data": {"content": "", "tool_calls": [{"name": "find", "args": {"q": "x"}, "id": "1"}]}}],
        [{"from": "function_call", "value": '{"name": "find", "arguments": {"q": "x"}}'}],
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        result("4 degrees"),
        result([{"type": "text", "text": "4 degrees"}]),
        {"type": "function_call_output", "call_id": "1", "output": "4 degrees"},
        {"role": "function", "name": "find", "content": "4 degrees"},
        {"role": "user", "parts": [{"functionResponse": {"name": "find", "response": "4 degrees"}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "4 degrees"}]}}]},
        {"type": "tool", "content": "4 degrees", "tool_call_id": "1"},
        {"from": "observation", "value": "4 degrees"},
    ],
)
def test_calls_and_results_of_other_apis(given, answer):
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    expected = build_prompt(tokenizer, [user("a"), CALLED, RESULT, user("b c")], attribute="all", unit="message")
    found = build_prompt(tokenizer, [user("a"), *given, answer, user("b c")], attribute="all", unit="message")
    assert found.ids == expected.ids
    assert [source.role for source in found.sources] == ["user", "tool", "user"]


def test_results_in_json_are_its_text():
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    expected = build_prompt(tokenizer, [user("a"), CALLED, {**RESULT, "content": '{"t": 4}'}, user("b c")])
    for block in (
        {"toolResult": {"toolUseId": "1", "content": [{"json": {"t": 4}}]}},
        {"functionResponse": {"name": "find", "response": {"t": 4}}},
    ):
        answered = {"role": "user", "content": [block]}
        assert build_prompt(tokenizer, [user("a"), CALLED, answered, user("b c")]).ids == expected.ids


@pytest.mark.parametrize(
    "said",
    [
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, assistant("said")],
        [{"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "said"}]}],
        [{"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "said"}]}],
    ],
)
def test_thoughts_are_no_part_of_what_is_said(said):
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    expected = build_prompt(tokenizer, [user("a"), {**assistant("said"), "reasoning_content": "hm"}, user("b c")])
    assert build_prompt(tokenizer, [user("a"), *said, user("b c")]).ids == expected.ids
    messages = conversation([user("a"), *said, user("b c")], PromptOptions()).messages
    assert [each.get("reasoning_content") for each in messages] == [None, "hm", None]


def test_calls_that_a_client_lists_twice_are_made_once():
    block = {"type": "tool_use", "id": "1", "name": "find", "input": {"q": "x"}}
    listed = {"type": "ai", "content": [block], "tool_calls": [{"name": "find", "args": {"q": "x"}, "id": "1"}]}
    messages = conversation([user("a"), listed, RESULT, user("b c")], PromptOptions()).messages
    assert messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize("text", ["find x", '{"name": 4}', "[" * 3000], ids=["no JSON", "no call", "deep"])
def test_a_call_that_is_no_json_is_what_was_said(text):
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    expected = build_prompt(tokenizer, [user("a"), assistant(text), user("b c")])
    given = {"from": "function_call", "value": text}
    assert build_prompt(tokenizer, [user("a"), given, user("b c")]) == expected


def test_results_stand_before_what_the_user_says_and_calls_in_one_message():
    tokenizer = small_tokenizer("byte-level", FAMILIES["hermes"])
    both = {"role": "user", "content": [*result("4 degrees")["content"], {"type": "text", "text": "b c"}]}
    twice = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}
    expected = build_prompt(tokenizer, [user("a"), twice, RESULT, user("b c")])
    assert build_prompt(tokenizer, [user("a"), *items(), *items(), both]).ids == expected.ids
    thoughts = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "said"}]
    said = build_prompt(tokenizer, [user("a"), {"role": "assistant", "content": thoughts}, user("b c")])
    assert said.ids == build_prompt(tokenizer, [user("a"), assistant("said"), user("b c")]).ids
    assert [(part.kind, part.shown) for part in said.fixed] == [
        ("user", True),
        ("reasoning", False),
        ("assistant", True),
    ]


@pytest.mark.parametrize(
    ("request_of_api", "messages"),
    [
        ({"messages": [user("a")], "system": "Be kind."}, [system("Be kind."), user("a")]),
        ({"input": "a", "instructions": "Be kind."}, [system("Be kind."), user("a")]),
        ({"input": [user("a")]}, [user("a")]),
        ({"conversations": [user("a")]}, [user("a")]),
        (
            {"contents": [user("a")], "systemInstruction": {"parts": [{"text": "Be kind."}]}},
            [{"role": "system", "content": [{"text": "Be kind."}]}, user("a")],
        ),
        (
            {"messages": [user("a")], "system": [{"text": "Be kind."}]},
            [{"role": "system", "content": [{"text": "Be kind."}]}, user("a")],
        ),
    ],
)
def test_whole_requests(request_of_api, messages):
    """What an API has beside the messages is not left out without a word."""
    assert chat_of(request_of_api) == (messages, None)


def test_tools_of_other_apis_and_functions():
    schema = FIND["function"]["parameters"]

    def find() -> str:
        """Find it."""
        return ""

    for tool in (
        FIND,
        {"name": "find", "input_schema": schema},
        {"functionDeclarations": [{"name": "find", "parameters": schema}]},
        {"toolSpec": {"name": "find", "inputSchema": {"json": schema}}},
        {"type": "function", "name": "find", **{"parameters": schema}},
    ):
        assert PromptOptions(tools=[tool]).tools == [FIND]
    found = PromptOptions(tools=[find]).tools
    assert found and found[0]["function"]["name"] == "find"
    with pytest.raises(jopa.SettingError, match="tools must be values of JSON"):
        PromptOptions(tools=[len])


@pytest.mark.parametrize(
    "given",
    [
        [{"content": "A doc", "doc_id": 7}],
        [{"page_content": "A doc", "id": "7", "metadata": {}}],
        [SimpleNamespace(page_content="A doc", id="7", metadata={"source": "x"})],
        [{"text": "A doc", "id": 7.0, "title": math.nan}],
        [Row(text="A doc", id=7)],
        Table({"text": "A doc", "id": 7}),
    ],
)
def test_documents_under_other_names_and_in_tables(given):
    tokenizer = small_tokenizer("byte-level", "chatml")
    expected = build_prompt(tokenizer, "What is it?", documents=[{"id": "7", "text": "A doc"}])
    assert build_prompt(tokenizer, "What is it?", documents=given) == expected


def test_documents_as_paths(tmp_path):
    (tmp_path / "one.txt").write_text("A doc\n", "utf-8")
    tokenizer = small_tokenizer("byte-level", "chatml")
    expected = build_prompt(tokenizer, "What is it?", documents=[{"id": "one.txt", "text": "A doc"}])
    assert build_prompt(tokenizer, "What is it?", documents=tmp_path) == expected
    assert build_prompt(tokenizer, "What is it?", documents=[tmp_path / "one.txt"]) == expected
    with pytest.raises(jopa.InputFileError, match="cannot read"):
        build_prompt(tokenizer, "What is it?", documents=[tmp_path / "none.txt"])


def test_an_array_of_spans_is_refused_with_what_to_give():
    np = pytest.importorskip("numpy")
    with pytest.raises(jopa.SettingError, match="a unit is one of"):
        build_prompt(small_tokenizer("byte-level"), "What is it?", unit=np.array([[0, 4], [5, 7]]))


def test_half_a_character_as_an_output_is_refused():
    from jopa.prompt.continuation import encode_continuation

    with pytest.raises(jopa.PromptError, match="half a surrogate pair"):
        encode_continuation(small_tokenizer("byte-level"), "once \ud83d")


def test_items_of_one_turn_are_one_message():
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]}
    thoughts = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]} for text in ("hm", "aha")]
    given = [user("a"), *thoughts, said, *items(), RESULT, user("b c")]
    messages = conversation(given, PromptOptions()).messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    turn = messages[1]
    assert (turn["content"], turn["reasoning_content"]) == ("Let me look.", "hm\naha")
    assert [call["function"]["name"] for call in turn["tool_calls"]] == ["find"]


def test_two_texts_of_the_assistant_stay_two_messages():
    given = [user("a"), assistant("one"), assistant("two"), *items(), RESULT, user("b c")]
    messages = conversation(given, PromptOptions()).messages
    assert [message["content"] for message in messages] == ["a", "one", "two", "4 degrees", "b c"]


@pytest.mark.parametrize(
    "request_",
    [
        {"contents": [{"parts": [{"text": "a"}]}], "system_instruction": {"parts": {"text": "s"}}},
        {"contents": {"parts": {"text": "a"}}, "systemInstruction": {"parts": [{"text": "s"}]}},
    ],
)
def test_google_s_requests_as_its_examples_write_them(request_):
    messages, tools = chat_of(request_)
    found = conversation(messages, PromptOptions()).messages
    assert [(each["role"], each["content"]) for each in found] == [("system", "s"), ("user", "a")]
    assert tools is None


def test_tools_written_as_a_text_of_json():
    chat = {"conversations": [{"from": "human", "value": "a"}], "tools": '[{"name": "find"}]'}
    assert chat_of(chat)[1] == [{"name": "find"}]
    assert chat_of({**chat, "tools": ""})[1] is None
    with pytest.raises(jopa.PromptError, match='"tools" must be a list'):
        chat_of({**chat, "tools": "find"})
