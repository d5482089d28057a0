"""Whole messages and documents of a dozen chat templates: what goes with each, checked against a plain rendering."""

from copy import deepcopy
from itertools import combinations

import pytest

from chat_families import FAMILIES, TOOLS, WITH_TOOLS, rendered
from jopa.errors import PromptError
from prompt_cases import build_prompt
from small_tokenizers import small_tokenizer

CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "find", "arguments": {"what": "a coat"}}}
SYSTEM = {"role": "system", "content": "Be kind. Be brief."}
CHAT = [
    {"role": "user", "content": "Is it cold? Tell me."},
    {"role": "assistant", "content": "It is. Take a coat."},
    {"role": "user", "content": "Which one?"},
    {"role": "assistant", "content": "The red one."},
    {"role": "user", "content": "And a hat then?"},
]
WITH_CALLS = [
    *CHAT[:3],
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3 coats. One is red."},
    *CHAT[3:],
]
DOCUMENTS = [
    {"id": "a", "title": "Rain", "text": "It rains. Take a coat."},
    {"id": "b", "title": "", "text": "The doctor said hello."},
    {"id": "c", "title": "Sun", "text": "The patient smiled."},
]
KINDS = ("byte-level", "byte-level-qwen", "sentencepiece-bpe")
TEXT, FRAME = "text", "frame"
WENT_WITH = {
    # What goes with each message, its frame or its text alone, where the template says more of a message than it is.
    "gemma-3": [FRAME, TEXT, TEXT, TEXT, TEXT, FRAME],  # two turns of one side are refused
    "mistral": [FRAME, TEXT, TEXT, TEXT, TEXT, TEXT],  # so here, and the system message stands in the last turn
    "command-r": [TEXT, FRAME, FRAME, FRAME, FRAME, FRAME],  # without a system message it writes one of its own
    "granite": [TEXT, FRAME, FRAME, FRAME, FRAME, TEXT],  # so here, and after no message no answer begins
}
BESIDE_TOOLS = {
    "llama-3.1": {1: TEXT},  # the first message of the user holds the tools
    "mistral": {1: TEXT, 2: TEXT, 3: TEXT, 6: TEXT, 7: TEXT},
    "deepseek": {5: TEXT, 6: TEXT, 7: TEXT},  # how an answer begins depends on the result of a tool before it
}
WITH_DOCUMENTS = {
    "command-r": [TEXT, TEXT, FRAME],  # it numbers those that follow
    "granite": [FRAME, FRAME, TEXT],  # without documents its system message is another
}


def ids_of(tokenizer, family, messages, **settings):
    return tokenizer(rendered(family, messages, **settings), add_special_tokens=False)["input_ids"]


def left(prompt, numbers):
    gone = {position for number in numbers for position in prompt.units[number].positions}
    return [token for position, token in enumerate(prompt.ids) if position not in gone]


