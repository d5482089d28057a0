"""Conversations and documents as the page takes them, and what their requests give."""

import json
from dataclasses import replace

import pytest

import jopa
from jopa.errors import InputFileError
from jopa.prompt.options import PromptOptions
from jopa.web.limits import RequestLimits
from jopa.web.requests import read_request
from jopa.web.results import pieces_of, shown_again
from jopa.web.work import run_request

LIMITS = RequestLimits(characters=900, max_new_tokens=12, k=4, budget=30, seconds=60, turns=12, documents=20)
PROMPT = "tell me about green birds"
TURNS = [
    {"role": "user", "content": "write a story about rain"},
    {"role": "assistant", "content": "once upon a time there was rain"},
    {"role": "tool", "content": "two people met that day"},
]
DOCUMENTS = [{"text": "green birds met", "id": "a", "title": "birds"}, {"text": "the doctor said", "id": "b"}]
CHAT = {"prompt": PROMPT, "system": "think of the patient", "turns": TURNS, "documents": DOCUMENTS}


def read(record, limits=LIMITS, options=None):
    return read_request({"max_new_tokens": 6, **record}, limits, 40, options)


def events_of(llama, record, limits=LIMITS, options=None):
    events = []
    run_request(llama, read(record, limits, options), events.append, limits)
    return json.loads(json.dumps(events))


def headings(events):
    return [piece["heading"] for piece in events[0]["pieces"] if "heading" in piece]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " ", "turns": [{"role": "tool", "content": "x"}]}, "the prompt is empty"),
        ({"prompt": "a", "turns": {"role": "user"}}, "turns must be a list of"),
        ({"prompt": "a", "turns": [{"role": "root", "content": "x"}]}, "each of role user, assistant, tool"),
        ({"prompt": "a", "turns": [{"role": "user", "content": None}]}, "turns must be a list of"),
        ({"prompt": "a", "turns": [{"role": "user", "content": "x", "path": "/etc/passwd"}]}, "turns must be"),
        ({"prompt": "a", "turns": TURNS * 5}, "has 15 turns and this page takes at most 12"),
        ({"prompt": "a", "system": ["x"]}, "the system message must be a text"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, "messages must be the text of a JSON list"),
        ({"prompt": "", "messages": "  "}, "the prompt is empty"),
        ({"prompt": "a", "messages": "[{"}, "the pasted conversation is no JSON: Expecting property name"),
        ({"prompt": "a", "messages": "[NaN]"}, "the pasted conversation is no JSON"),
        ({"prompt": "a", "messages": "7"}, "cannot be used: chat messages are a JSON list"),
        ({"prompt": "a", "messages": '{"messages": [], "tools": "find"}'}, '"tools" must be a list of JSON schemas'),
        ({"prompt": "a", "messages": json.dumps(TURNS), "turns": TURNS}, "messages take the place of"),
        ({"prompt": "a", "messages": json.dumps(TURNS[:1] * 13)}, "has 13 messages and this page takes at most 12"),
        ({"prompt": "a", "messages": "[" + " " * 900 + "]"}, r"conversation and documents have 903 characters"),
        ({"prompt": "a", "documents": "x"}, "documents must be a list of"),
        ({"prompt": "a", "documents": [{"path": "/etc/passwd"}]}, "documents must be a list of"),
        ({"prompt": "a", "documents": [{"text": " "}]}, "document 1 is empty"),
        ({"prompt": "a", "documents": [{"text": "b", "id": "1"}, {"text": "c", "id": "1"}]}, "two documents have the"),
        ({"prompt": "a", "documents": [{"text": "b"}] * 21}, "there are 21 documents and this page takes at most 20"),
        ({"prompt": "a", "documents": [{"text": "b" * 900}]}, r"documents have 901 characters and .* at most 900"),
        ({"prompt": "a", "attribute": "chat_template"}, "attribute must be one of user, users"),
        ({"prompt": "a", "until_pr": 1.5}, "until_pr must be above 0"),
        ({"prompt": "a", "until_pr": True}, "until_pr must be above 0"),
        ({"prompt": "a", "task": "format the disk"}, "task must be one of explain, diagnose, cite"),
        ({"prompt": "a", "requests": ["1"]}, "requests must be a list of whole numbers"),
        ({"prompt": "a", "first": {"path": "/etc/passwd"}}, "first must be the text of a result's JSON"),
        ({"prompt": "a", "first": "{}"}, "schema must be 1"),
        ({"prompt": "a", "template_args": {"chat_template": "x"}}, "no field 'template_args'"),
    ],
)
def test_what_is_no_conversation_is_refused_in_a_line(record, message):
    with pytest.raises(jopa.JopaError, match=message):
        read(record)


