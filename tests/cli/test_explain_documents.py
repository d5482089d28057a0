"""`jopa explain --documents` and `--attribute` on a tiny model in a folder."""

import json

import pytest


@pytest.fixture
def explain(run):
    """`jopa explain` of a given output with a tiny model; returns exit code, stdout and stderr."""

    def call(*words):
        given = () if "--output" in words else ("--output", "yes")
        return run("explain", *words, *given, "--max-new-tokens", 6, "--budget", 10)

    return call


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    lines = [{"id": "museum", "title": "Hours", "text": "the doctor is in. the patient is out."}, "a story of a man."]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def record_of(explain, *arguments):
    code, out, err = explain(*arguments, "--json", "-")
    assert code == 0, err
    return json.loads(out)


def test_units_are_of_the_documents_and_the_question_stays(explain, documents):
    record = record_of(explain, "where is the doctor", "--documents", str(documents), "--unit", "sentence", "-k", "1")
    units = record["prompt"]["units"]
    assert {unit["document"] for unit in units} == {"museum", "2"}
    assert not any("where is" in unit["text"] for unit in units)
    assert record["details"]["documents_through"] in ("frame", "template")


def test_whole_documents_are_units(explain, documents):
    record = record_of(explain, "where is the doctor", "--documents", str(documents), "--unit", "document", "-k", "1")
    assert [unit["document"] for unit in record["prompt"]["units"]] == ["museum", "2"]
    assert len(record["removed"]) == 1


def test_a_message_is_named_by_its_place(explain, tmp_path):
    chat = [{"role": "user", "content": "the doctor"}, {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "a story"}]  # fmt: skip
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(chat))
    units = record_of(explain, "--messages", str(path), "--attribute", "0", "--unit", "word", "-k", "1")["prompt"][
        "units"
    ]
    assert "".join(unit["text"] for unit in units).replace(" ", "") == "thedoctor"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}', "two documents have the id '1'"),
        ('{"text": "  "}', "empty"),
        ("{", "is no JSON"),
    ],
)
def test_bad_documents_are_one_line(explain, tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    code, _, err = explain("where is the doctor", "--documents", str(path))
    assert code == 1 and message in err and err.strip().count("\n") == 0


def test_the_word_answer_in_an_output_is_not_taken_for_the_answer_after_a_trace(explain):
    code, _, err = explain("where is the doctor", "--output", "the answer is here", "--target", "answer")
    assert code == 1 and "holds no reasoning trace" in err


def test_the_answer_after_a_trace_is_explained_alone(explain):
    words = ("--output", "<think>the man</think>the doctor is in", "--target", "answer", "--k", "1", "--unit", "word")
    record = record_of(explain, "where is the doctor", *words)
    start, end = record["output"]["target"]
    assert 0 < start < end == len(record["output"]["ids"])


def test_citations_are_written_as_text_json_and_a_page(run, documents, tmp_path):
    page = tmp_path / "page.html"
    words = ["where is the doctor", "--documents", documents, "--cite", "--below", "0.99", "--max-sources", "2"]
    code, out, err = run("explain", *words, "--output", "the doctor is in. a story.", "--html", page)
    assert code == 0, err
    assert "without all sources" in out and "Wrote" in err and "data-sentence" in page.read_text()
    code, out, err = run("explain", *words, "--output", "the doctor is in. a story.", "--json", "-")
    record = json.loads(out)
    assert record["kind"] == "citations" and record["below"] == 0.99 and record["max_sources"] == 2
    assert len(record["citations"]) == 1  # its tokens are words without full stops


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cite"], "--cite cites documents"),
        (["--cite", "--documents", "D", "-k", "2"], "leave out --k"),
        (["--cite", "--documents", "D", "--diagnose"], "leave out one of them"),
        (["--below", "0.5"], "--below needs --cite"),
        (["--max-sources", "2"], "--max-sources needs --cite"),
    ],
)
def test_options_that_do_not_fit_citations_are_one_line(run, documents, words, said):
    code, _, err = run("explain", "where is the doctor", *(documents if word == "D" else word for word in words))
    assert code == 2 and said in " ".join(err.replace("│", " ").split())
