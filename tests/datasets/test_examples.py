"""Data sets from files: every record is kept or counted."""

import json
from pathlib import Path

import pytest

from data_files import AQUA_PROMPT, AQUA_ROW, adds_up, words
from jopa.datasets.examples import Example, load_dataset
from jopa.datasets.sources import AQUA_DEMONSTRATIONS, PREFILL
from jopa.errors import InputFileError, SettingError
from jopa.prompt.building import build_prompt
from small_tokenizers import small_tokenizer


def write(folder: Path, *lines: object, name: str = "data.jsonl") -> Path:
    """A JSONL file; bytes are written as they are, everything else as JSON."""
    path = folder / name
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


# Files


def test_a_plain_file_gives_its_fields_and_no_filter(tmp_path):
    path = write(
        tmp_path,
        {"id": "a", "prompt": "Hi", "system": "S", "prefix": "P", "prefill": "F", "reference": "R", "span": [1, 2]},
        {"id": "b", "prompt": " Hi ", "system": None, "headline": "H"},
    )
    dataset = load_dataset("mine", path=path)
    assert dataset.examples == (
        Example("a", "Hi", "S", "P", "F", "R", {"span": [1, 2]}),
        Example("b", " Hi ", extra={"headline": "H"}),
    )
    assert (dataset.name, dataset.source, dataset.read) == ("mine", str(path), 2)
    assert (dataset.left_out, dataset.problems) == ({}, ())
    assert dataset.summary == f"mine: kept 2 of 2 records of {path}"
    assert hash(dataset.examples[0]) != hash(dataset.examples[1])


