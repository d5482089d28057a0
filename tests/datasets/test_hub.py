"""The sets of the hub, played by real `datasets.Dataset` objects with the hub's column names; the real records."""

import builtins
import json

import pytest

import datasets as hub
from data_files import AQUA_PROMPT, AQUA_ROW, SHARED, adds_up, words
from jopa.datasets.examples import load_dataset
from jopa.datasets.sources import AQUA_DEMONSTRATIONS, DATASETS
from jopa.errors import InputFileError, SettingError

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real prompts at {SHARED}")


# The hub


ROWS = {
    "alpaca": [
        {"instruction": words(16), "input": "  the input ", "output": "o"},
        {"instruction": words(39, "Say") + " ", "input": "", "output": "o"},
        {"instruction": words(15), "input": "the input", "output": "o"},
        {"instruction": None, "input": "the input", "output": "o"},
    ],
    "tldr_news": [
        {"headline": "H", "content": words(7) + "\n " + words(7), "category": 1},
        {"headline": "H", "content": words(13), "category": 1},
        {"headline": "H", "content": "", "category": 1},
    ],
    "mhc": [
        {"Context": words(18) + "\n", "Response": "r"},
        {"Context": words(18), "Response": "another"},
        {"Context": words(17), "Response": "r"},
    ],
    "counsel_chat": [
        {"questionID": 1, "questionTitle": "t", "questionText": words(20), "topic": "grief", "answerText": "a"},
        {"questionID": 1, "questionTitle": "t", "questionText": words(20), "topic": "grief", "answerText": "b"},
        {"questionID": 2, "questionTitle": "t", "questionText": None, "topic": "grief", "answerText": "c"},
    ],
    "aqua": [
        {**AQUA_ROW, "rationale": "r"},
        {**AQUA_ROW, "rationale": "r", "correct": "F"},
    ],
}
EXPECTED = {
    "alpaca": (
        [("alpaca-00000", words(16) + "   the input"), ("alpaca-00001", words(39, "Say"))],
        {"not of 16 to 39 words": 1, "'instruction' is missing": 1},
        ("yahma/alpaca-cleaned row 3: 'instruction' is missing",),
    ),
    "tldr_news": (
        [("tldr_news-00000", words(14))],
        {"not of 14 to 138 words": 1, "'content' is empty": 1},
        ("JulesBelveze/tldr_news row 2: 'content' is empty",),
    ),
    "mhc": ([("mhc-00000", words(18))], {"repeated prompt": 1, "not of 18 to 478 words": 1}, ()),
    "counsel_chat": (
        [("counsel_chat-00000", words(20))],
        {"repeated prompt": 1, "'questionText' is missing": 1},
        ("nbertagnolli/counsel-chat row 2: 'questionText' is missing",),
    ),
    "aqua": (
        [("aqua-00000", AQUA_PROMPT)],
        {"'correct' names none of the options": 1},
        ("deepmind/aqua_rat row 1: 'correct' names none of the options: 'F'",),
    ),
}
ASKED = {
    "alpaca": ("yahma/alpaca-cleaned", None, "train[:1500]"),
    "tldr_news": ("JulesBelveze/tldr_news", None, "train"),
    "mhc": ("Amod/mental_health_counseling_conversations", None, "train"),
    "counsel_chat": ("nbertagnolli/counsel-chat", None, "train"),
    "aqua": ("deepmind/aqua_rat", "raw", "test"),
}


class Hub:
    """Stands in for `datasets.load_dataset`; notes what it is asked for."""

    def __init__(self, rows, error=None):
        self.rows, self.error, self.asked = rows, error, []

    def __call__(self, path, name=None, *, split, revision=None):
        self.asked.append((path, name, split) if revision is None else (path, name, split, revision))
        if self.error and revision is None:
            raise self.error
        return hub.Dataset.from_list(self.rows)


@pytest.mark.parametrize("name", ROWS)
def test_a_set_of_the_hub_is_read_by_its_columns(monkeypatch, name):
    fake = Hub(ROWS[name])
    monkeypatch.setattr(hub, "load_dataset", fake)
    dataset = load_dataset(name)
    examples, left_out, problems = EXPECTED[name]
    assert fake.asked == [ASKED[name]]
    assert [(example.id, example.prompt) for example in dataset.examples] == examples
    assert dataset.left_out == left_out and adds_up(dataset) and dataset.problems == problems
    assert dataset.source == ", ".join(part for part in ASKED[name] if part)
    spec = DATASETS[name]
    assert {(example.prefix, example.prefill) for example in dataset.examples} == {(spec.prefix, spec.prefill)}