def require_honest(tokenizer, family, prompt, messages, **settings):
    """Every unit that is said to go with its frame leaves the ids of a conversation without it; else its text goes."""
    assert list(prompt.ids) == ids_of(tokenizer, family, messages, **settings)
    framed = [i for i, source in enumerate(prompt.sources) if source.removed_with == "frame"]
    for number in (1, 2, len(framed)):
        for together in combinations(framed, number):
            places = {prompt.units[i].message for i in together}
            fewer = [message for place, message in enumerate(messages) if place not in places]
            if not fewer:
                continue  # nothing is left to render
            assert left(prompt, together) == ids_of(tokenizer, family, fewer, **settings), together
    for i, source in enumerate(prompt.sources):
        said = prompt.text[source.start : source.end]
        shown = tokenizer.decode([prompt.ids[position] for position in prompt.units[i].positions])
        if source.removed_with == "frame":
            assert said.strip() in shown
        else:  # a token that shows a part of the frame, too, stays
            assert shown.strip() in said and len(shown) >= len(said) - 2
    return {source.message: source.removed_with for source in prompt.sources}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_messages(family, kind):
    tokenizer = small_tokenizer(kind, FAMILIES[family])
    messages = [SYSTEM, *CHAT]
    prompt = build_prompt(tokenizer, messages, attribute="all", unit="message")
    found = require_honest(tokenizer, family, prompt, messages)
    if kind != "sentencepiece-bpe":  # which joins tokens across messages
        assert [found[place] for place in range(6)] == WENT_WITH.get(family, [FRAME] * 6)
    else:
        assert FRAME in found.values() or family == "mistral"


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("family", WITH_TOOLS)
def test_whole_messages_beside_calls_of_tools(family, kind):
    tokenizer = small_tokenizer(kind, FAMILIES[family])
    messages = [SYSTEM, *WITH_CALLS]
    prompt = build_prompt(tokenizer, messages, attribute="all", unit="message", tools=TOOLS)
    found = require_honest(tokenizer, family, prompt, messages, tools=TOOLS)
    expected = dict.fromkeys((0, 1, 2, 3, 5, 6, 7), FRAME) | BESIDE_TOOLS.get(family, {})
    assert found == expected
    result = build_prompt(tokenizer, messages, attribute="tools", unit="sentence", tools=TOOLS)
    assert [unit.text.strip() for unit in result.units] == ["3 coats.", "One is red."]
    assert [part.kind for part in result.fixed] == [
        "tools",
        *(message["role"] for message in messages if message != messages[5]),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_documents(family, kind):
    tokenizer = small_tokenizer(kind, FAMILIES[family])
    prompt = build_prompt(tokenizer, CHAT, documents=DOCUMENTS, unit="document")
    through = "template" if family in ("command-r", "granite") else "frame"
    assert prompt.documents_through == through

    def ids_with(documents):
        if through == "template":
            given = [{"doc_id": d["id"], "title": d["title"], "text": d["text"]} for d in documents]
            return ids_of(tokenizer, family, CHAT, documents=given)
        framed = "".join(f"Document {d['id']}{': ' * bool(d['title'])}{d['title']}\n{d['text']}\n\n" for d in documents)
        return ids_of(tokenizer, family, [*CHAT[:-1], {"role": "user", "content": framed + CHAT[-1]["content"]}])

    assert list(prompt.ids) == ids_with(DOCUMENTS)
    went = [source.removed_with for source in prompt.sources]
    if kind != "sentencepiece-bpe":
        assert went == WITH_DOCUMENTS.get(family, [FRAME] * 3)
    framed = [i for i, how in enumerate(went) if how == FRAME]
    for number in (1, 2, 3):
        for together in combinations(framed, number):
            if number < 3 or through == "template":  # a question without documents is no question beside documents
                assert left(prompt, together) == ids_with([d for i, d in enumerate(DOCUMENTS) if i not in together])


def test_results_of_two_tools_at_once():
    """Their marks are tokens of their own, as in Qwen 3: the second frame must not begin with the first one's end."""
    tokenizer = deepcopy(small_tokenizer("byte-level-qwen", FAMILIES["qwen"]))
    tokenizer.add_tokens(["<tool_response>", "</tool_response>"])
    second = {"role": "tool", "content": "2 hats. One is blue."}
    messages = [*WITH_CALLS[:5], second, *WITH_CALLS[5:]]
    for place in (4, 5):
        prompt = build_prompt(tokenizer, messages, attribute=place, unit="message", tools=TOOLS)
        assert require_honest(tokenizer, "qwen", prompt, messages, tools=TOOLS) == {place: FRAME}
        shown = str(tokenizer.decode([prompt.ids[position] for position in prompt.units[0].positions]))
        assert shown.count("<tool_response>") == shown.count("</tool_response>") == 1
    prompt = build_prompt(tokenizer, messages, attribute="tools", unit="message", tools=TOOLS)
    assert require_honest(tokenizer, "qwen", prompt, messages, tools=TOOLS) == {4: TEXT, 5: TEXT}  # one turn for both


def test_what_a_conversation_begins_with_decides_about_frames():
    """Llama 3.1 writes a first system message elsewhere: a later one must not become the first unnoticed."""
    tokenizer = small_tokenizer("byte-level-qwen", FAMILIES["llama-3.1"])
    messages = [SYSTEM, *CHAT[:2], {"role": "system", "content": "Speak Dutch."}, CHAT[2]]
    prompt = build_prompt(tokenizer, messages, attribute="all", unit="message")
    found = require_honest(tokenizer, "llama-3.1", prompt, messages)
    assert found == {0: FRAME, 1: FRAME, 2: TEXT, 3: FRAME, 4: FRAME}
    for number in (1, 2, 3, 4):
        for together in combinations([0, 1, 3, 4], number):
            fewer = [message for place, message in enumerate(messages) if place not in together]
            if number < 4 or found[2] == TEXT:
                assert left(prompt, together) == ids_of(tokenizer, "llama-3.1", fewer), together


def test_an_old_trace_is_dropped_by_the_template_and_said_to_be_left_out():
    tokenizer = small_tokenizer("byte-level", FAMILIES["qwen"])
    messages = [CHAT[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is."}, CHAT[2]]
    arguments = {"enable_thinking": False}
    prompt = build_prompt(tokenizer, messages, attribute="all", unit="message", template_args=arguments)
    assert list(prompt.ids) == ids_of(tokenizer, "qwen", messages, **arguments)
    assert prompt.left_out == (1,) and [source.message for source in prompt.sources] == [0, 2]
    with pytest.raises(PromptError, match=r"leaves the message at place 1 .*out or rewrites it"):
        build_prompt(tokenizer, messages, attribute=1)


def test_a_frame_at_the_end_is_proved_together_with_those_before_it():
    """A SentencePiece tokenizer writes a blank before the mark behind a text, but for one that ends with a mark."""
    tokenizer = small_tokenizer("sentencepiece-legacy", FAMILIES["harmony"])
    texts = ["Yes", "</s>", "Hi", "user"]
    documents = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    prompt = build_prompt(
        tokenizer, [{"role": "user", "content": "x y"}], documents=documents, attribute="all", unit="document"
    )
    gone = [i for i, source in enumerate(prompt.sources) if i > 1 and source.removed_with == "frame"]
    assert gone
    cut = {position for i in gone for position in prompt.units[i].positions}
    left = [token for position, token in enumerate(prompt.ids) if position not in cut]
    kept = [i for i in range(len(texts) + 1) if i not in gone]
    content = "".join(f"Document {i}\n{texts[i]}\n\n" if i < len(texts) else "x y" for i in kept)
    expected = rendered("harmony", [{"role": "user", "content": content}])
    assert left == tokenizer(expected, add_special_tokens=False)["input_ids"]
