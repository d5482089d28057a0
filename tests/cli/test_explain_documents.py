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
        (["--band", "0.9:1.1"], "--band needs --diagnose"),
        (["--requests", "1"], "--requests needs --diagnose"),
        (["--title", "A"], "--title heads the page: it needs --html"),
        (["--compare", "joint", "--method", "jopa"], "--compare names the methods itself: leave out --method"),
        (["--compare", "joint", "--against", "b"], "--against compares two prompts and --compare methods"),
        (["--max-sources", "2"], "--max-sources needs --cite"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(run, documents, words, said):
    code, _, err = run("explain", "where is the doctor", *(documents if word == "D" else word for word in words))
    assert code == 2 and err.startswith("jopa: ") and said in err and err.count("\n") == 1


def test_a_search_from_coarse_to_fine_is_a_tree(run, documents):
    words = ["where is the doctor", "--documents", documents, "--output", "yes", "--unit", "document", "-k", "1"]
    words += ["--refine", "sentence", "--refine", "word", "--budget", "12", "--max-new-tokens", "4"]
    code, out, err = run("explain", *words)
    assert code == 0, err
    assert "From coarse to fine" in out and "museum: " in out and "Level 3: word" in out
    code, out, err = run("explain", *words, "--json", "-")
    assert [level["unit"] for level in json.loads(out)["levels"]] == ["document", "sentence", "word"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unit", "sentence", "--refine", "document"], "refine 'document' is not finer than 'sentence'"),
        (["--unit", "document", "--refine", "syllable"], "unknown unit 'syllable'"),
        (["--unit", "0-3", "--refine", "word"], "not spans"),
        (["--unit", "document", "--refine", "word", "--all-effects"], "all_effects"),
    ],
)
def test_a_refinement_that_does_not_fit_is_one_line(explain, documents, words, said):
    code, _, err = explain("where is the doctor", "--documents", str(documents), *words)
    assert code == 1 and said in err and err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "system", "content": "the doctor"}], "nothing attributable"),
        ([{"role": "user", "content": "  "}], "empty"),
        ([{"role": "user", "content": None}], "is not of the form"),
    ],
)
def test_messages_without_anything_attributable_are_one_line(explain, tmp_path, messages, said):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(messages))
    code, _, err = explain("--messages", str(path))
    assert code == 1 and said in err and err.strip().count("\n") == 0


def test_documents_longer_than_the_context_are_one_line_with_both_lengths_and_how_many_fit(explain, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps({"text": "the doctor " * 12}) for _ in range(9)))
    code, _, err = explain("where is the doctor", "--documents", str(path))
    assert code == 1 and err.strip().count("\n") == 0
    assert "context of 128 tokens" in err and "of the 9 documents the first 4 would fit" in err


def test_a_folder_with_a_file_that_is_no_text_is_one_line(explain, tmp_path):
    (tmp_path / "a.txt").write_text("the doctor")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\xff\x00")
    code, _, err = explain("where is the doctor", "--documents", str(tmp_path))
    assert code == 1 and "is no text" in err and err.strip().count("\n") == 0


def test_the_documents_alone_may_be_named_for_citations(run, tmp_path):
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"text": "the doctor and his patient"}\n')
    options = ("--cite", "--documents", documents, "--attribute", "documents", "--max-new-tokens", "4")
    assert run("explain", "write a story", *options)[0] == 0
