"""Results over a chat API: what they say of their objective, how they are kept and shown, and what refuses it."""

import io
import json
import re

import httpx
import pytest
from fake_server import FakeChat, connect_chat
from rich.console import Console
from test_chat import PROMPT, story

import jopa
from jopa.reports import text_attribution as view
from jopa.reports.wording import visible

WORDS_OF_PROBABILITY = re.compile(r"log.?p|\bPR\b|probabilit|nats", re.IGNORECASE)


@pytest.fixture
def found():
    model = connect_chat(FakeChat(story))
    return jopa.explain(PROMPT, k=2, model=model, search=jopa.SearchOptions(all_effects=True))


def terminal(renderable):
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_a_pair_that_only_joint_removal_reveals_is_found(found):
    assert {unit.text.strip() for unit in found.chosen} == {"doctor", "patient."}
    assert found.objective == "text-similarity"
    assert found.individual == (0.0, 0.0)
    assert found.synergy == found.joint > 0.8
    assert found.noise == 0
    assert found.certificate == "optimal"
    assert found.counterfactual_output == "Sorry, I know no such thing."
    assert found.details["server"]["requests"] == found.evaluations + 2 + 9  # two repeats, and each unit alone
    assert found.details["server"]["tokens_sent"] > 0


def test_an_empty_answer_is_refused_without_a_word_of_prefills():
    with pytest.raises(jopa.PromptError, match=r"stopped at once; give the text to explain \(output\)$"):
        jopa.explain(PROMPT, k=2, model=connect_chat(FakeChat(lambda _: "")))


def test_json_is_read_back_and_never_speaks_of_probabilities(found):
    assert jopa.TextAttribution.from_json(found.to_json()) == found
    record = json.loads(found.to_json())
    assert record["objective"] == "text-similarity"
    assert not [key for key in record if WORDS_OF_PROBABILITY.search(key)]
    for damage in ({"objective": "log-probability"}, {"similarity": 2}, {"removed": [99]}, {"schema": 7}):
        with pytest.raises(jopa.InputFileError):
            jopa.TextAttribution.from_json(json.dumps(record | damage))
    with pytest.raises(jopa.InputFileError):
        jopa.Attribution.from_json(found.to_json())


def test_page_and_terminal_use_the_right_words(found):
    for text in (view.to_html(found), terminal(view.to_terminal(found)), found._repr_html_()):
        shown = re.sub(r"(?s)<style>.*?</style>", "", text)
        assert "text-similarity" in shown
        assert "oise" in shown
        assert not WORDS_OF_PROBABILITY.search(shown)


def test_documents_have_headings_and_are_named():
    model = connect_chat(FakeChat(lambda messages: "It does." if "rain" in messages[-1]["content"] else "No."))
    documents = [{"id": "a.txt", "title": "Sun", "text": "The sun shines."}, {"id": "b.txt", "text": "It will rain."}]
    found = jopa.explain("Will it be wet?", documents=documents, k=1, model=model, unit="document")
    for text in (view.to_html(found), terminal(view.to_terminal(found))):
        shown = re.sub(r"<[^>]*>|\s+", " ", text)
        assert shown.index("Document a.txt: Sun") < shown.index("Document b.txt")
        assert "Without “It will rain.” (document b.txt), the model says something else" in shown
        assert "in a plain frame before the question" in shown


def test_texts_of_strangers_stay_texts():
    model = connect_chat(FakeChat(lambda messages: "<script>alert(1)</script> [bold]" + messages[0]["content"]))
    found = jopa.explain("<b>one</b> two \x1b[31m three four", k=1, model=model, unit="word")
    assert "<script>" not in view.to_html(found)
    assert "<b>one" not in view.to_html(found)
    assert visible("\x1b") in terminal(view.to_terminal(found))


def test_what_lies_within_the_noise_is_said_to_show_nothing():
    answers = iter(
        ["one two three four", *["one two three four", "one two", "one two three four"], *["one two three"] * 99]
    )
    model = connect_chat(FakeChat(lambda messages: next(answers)))
    found = jopa.explain("a b c", k=1, model=model, unit="word")
    assert found.noise > 0.2
    assert not found.shown
    assert found.certificate == "none"
    assert "nothing is shown" in view.verdict(found)


def test_methods_are_compared_by_the_same_objective():
    model = connect_chat(FakeChat(story))
    found = jopa.compare(PROMPT, ["joint", "ablation", "shapley", "greedy", "random"], model=model, k=2)
    assert [type(each) for each in found] == [jopa.TextAttribution] * 5
    shown = view.text_comparison_html(found) + terminal(view.text_comparison_table(found))
    assert not WORDS_OF_PROBABILITY.search(re.sub(r"(?s)<style>.*?</style>", "", shown))
    assert found[0].joint == max(each.joint for each in found)