def test_a_conversation_may_end_with_its_turns():
    messages = read({**CHAT, "prompt": " "}).prompt
    assert not isinstance(messages, str)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    alone = read({"prompt": PROMPT, "system": "  ", "turns": [{"role": "user", "content": " "}]})
    assert (alone.prompt, alone.options.system) == (PROMPT, None)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (None, ["Document a: birds", "Document b"]),
        ("user", []),
        ("users", ["User", "User"]),
        ("system", []),
        ("tools", []),
        ("all", ["System message", "User", "Assistant", "Tool result", "Document a: birds", "Document b", "User"]),
    ],
)
def test_what_is_explained_is_what_is_asked_for(llama, attribute, expected):
    events = events_of(llama, {**CHAT, "attribute": attribute, "k": 1, "unit": "word", "budget": 20})
    assert headings(events) == expected
    options = PromptOptions(documents=DOCUMENTS, attribute=attribute)
    messages = [{"role": "system", "content": CHAT["system"]}, *TURNS, {"role": "user", "content": PROMPT}]
    a = jopa.explain(messages, k=1, model=llama, unit="word", output=jopa.Generation(6), options=options)
    result = events[-1]["results"][0]
    assert [unit.text for unit in a.units] == [piece["text"] for piece in events[0]["pieces"] if "unit" in piece]
    assert result["removed"] == list(a.removed)
    assert "What stayed in place" in result["parts"]["in_place"]


CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": {"what": "doctor"}}}
CALLING = {
    "messages": [
        {"role": "user", "content": "tell me about the doctor"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "the doctor met birds"},
    ],
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}],
}


def test_a_pasted_conversation_is_read_as_the_command_reads_it(llama):
    text = json.dumps(CALLING)
    events = events_of(llama, {"prompt": PROMPT, "messages": text, "attribute": "tools", "unit": "word", "k": 1})
    found = jopa.Attribution.from_json(events[-1]["json"])
    messages = [*CALLING["messages"], {"role": "user", "content": PROMPT}]
    options = PromptOptions(attribute="tools", tools=CALLING["tools"])
    built = jopa.build_prompt(llama.tokenizer, messages, options, unit="word")
    assert (found.input_ids, found.units) == (built.ids, built.units)
    assert found.prompt == "the doctor met birds"
    assert (found.details or {})["rendering"]["tools"] == CALLING["tools"]
    kinds = [part.kind for part in found.fixed]
    assert kinds == ["tools", "user", "assistant", "user"] and "find" in found.fixed[2].text
    alone = read({"messages": json.dumps(CALLING["messages"][:1])})
    assert alone.prompt == tuple(CALLING["messages"][:1])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "there are no messages"),
        ([{"role": "user", "content": None}], "message 1 is not of the form"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "part of type 'image_url'"),
        ([{"role": "tool", "content": "4 degrees"}], "no message is of role 'user'"),
        (CALLING["messages"][:2], "the last message is the assistant's and calls tools"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "\ud800"}, TURNS[0]], "half a surrogate"),
    ],
)
def test_a_pasted_conversation_that_says_nothing_is_refused_in_a_line(llama, messages, said):
    with pytest.raises(jopa.PromptError, match=said) as refused:
        events_of(llama, {"messages": json.dumps(messages)})
    assert "\n" not in str(refused.value)


def test_whole_documents_are_units(llama):
    events = events_of(llama, {"prompt": PROMPT, "documents": DOCUMENTS, "unit": "document", "k": 1})
    assert len([piece for piece in events[0]["pieces"] if "unit" in piece]) == 2
    assert headings(events) == ["Document a: birds", "Document b"]


def test_the_smallest_set_that_suffices(llama):
    a = jopa.Attribution.from_json(events_of(llama, {"prompt": PROMPT, "until_pr": 0.9, "unit": "word"})[-1]["json"])
    assert (a.details or {})["until_pr"]["pr"] == 0.9


def test_a_diagnosis_with_requests_that_the_visitor_marks(llama):
    record = {"prompt": "write a story. tell me about birds", "task": "diagnose", "unit": "sentence"}
    events = events_of(llama, record)
    kinds = [event["kind"] for event in events]
    assert (kinds[0], kinds[-2:]) == ("prompt", ["answer", "result"])
    assert "How does each request influence the answer?" in events[-1]["report"]
    marked = events_of(llama, {**record, "requests": [0], "output_ids": events[-2]["ids"]})[-1]
    d = jopa.Diagnosis.from_json(marked["json"])
    assert (d.requests, d.requests_given, d.output_ids) == ((0,), True, tuple(events[-2]["ids"]))
    assert d.cut_off  # the answer that the browser sent along has as many tokens as it may have
    with pytest.raises(jopa.SettingError, match="requests must name some of"):
        events_of(llama, {**record, "requests": [7]})


