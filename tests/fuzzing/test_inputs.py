"""Random and damaged inputs to every reader: each is read, or refused by a documented error; nothing else is raised.

`JOPA_FUZZ` says how many inputs each reader gets, 60 unless given. docs/reliability.md says how many were tried.
"""

import copy
import dataclasses
import json
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jopa
import tiny_models
from jopa.benchmark.experiment import read_experiment
from jopa.benchmark.records import read_run
from jopa.datasets.examples import load_dataset
from jopa.detection.screening import read_prompts
from jopa.errors import JopaError
from jopa.web.limits import RequestLimits
from jopa.web.requests import FIELDS, read_request
from small_tokenizers import small_tokenizer
from synthetic_run import cell, example, experiment, failed, session, write_run

INPUTS = int(os.environ.get("JOPA_FUZZ", "60"))
TRIED = settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "\x00", "\x1b[31m", "\u202e", "\ud83d", "😀", "9" * 400, "</script>"]
)
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 999, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """The path of every value inside lists and objects, the outermost first."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@st.composite
def damaged(draw, valid):
    """A value of JSON that is like a valid one but for one to three places."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                value = draw(VALUES)
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(["replace", "remove", "repeat", "add"]))
        if kind == "replace":
            holder[path[-1]] = draw(VALUES)
        elif kind == "remove":
            del holder[path[-1]]
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(TEXTS)] = draw(VALUES)
    return value


def require_both(outcomes: Counter) -> None:
    """A test whose inputs are all read, or all refused, shows nothing."""
    assert outcomes["read"] and outcomes["refused"], outcomes


def as_text(value) -> str:
    """As JSON, with NaN and infinity as Python writes them."""
    return json.dumps(value)


# What jopa wrote ------------------------------------------------------------------------------------------------------


def written() -> dict[str, tuple[type, str]]:
    """A valid record of each kind, as its class wrote it."""
    model = tiny_models.language_model("llama")
    short = jopa.Generation(4)
    story = jopa.explain("write a story about rain", k=2, model=model, output=short, unit="word")
    poem = jopa.explain("tell me what people said", k=2, model=model, output=short, unit="word")
    request = "write a story about rain. tell me what you think of birds."
    diagnosis = jopa.diagnose(request, model=model, output=short, unit="sentence")
    verdict = jopa.detect("write a story about the doctor", model=model)
    reader = tiny_models.sentence_model()
    citations = jopa.cite("what of the doctor?", ["the doctor met birds. people met."], model=reader, output=short)
    values = (story, jopa.PromptComparison(story, poem), diagnosis, verdict, citations)
    return {type(value).__name__: (type(value), value.to_json()) for value in values}


RECORDS = ("Attribution", "PromptComparison", "Diagnosis", "Verdict", "Citations")


@pytest.fixture(scope="module")
def records():
    return written()


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_refused_or_is_a_value_like_any_other(name, records):
    kind, text = records[name]
    outcomes = Counter()

    @TRIED
    @given(damaged(json.loads(text)))
    def tried(value):
        try:
            found = kind.from_json(as_text(value))
        except JopaError as error:
            outcomes["refused"] += 1
            assert str(error)
            return
        outcomes["read"] += 1
        assert kind.from_json(found.to_json()) == found
        assert "<html" in found.to_html()
        assert len(found.to_frame()) >= 0
        assert "\x1b" not in repr(found)

    tried()
    require_both(outcomes)


@pytest.mark.parametrize("name", RECORDS)
def test_half_a_record_is_refused(name, records):
    kind, text = records[name]

    @TRIED
    @given(st.integers(0, len(text) - 2), st.integers(0, len(text) - 2))
    def tried(start, end):
        with pytest.raises(JopaError):
            kind.from_json(text[min(start, end) : max(start, end)])

    tried()


@pytest.mark.parametrize("name", ["experiment.json", "examples.jsonl", "cells.jsonl", "sessions.jsonl"])
def test_a_damaged_run_is_refused_or_read(name, tmp_path):
    valid = {
        "experiment.json": experiment(["m"]),
        "examples.jsonl": example("a"),
        "cells.jsonl": cell("m", "a", trace=[[0, -2.0, 1, 1.5]]),
        "sessions.jsonl": session(),
    }[name]
    write_run(tmp_path, experiment(["m"]), [cell("m", "a"), failed("m", "b")])
    whole = (tmp_path / name).read_text()

    outcomes = Counter()

    @TRIED
    @given(damaged(valid))
    def tried(value):
        line = as_text(value) + "\n"
        (tmp_path / name).write_text(line if name.endswith(".json") else whole + line + whole)
        try:
            read_run(tmp_path)
        except JopaError as error:
            outcomes["refused"] += 1
            assert str(tmp_path) in str(error)
        else:
            outcomes["read"] += 1

    tried()
    require_both(outcomes)


# What people bring ----------------------------------------------------------------------------------------------------