def test_references_and_extra_fields_of_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "load_dataset", Hub(ROWS["tldr_news"]))
    assert load_dataset("tldr_news").examples[0].reference == "H"
    monkeypatch.setattr(hub, "load_dataset", Hub(ROWS["aqua"]))
    assert load_dataset("aqua").examples[0].reference == "(b)"
    monkeypatch.setattr(hub, "load_dataset", Hub(ROWS["counsel_chat"]))
    assert load_dataset("counsel_chat").examples[0].extra == {"topic": "grief"}


def test_a_set_with_a_loading_script_is_read_from_the_hub_s_conversion(monkeypatch):
    fake = Hub(ROWS["tldr_news"], RuntimeError("Dataset scripts are no longer supported, but found tldr_news.py"))
    monkeypatch.setattr(hub, "load_dataset", fake)
    assert len(load_dataset("tldr_news").examples) == 1
    assert fake.asked[1:] == [("JulesBelveze/tldr_news", None, "train", "refs/convert/parquet")]


def test_the_later_columns_of_tldr_news_are_read_too(monkeypatch):
    row = {"category": "ai", "section": "News", "title": "T", "text": words(20), "url": "u", "newsletter_url": "n"}
    monkeypatch.setattr(hub, "load_dataset", Hub([row]))
    (example,) = load_dataset("tldr_news").examples
    assert (example.prompt, example.reference) == (words(20), "T")


def test_other_columns_than_expected_are_named(monkeypatch):
    monkeypatch.setattr(hub, "load_dataset", Hub([{"question": "q"}]))
    with pytest.raises(InputFileError, match=r"Amod/mental.*'Context' is missing"):
        load_dataset("mhc")


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), ValueError("Unknown split"), RuntimeError("other")])
def test_what_the_hub_refuses_is_one_line_with_a_way_out(monkeypatch, error):
    monkeypatch.setattr(hub, "load_dataset", Hub([], error))
    with pytest.raises(InputFileError) as caught:
        load_dataset("alpaca")
    message = str(caught.value)
    assert "yahma/alpaca-cleaned" in message and "--data alpaca=path" in message and "\n" not in message
    assert " ".join(str(error).split()) in message


def test_the_real_library_without_a_network_gives_that_line_too(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputFileError, match=r"cannot load 'deepmind/aqua_rat, raw, test'.*--data aqua=path"):
        load_dataset("aqua")


def test_without_the_package_its_extra_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r'pip install "jopa\[bench\]"'):
        load_dataset("alpaca")


# Real prompts


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "fewest", "most"),
    [
        ("alpaca", "alpaca", 16, 39),
        ("tldr_news", "tldr_news", 14, 138),
        ("counsel_chat", "counsel_chat", 18, 478),
        ("aqua", "aqua", 0, 10**6),
        ("jailbreak", "jailbreak", 0, 10**6),
    ],
)
def test_every_real_record_is_accounted_for(name, file, fewest, most):
    path = SHARED / f"{file}.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    lengths = {r["id"]: r.get("instruction_words", len(r.get("prompt", "").split())) for r in records}
    dataset = load_dataset(name, path=path)
    assert dataset.read == len(records) and dataset.problems == ()
    assert [example.id for example in dataset.examples] == [i for i, n in lengths.items() if fewest <= n <= most]
    outside = sum(not fewest <= n <= most for n in lengths.values())
    assert dataset.left_out == ({f"not of {fewest} to {most} words": outside} if outside else {})
    prompts = {record["id"]: record.get("prompt") for record in records}
    if name != "aqua":
        assert all(example.prompt == prompts[example.id] for example in dataset.examples)


@needs_shared
def test_real_extra_fields_stay_within_reach():
    attacks = load_dataset("jailbreak", path=SHARED / "jailbreak.jsonl").examples
    spans = [(example, span) for example in attacks for span in example.extra["adversarial_span"] or []]
    assert spans and all(0 <= start < end <= len(example.prompt) for example, (start, end) in spans)
    news = load_dataset("tldr_news", path=SHARED / "tldr_news.jsonl").examples
    assert all(example.reference for example in news)


@needs_shared
def test_the_demonstrations_are_the_published_ones():
    published = json.loads((SHARED / "aqua_cot_demos.json").read_text(encoding="utf-8"))
    assert published["prompt_prefix"] == AQUA_DEMONSTRATIONS
    example = load_dataset("aqua", path=SHARED / "aqua.jsonl", limit=1).examples[0]
    question, choices = example.prompt.split("\nAnswer Choices: ")
    query = published["query_template"].format(question=question, choices=choices)
    assert f"{example.prefix}{example.prompt}{example.prefill}" == published["prompt_prefix"] + query