@pytest.mark.parametrize("unit", ["sentence", "line"])
def test_messages_with_fixed_turns_are_explained(unit):
    def say(messages):
        return "It is about cats." if "cats" in messages[-1]["content"] else "It is about nothing at all, sorry."

    messages = [
        {"role": "system", "content": "You know cats."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "I like dogs.\nI like cats.\nWhat is this about?"},
    ]
    server = FakeChat(say)
    found = jopa.explain(messages, k=1, model=connect_chat(server), unit=unit)
    assert [unit.text.strip() for unit in found.chosen] == ["I like cats."]
    assert all(body["messages"][:3] == messages[:3] for body in server.asked)


def test_a_whole_message_goes_with_its_role():
    messages = [
        {"role": "system", "content": "You know cats."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is this about?"},
    ]
    server = FakeChat(lambda sent: "cats" if any("cats" in message["content"] for message in sent) else "no idea")
    found = jopa.explain(
        messages, k=1, model=connect_chat(server), unit="message", options=jopa.PromptOptions(attribute="all")
    )
    assert [unit.text for unit in found.chosen] == ["You know cats."]
    sent = [body["messages"] for body in server.asked]
    assert messages[1:] in sent
    assert all(message in messages for body in sent for message in body)


def test_a_whole_document_is_left_out():
    documents = ["The mill is old.", "The bridge is yellow.", "Bread is sold on Fridays."]
    server = FakeChat(lambda sent: "yellow" if "bridge is yellow" in sent[-1]["content"] else "no idea at all")
    found = jopa.explain(
        "What colour is the bridge?", documents=documents, k=1, model=connect_chat(server), unit="document"
    )
    assert [unit.text for unit in found.chosen] == ["The bridge is yellow."]
    for text in [body["messages"][-1]["content"] for body in server.asked]:
        assert text.endswith("What colour is the bridge?")
        assert text.count("Document") == sum(document in text for document in documents)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda model: jopa.explain(PROMPT, model=model, search=jopa.SearchOptions(until_pr=0.5)), "until_pr"),
        (lambda model: jopa.explain(PROMPT, model=model, method="context-cite"), "context-cite"),
        (lambda model: jopa.explain(PROMPT, model=model, method="jopa", removal="delete"), "jopa"),
        (lambda model: jopa.diagnose(PROMPT, model=model), "a diagnosis"),
        (lambda model: jopa.detect(PROMPT, model=model), "detect"),
        (lambda model: jopa.explain(PROMPT, model=model, unit="token"), "word"),
    ],
)
def test_what_needs_log_probabilities_refuses_before_any_work(ask, said):
    server = FakeChat(story)
    with pytest.raises(jopa.SettingError, match=said):
        ask(connect_chat(server))
    assert not server.asked


def test_the_limit_of_tokens_ends_a_search_with_its_best_set():
    server = FakeChat(story)
    model = connect_chat(server, max_tokens_sent=600)
    found = jopa.explain(PROMPT, k=2, model=model, output=jopa.Generation(10))
    assert "limit of tokens" in found.stop
    assert model.tokens_sent <= 600
    assert len(found.removed) == 2


def test_the_cost_is_said_before_and_not_exceeded():
    server = FakeChat(story)
    model = connect_chat(server)
    settings = {"k": 2, "model": model, "output": jopa.Generation(10), "unit": "word"}
    cost = jopa.cost_at_most(PROMPT, **settings)
    assert not server.asked
    jopa.explain(PROMPT, **settings)
    assert len(server.asked) <= cost.requests
    assert model.tokens_sent <= cost.tokens


def test_a_server_that_stops_is_one_line_and_nothing_is_paid_twice(quick):
    def fault(request, number):
        return httpx.Response(503, json={"error": "gone"}) if dead and number > 12 else None

    dead = True
    server = FakeChat(story, fault=fault)
    settings = {"cache": True, "attempts": 2, "in_flight": 1}
    with pytest.raises(jopa.ModelError, match="tried 2 times"):
        jopa.explain(PROMPT, k=2, model=connect_chat(server, **settings))
    dead, n_before = False, len(server.asked)
    found = jopa.explain(PROMPT, k=2, model=connect_chat(server, **settings))
    asked = [json.dumps(body) for body in server.asked]
    scored_before = asked[4 : 12 - 1]  # after the answer and three repeats; the first request was for the models
    after = asked[n_before + 4 :]
    assert found.certificate == "optimal"
    assert scored_before
    assert not set(scored_before) & set(after)


def test_a_page_a_data_frame_and_one_line(found):
    page = jopa.to_html(found, title="Mine")
    assert page == found.to_html(title="Mine")
    assert '<p class="heading">Mine</p>' in page
    frame = jopa.to_frame(found)
    assert list(frame.columns) == ["unit", "text", "start", "end", "removed", "rank", "effect"]
    assert len(frame) == len(found.units) and frame.removed.sum() == 2
    assert len(jopa.to_frame([found, found])) == 2 * len(found.units)
    assert "2 methods" in jopa.to_html([found, found])
    assert repr(found).startswith("<TextAttribution by joint: without ")
    assert "\n" not in repr(found)