MESSAGES = [
    {"role": "system", "content": "Answer in one line."},
    {"role": "user", "content": [{"type": "text", "text": "What is open?"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    {"role": "tool", "content": "The shop."},
    {"role": "user", "content": "And when?"},
]


@pytest.mark.parametrize("template", ["chatml", "llama-3", "phi-3"])  # Gemma's refuses every system message
@pytest.mark.parametrize("attribute", ["user", "all"])
def test_messages_of_any_shape_become_a_prompt_or_a_refusal(template, attribute):
    tokenizer = small_tokenizer("byte-level", template)
    options = jopa.PromptOptions(attribute=attribute)

    outcomes = Counter()

    @TRIED
    @given(damaged(MESSAGES))
    def tried(messages):
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return  # what reads JSON refuses it
        try:
            prompt = jopa.build_prompt(tokenizer, messages, options, unit="word")
        except JopaError:
            outcomes["refused"] += 1
            return
        outcomes["read"] += 1
        assert prompt.units
        seen = [position for unit in prompt.units for position in unit.positions]
        assert len(seen) == len(set(seen))
        assert all(0 <= position < len(prompt.ids) for position in seen)

    tried()
    require_both(outcomes)


@pytest.mark.parametrize("reader", ["data set", "prompts to judge"])
def test_lines_of_any_kind_become_prompts_or_a_refusal(reader, tmp_path):
    path = tmp_path / "mine.jsonl"
    valid = {"id": "story", "prompt": "Write a story.", "system": "Be short.", "prefix": "In one line.", "topic": 3}

    outcomes = Counter()

    @TRIED
    @given(st.lists(damaged(valid).map(as_text).map(str.encode) | st.binary(max_size=30), max_size=4))
    def tried(lines):
        path.write_bytes(b"\n".join(lines))
        try:
            found = load_dataset("mine", path=path).examples if reader == "data set" else read_prompts(path)
        except JopaError as error:
            outcomes["refused"] += 1
            assert "mine" in str(error)
            return
        outcomes["read"] += 1
        assert found

    tried()
    require_both(outcomes)


def test_an_experiment_of_any_kind_is_read_or_refused(tmp_path):
    path = tmp_path / "mine.toml"
    valid = [
        'title = "t"',
        "ks = [1]",
        "seeds = [0, 1]",
        'unit = "word"',
        "[[data]]",
        'name = "mine"',
        'path = "mine.jsonl"',
        "limit = 3",
        "[[methods]]",
        'name = "jopa"',
        "settings = { steps = 3 }",
    ]
    words = ["title", "ks", "seeds", "unit", "name", "id", "limit", "settings", "label", "path", "removal"]
    values = ['"x"', "3", "[1]", "[]", "true", "1.5", "nan", "{ steps = 3 }", '"joint"', '"delete"', "-1", '"../../x"']
    lines = st.sampled_from(["[[models]]", "[[data]]", "[[methods]]", "[models]", "[[", "", "# nothing"]) | st.builds(
        "{} = {}".format, st.sampled_from(words), st.sampled_from(values)
    )
    outcomes = Counter()

    @TRIED
    @given(st.integers(0, len(valid)), st.integers(0, 1), lines)
    def tried(at, n_replaced, line):
        path.write_text("\n".join([*valid[:at], line, *valid[at + n_replaced :]]))
        try:
            read_experiment(path)
        except JopaError as error:
            outcomes["refused"] += 1
            assert "mine.toml" in str(error)
        else:
            outcomes["read"] += 1

    tried()
    require_both(outcomes)


def test_a_request_to_the_page_stays_within_its_limits_or_is_refused():
    limits = RequestLimits()
    valid = dict.fromkeys(FIELDS) | {
        "prompt": "Why is the sky blue?",
        "methods": ["joint", "ablation"],
        "k": 2,
        "unit": "word",
        "removal": "delete",
        "budget": 20,
        "max_new_tokens": 20,
        "output_ids": [3, 4],
        "target": [0, 1],
        "system": "Be short.",
        "turns": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}],
        "documents": [{"text": "It scatters light.", "id": "a", "title": "Air"}, {"text": "Blue."}],
        "attribute": "all",
        "task": "explain",
        "until_pr": 0.5,
    }

    outcomes = Counter()

    @TRIED
    @given(damaged(valid))
    def tried(record):
        try:
            request = read_request(record, limits, 50)
        except JopaError as error:
            outcomes["refused"] += 1
            assert len(str(error)) < 1000
            return
        outcomes["read"] += 1
        assert request.k is None or 1 <= request.k <= limits.k or request.methods[0].name == "by-hand"
        assert 1 <= request.max_new_tokens <= limits.max_new_tokens
        messages = [{"content": request.prompt}] if isinstance(request.prompt, str) else request.prompt
        texts = [message["content"] for message in messages] + [each.text for each in request.options.documents or ()]
        assert sum(map(len, texts)) <= limits.characters
        assert all(0 <= id_ < 50 for id_ in request.output_ids or ())
        for method in request.methods:
            assert getattr(method, "budget", 1) <= limits.budget
            assert dataclasses.is_dataclass(method)

    tried()
    require_both(outcomes)