MALFORMED = {
    b"{": ("not JSON", "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    b"[" * 100_000: ("not JSON", "not JSON: nested too deep"),
    b'["a"]': ("not a JSON object",) * 2,
    b"null": ("not a JSON object",) * 2,
    b'{"id": "n", "prompt": "Hi", "more": NaN}': ("not JSON", "not JSON: the number NaN is not finite"),
    b'{"id": true, "prompt": "Hi"}': (
        "'id' is neither text nor a number",
        "'id' is neither text nor a number but true or false",
    ),
    b'{"id": " ", "prompt": "Hi"}': ("'id' is empty",) * 2,
    b'{"id": "x"}': ("'prompt' is missing",) * 2,
    b'{"id": "x", "prompt": null}': ("'prompt' is missing",) * 2,
    b'{"id": "x", "prompt": " \\n"}': ("'prompt' is empty",) * 2,
    b'{"id": "x", "prompt": ["Hi"]}': ("'prompt' is not text", "'prompt' is not text but a list"),
    b'{"id": "x", "prompt": true}': ("'prompt' is not text", "'prompt' is not text but true or false"),
    b'{"id": "x", "prompt": "Hi", "prefix": {}}': ("'prefix' is not text", "'prefix' is not text but an object"),
    b'{"id": "x", "prompt": "Hi", "reference": 1.5}': (
        "'reference' is not text",
        "'reference' is not text but a number",
    ),
    b'{"id": "x", "prompt": "\\ud83d"}': ("half a surrogate pair, which is no text",) * 2,
    b'{"id": "x", "prompt": "Hi", "more": ["\\udc00"]}': ("half a surrogate pair, which is no text",) * 2,
    b'{"id": "x", "prompt": "H\xe9"}': ("not UTF-8", "not UTF-8: byte 25 of the line cannot be read"),
    b'{"id": "good", "prompt": "Hi"}': ("repeated id", "repeated id 'good', first seen at data.jsonl:1"),
}


@pytest.mark.parametrize("line", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_line_is_counted_and_reported_with_file_and_line(tmp_path, line):
    good = {"id": "good", "prompt": "Hi"}
    dataset = load_dataset("mine", path=write(tmp_path, good, b"", line, {"id": "x", "prompt": "after"}))
    reason, message = MALFORMED[line]
    assert [example.prompt for example in dataset.examples] == ["Hi", "after"]
    assert dataset.left_out == {reason: 1} and dataset.read == 3
    (problem,) = dataset.problems
    assert problem.startswith(f"data.jsonl:3: {message}")


def test_numbers_as_ids_become_text_and_a_line_without_one_gets_its_number(tmp_path):
    lines = [{"id": 1, "prompt": "a"}, b"", {"prompt": "b"}, {"id": None, "prompt": "c"}, {"id": 2.5, "prompt": "d"}]
    dataset = load_dataset("mine", path=write(tmp_path, *lines, {"id": 2.5, "prompt": "e"}))
    assert [(example.id, example.prompt) for example in dataset.examples] == [
        *(("1", "a"), ("3", "b"), ("4", "c"), ("2.5", "d")),
    ]
    assert dataset.problems == ("data.jsonl:6: repeated id '2.5', first seen at data.jsonl:5",)


def test_a_line_without_an_id_never_takes_the_id_of_another(tmp_path):
    """Ids that are given before and after it, and the name that it would get next."""
    lines = [{"id": 2, "prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}, {"id": "3", "prompt": "d"}]
    dataset = load_dataset("mine", path=write(tmp_path, *lines, {"id": "3-2", "prompt": "e"}))
    assert [(example.id, example.prompt) for example in dataset.examples] == [
        *(("2", "a"), ("2-2", "b"), ("3-3", "c"), ("3", "d"), ("3-2", "e")),
    ]
    assert dataset.problems == () and adds_up(dataset)


def test_all_reasons_together_add_up(tmp_path):
    dataset = load_dataset("mine", path=write(tmp_path, {"id": "good", "prompt": "Hi"}, *MALFORMED))
    assert len(dataset.examples) == 1 and dataset.read == 1 + len(MALFORMED)
    assert adds_up(dataset) and len(dataset.problems) == len(MALFORMED)
    assert dataset.left_out["'prompt' is missing"] == 2
    assert "2 ('prompt' is missing)" in dataset.summary


def test_lines_end_at_line_feeds_only(tmp_path):
    separators = "one\u2028two\u2029three\x85four\x0b\x0cfive"
    first = b"\xef\xbb\xbf" + json.dumps({"id": "a", "prompt": separators}, ensure_ascii=False).encode() + b"\r"
    path = write(tmp_path, first, b" \r", b'{"id": "b",\r"prompt": "two"}\r', b"{", b"")
    dataset = load_dataset("mine", path=path)
    assert [(example.id, example.prompt) for example in dataset.examples] == [("a", separators), ("b", "two")]
    assert dataset.read == 3 and dataset.problems[0].startswith("data.jsonl:4: not JSON")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n \n", "is empty"),
        (b'{"id": "a"}\n{', "of 2 left out 1 ('prompt' is missing), 1 (not JSON); the first: data.jsonl:1: 'prompt'"),
        ('{"id": "a", "prompt": "Hi"}'.encode("utf-16"), "of 1 left out 1 (not UTF-8)"),
    ],
)
def test_a_file_without_a_record_to_use_is_an_error(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(InputFileError) as caught:
        load_dataset("mine", path=path)
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(InputFileError, match="No such file"):
        load_dataset("mine", path=tmp_path / "none.jsonl")
    with pytest.raises(InputFileError, match="folder"):
        load_dataset("alpaca", path=tmp_path)


def test_a_file_where_every_record_is_filtered_says_so(tmp_path):
    with pytest.raises(InputFileError, match=r"of 1 left out 1 \(not of 18 to 478 words\)"):
        load_dataset("mhc", path=write(tmp_path, {"id": "a", "prompt": "short"}))


def test_an_unknown_name_without_a_path_is_refused():
    with pytest.raises(SettingError, match=r"'mine'.*alpaca, tldr_news, mhc, counsel_chat, aqua.*--data mine=path"):
        load_dataset("mine")


# The slice


@pytest.fixture
def hundred(tmp_path) -> Path:
    return write(tmp_path, *({"id": f"r{i}", "prompt": f"prompt {i}"} for i in range(100)))


def test_a_smaller_limit_is_the_beginning_of_a_larger_one(hundred):
    ids = {n: [example.id for example in load_dataset("mine", path=hundred, limit=n).examples] for n in (1, 7, 25, 100)}
    assert ids[100][:25] == ids[25] and ids[25][:7] == ids[7] and ids[7][:1] == ids[1]
    assert sorted(ids[100]) == sorted(f"r{i}" for i in range(100)) and ids[100] != [f"r{i}" for i in range(100)]


def test_the_slice_depends_on_the_seed_and_is_accounted_for(hundred):
    first, again, other = (load_dataset("mine", path=hundred, limit=10, seed=seed) for seed in (0, 0, 1))
    assert first == again and first.examples != other.examples
    assert first.left_out == {"beyond the limit of 10": 90} and adds_up(first) and first.problems == ()
    assert load_dataset("mine", path=hundred, limit=500).left_out == {}


def test_the_order_of_two_records_does_not_depend_on_the_others(hundred, tmp_path):
    whole = [example.id for example in load_dataset("mine", path=hundred, limit=100).examples]
    half = write(tmp_path, *({"id": f"r{i}", "prompt": "other"} for i in range(99, 0, -2)), name="half.jsonl")
    odd = [example.id for example in load_dataset("mine", path=half, limit=100).examples]
    assert odd == [i for i in whole if int(i[1:]) % 2]


def test_without_a_limit_the_order_is_the_file_s(hundred):
    assert [example.id for example in load_dataset("mine", path=hundred).examples] == [f"r{i}" for i in range(100)]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(hundred, limit):
    with pytest.raises(SettingError, match=f"got {limit}"):
        load_dataset("mine", path=hundred, limit=limit)


# Named sets from a file


@pytest.mark.parametrize(("name", "fewest", "most"), [("alpaca", 16, 39), ("tldr_news", 14, 138), ("mhc", 18, 478)])
def test_length_bounds_are_the_paper_s(tmp_path, name, fewest, most):
    lengths = (fewest - 1, fewest, most, most + 1)
    path = write(tmp_path, *({"id": str(n), "prompt": words(n)} for n in lengths))
    dataset = load_dataset(name, path=path)
    assert [example.id for example in dataset.examples] == [str(fewest), str(most)]
    assert dataset.left_out == {f"not of {fewest} to {most} words": 2} and dataset.problems == ()
    if name == "mhc":
        assert load_dataset("counsel_chat", path=path).examples == dataset.examples


def test_alpaca_counts_the_instruction_where_the_file_says_its_length(tmp_path):
    path = write(
        tmp_path,
        {"id": "long input", "prompt": words(78), "instruction_words": 16},
        {"id": "long instruction", "prompt": words(50), "instruction_words": 40},
        {"id": "wrong", "prompt": words(20), "instruction_words": "20"},
        {"id": "wrong too", "prompt": words(20), "instruction_words": True},
    )
    dataset = load_dataset("alpaca", path=path)
    assert [example.id for example in dataset.examples] == ["long input"] and adds_up(dataset)
    assert dataset.left_out == {"not of 16 to 39 words": 1, "'instruction_words' is not a whole number": 2}
    assert len(dataset.problems) == 2
    assert len(load_dataset("mine", path=path).examples) == 4


def test_a_repeated_prompt_of_a_named_set_is_left_out(tmp_path):
    same = (words(20, "Tell"), words(20, "TELL").replace(" ", " \n"), words(20, "Say"))
    path = write(tmp_path, *({"id": str(i), "prompt": prompt} for i, prompt in enumerate(same)))
    dataset = load_dataset("counsel_chat", path=path)
    assert [example.id for example in dataset.examples] == ["0", "2"]
    assert dataset.left_out == {"repeated prompt": 1} and adds_up(dataset)
    assert len(load_dataset("mine", path=path).examples) == 3


def test_control_texts_are_the_set_s_own(tmp_path):
    path = write(tmp_path, {"id": "a", "prompt": words(20), "prefix": "other", "headline": "H", "system": "S"})
    tldr = load_dataset("tldr_news", path=path).examples[0]
    assert tldr.prefix == "Please generate a headline from the following piece of context."
    assert (tldr.prefill, tldr.system, tldr.reference) == (PREFILL, None, "H")
    assert tldr.extra == {"prefix": "other", "system": "S"}
    alpaca = load_dataset("alpaca", path=path).examples[0]
    assert alpaca.prefix is not None and alpaca.prefix.endswith(
        "analyze the following context and answer the question."
    )
    assert alpaca.reference is None and alpaca.extra["headline"] == "H"
    mhc, counsel_chat = (load_dataset(name, path=path).examples[0] for name in ("mhc", "counsel_chat"))
    assert mhc == counsel_chat and mhc.prefill == "Of course! I'd be happy to help you with that."
    assert mhc.prefix is not None and mhc.prefix.startswith("Please generate advice or suggestions in response")


def test_aqua_writes_the_choices_as_the_demonstrations_do(tmp_path):
    unlettered = {"id": "b", "question": "Which?", "options": ["this", "that"], "correct": "A"}
    path = write(
        tmp_path, {"id": "a", **AQUA_ROW}, unlettered, {**unlettered, "id": "c", "question": "Who?", "correct": None}
    )
    first, second, third = load_dataset("aqua", path=path).examples
    assert (first.prompt, first.reference) == (AQUA_PROMPT, "(b)")
    assert (second.prompt, second.reference) == ("Which?\nAnswer Choices: (a) this (b) that", "(a)")
    assert third.reference is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": []}, "'options' is not a list of texts"),
        ({"options": "A)3"}, "'options' is not a list of texts"),
        ({"options": ["A)3", 4]}, "'options' is not a list of texts"),
        ({"correct": "E"}, "'correct' names none of the options"),
        ({"correct": 1}, "'correct' is not text"),
        ({"question": ""}, "'question' is empty"),
    ],
)
def test_a_malformed_question_is_reported(tmp_path, change, reason):
    dataset = load_dataset("aqua", path=write(tmp_path, {"id": "a", **AQUA_ROW}, {"id": "b", **AQUA_ROW, **change}))
    assert dataset.left_out == {reason: 1} and dataset.problems[0].startswith(f"data.jsonl:2: {reason}")


@pytest.mark.parametrize("template", [None, "chatml"])
def test_only_the_question_and_its_choices_are_attributable(tmp_path, template):
    example = load_dataset("aqua", path=write(tmp_path, {"id": "a", **AQUA_ROW})).examples[0]
    tokenizer = small_tokenizer("byte-level", template)
    built = build_prompt(tokenizer, example.prompt, prefix=example.prefix, prefill=example.prefill)
    assert "".join(unit.text for unit in built.units) == AQUA_PROMPT
    shown = str(tokenizer.decode(built.ids))
    assert AQUA_DEMONSTRATIONS + "Q: " + AQUA_PROMPT in shown and shown.endswith("\nA:")
    if template is None:
        assert shown.endswith("Q: " + AQUA_PROMPT + "\nA:")
