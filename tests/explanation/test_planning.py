"""What is chosen where the caller names no method and no units: alike in Python, on the command line, on the page."""

import json

import pytest

import jopa
import tiny_models
from jopa.explanation.planning import default_kinds, level_kinds, planned
from jopa.explanation.request import ExplanationRequest
from jopa.prompt.options import PromptOptions
from jopa.web.limits import RequestLimits
from jopa.web.requests import read_request
from jopa.web.work import run_request

SENTENCE = "Tell me a story about the doctor. Please write of birds in rain."
DOCUMENTS = [{"id": f"d{i}", "text": SENTENCE} for i in range(5)]


@pytest.fixture(scope="module")
def model():
    return tiny_models.sentence_model()


@pytest.fixture
def short_limits(monkeypatch):
    """Long inputs of a hundredth of the usual size."""
    monkeypatch.setattr("jopa.explanation.planning.LONG_METHOD_TOKENS", 60)
    monkeypatch.setattr("jopa.explanation.planning.REFINED_TOKENS", 200)


def plan(model, text, methods=(), unit="auto", k=1, **search):
    options = search.pop("options", PromptOptions())
    request = ExplanationRequest(text, options, k, unit, search=jopa.SearchOptions(**search))
    return planned(model, request, methods)


def on_page(model, prompt, **record):
    events = []
    request = read_request(
        {"prompt": prompt, "k": 1, "max_new_tokens": 2, **record}, RequestLimits(), len(model.tokenizer)
    )
    run_request(model, request, events.append)
    return events


def test_long_inputs_get_the_method_for_them_unless_one_is_named(model, short_limits):
    assert plan(model, "Tell me.").methods == (jopa.JointSearch(),)
    assert plan(model, "Tell me.").details == {}
    long = plan(model, f"{SENTENCE} {SENTENCE}", budget=5)
    assert [method.settings for method in long.methods] == [{"name": "proxy-search", "budget": 5}]
    assert list(long.details) == ["method_by_default"]
    named = plan(model, f"{SENTENCE} {SENTENCE}", [jopa.JointSearch()])
    assert named.methods == (jopa.JointSearch(),) and named.details == {}


def test_a_model_behind_a_server_keeps_the_usual_method(model, short_limits, monkeypatch):
    monkeypatch.setattr(type(model), "capabilities", frozenset({"scores"}))
    found = plan(model, f"{SENTENCE}\n\n" * 20)
    assert found.methods == (jopa.JointSearch(),) and found.finer == () and found.details == {}


def test_python_and_page_choose_alike_and_say_so(model, short_limits):
    text = f"{SENTENCE}\n\n" * 20
    a = jopa.explain(text, k=1, model=model, output=jopa.Generation(2), search=jopa.SearchOptions(budget=3))
    assert isinstance(a, jopa.Attribution)
    assert [level.unit for level in a.levels] == ["paragraph", "sentence"]
    assert (a.method["name"], a.method["budget"]) == ("proxy-search", 3)
    b = jopa.Attribution.from_json(on_page(model, text, budget=3)[-1]["json"])
    assert (b.removed, b.levels, b.method) == (a.removed, a.levels, a.method)
    for details in (a.details, b.details):
        assert (
            details
            and "60 or more" in details["method_by_default"]
            and "more than 200" in details["refined_by_default"]
        )
    assert a.to_html().count("the input has") >= 3  # the tree, the levels and the method


def test_the_limits_are_those_of_the_help_and_the_docs(model):
    from jopa.explanation import planning

    assert (planning.LONG_METHOD_TOKENS, planning.REFINED_TOKENS) == (1500, 5000)


def test_what_is_asked_for_is_never_refined_by_default(model, short_limits):
    text = f"{SENTENCE}\n\n" * 20
    assert plan(model, text, unit="sentence").finer == ()
    assert plan(model, text, refine=()).finer == ()
    assert plan(model, text, until_pr=0.9).finer == ()
    assert plan(model, text, all_effects=True).finer == ()
    assert plan(model, text, [jopa.JointSearch(), jopa.JointSearch(budget=2)]).finer == ()


def test_the_default_needs_a_long_prompt_with_parts(model):
    short = jopa.build_prompt(model.tokenizer, "Tell me. " * 20, unit="sentence")
    assert default_kinds(short) == ()
    assert level_kinds("auto", ("sentence",), True) == ("document", "sentence")
    assert level_kinds("auto", ("word",), False) == ("paragraph", "word")


# --- the page -----------------------------------------------------------------------------------------------------


def test_each_level_is_told_with_its_units_and_can_be_asked_for_again(model):
    chat = {"documents": DOCUMENTS, "unit": "document", "refine": ["sentence", "word"], "budget": 30}
    events = on_page(model, "who met", **chat)
    kinds = [event["kind"] for event in events]
    assert kinds.count("level") == 2
    bests = [i for i, kind in enumerate(kinds) if kind == "best"]
    assert max(i for i, kind in enumerate(kinds) if kind == "level") < bests[0]
    a = jopa.Attribution.from_json(events[-1]["json"])
    last = [event for event in events if event["kind"] == "level"][-1]
    assert last["spans"] == [(unit.start, unit.end) for unit in a.units]
    assert [piece["unit"] for piece in last["pieces"] if "unit" in piece] == list(range(len(a.units)))
    tree = events[-1]["results"][0]["parts"]["levels"]
    assert (
        "Level 1, documents" in tree and "Level 3, words" in tree and f"certificate {a.levels[0].certificate}" in tree
    )

    spans = json.loads(json.dumps(last["spans"]))
    again = {"documents": DOCUMENTS, "unit": spans, "units": list(a.removed), "output_ids": list(a.output_ids)}
    redone = jopa.Attribution.from_json(on_page(model, "who met", **again)[-1]["json"])
    assert [unit.positions for unit in redone.chosen] == [unit.positions for unit in a.chosen]
    assert redone.log_prob_removed == pytest.approx(a.log_prob_removed, abs=1e-4)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"refine": "sentence"}, "refine must be a list"),
        ({"refine": ["syllable"]}, "unknown unit 'syllable'"),
        ({"unit": "sentence", "refine": ["paragraph"]}, "'paragraph' is not finer than 'sentence'"),
        ({"refine": ["sentence"], "methods": ["joint", "greedy"]}, "with one method"),
        ({"refine": ["sentence"], "units": [0]}, "with one method"),
        ({"unit": [[0, 3]], "refine": ["word"]}, "not spans"),
        ({"unit": [[0]]}, "list of character spans"),
        ({"unit": [[0, 1.5]]}, "list of character spans"),
        ({"unit": [[0, 99]]}, "does not lie within"),
    ],
)
def test_levels_that_do_not_fit_are_refused_in_a_line(model, record, said):
    with pytest.raises(jopa.SettingError, match=said):
        on_page(model, "Tell me a story.", **record)