def test_the_sources_of_each_sentence(llama):
    record = {**CHAT, "task": "cite", "until_pr": 0.99}
    events = events_of(llama, record)
    assert events[-1]["task"] == "cite"
    c = jopa.Citations.from_json(events[-1]["json"])
    assert (c.below, [source.document for source in c.documents]) == (0.99, ["a", "b"])
    with pytest.raises(jopa.SettingError, match="citations are of documents, and there are none"):
        events_of(llama, {"prompt": PROMPT, "task": "cite"})


def test_two_prompts_side_by_side(llama):
    first = events_of(llama, {"prompt": "write a story about rain", "k": 1})[-1]["json"]
    event = events_of(llama, {"prompt": PROMPT, "k": 1, "first": first})[-1]
    assert "Two prompts" in event["prompts"]
    both = jopa.PromptComparison.from_json(event["json"])
    assert (both.first.prompt, both.second.prompt) == ("write a story about rain", PROMPT)
    with pytest.raises(jopa.SettingError, match="one explanation by one method"):
        read({"prompt": PROMPT, "first": first, "methods": ["joint", "greedy"]})


def test_a_long_input_is_refused_or_gets_the_method_for_it(llama, monkeypatch):
    with pytest.raises(jopa.SettingError, match=r"have up to \d+ tokens, and this page takes at most 10: shorten"):
        events_of(llama, {"prompt": PROMPT}, replace(LIMITS, tokens=10))
    monkeypatch.setattr("jopa.explanation.planning.LONG_METHOD_TOKENS", 5)
    events = events_of(llama, {"prompt": PROMPT, "k": 1, "budget": 9})
    assert events[0]["methods"] == ["proxy-search"]
    a = jopa.Attribution.from_json(events[-1]["json"])
    assert a.method["budget"] == 9
    assert "5 or more" in (a.details or {})["method_by_default"]


def test_the_page_may_take_prompts_as_plain_text(llama):
    plain = events_of(llama, {"prompt": PROMPT, "k": 1}, options=PromptOptions(plain=True))[-1]
    a = jopa.Attribution.from_json(plain["json"])
    assert (a.details or {})["rendering"] == {"plain": True}
    assert a.rendered.strip() == PROMPT


# --- results that a visitor kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {**CHAT, "k": 1, "unit": "word", "attribute": "all"},
        {"prompt": PROMPT, "k": 1, "methods": ["greedy", "ablation"]},
        {"prompt": PROMPT, "task": "diagnose"},
        {"prompt": PROMPT, "documents": DOCUMENTS, "task": "cite"},
    ],
    ids=["chat", "two methods", "diagnosis", "citations"],
)
def test_a_kept_result_is_shown_as_it_was(llama, record):
    events = [event for event in events_of(llama, record) if event["kind"] in {"prompt", "answer", "result"}]
    again = json.loads(json.dumps(shown_again(events[-1]["json"], llama, LIMITS)))
    assert [event["pieces"] for event in (events[0], again[0])] == [events[0]["pieces"]] * 2
    assert again[1:] == events[1:]


def test_the_tokens_of_another_models_answer_are_not_known(llama):
    events = events_of(llama, {"prompt": PROMPT, "k": 1})
    other = jopa.LanguageModel(llama.model, llama.tokenizer, "another")
    answer = shown_again(events[-1]["json"], other, LIMITS)[1]
    assert (answer["ids"], answer["tokens"]) == ([], [jopa.Attribution.from_json(events[-1]["json"]).output])


@pytest.mark.parametrize(
    "text",
    ["", "[" * 10_000, "7", "[]", "{}", '{"schema": 1, "comparison": []}', '{"schema": 2, "kind": "diagnosis"}'],
)
def test_what_is_no_result_is_refused_in_a_line(llama, text):
    with pytest.raises(InputFileError) as refused:
        shown_again(text, llama, LIMITS)
    assert "\n" not in str(refused.value)


def test_pieces_of_several_texts_have_headings_between_them(llama):
    prompt = jopa.build_prompt(
        llama.tokenizer, PROMPT, PromptOptions(documents=DOCUMENTS, attribute="all"), unit="word"
    )
    pieces = pieces_of(prompt.text, prompt.units, prompt.sources)
    assert "".join(piece["text"] or "\n" for piece in pieces).split() == prompt.text.split()
    assert [piece["unit"] for piece in pieces if "unit" in piece] == list(range(len(prompt.units)))


def test_a_short_prompt_without_a_number_has_all_of_its_units_looked_for(llama):
    events = events_of(llama, {"prompt": "write a story. tell me more.", "unit": "sentence"})
    a = jopa.Attribution.from_json(events[-1]["json"])
    assert a.k == len(a.units) == 2
    assert (a.details or {})["default_k"] == "by default 3; the prompt has 2 units"
