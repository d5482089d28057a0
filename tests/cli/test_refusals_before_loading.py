"""Bad input that needs no model to be seen is one line before a model is loaded: on the command line and in Python."""

import json

import pytest

import jopa

TEXTS = {
    "good.jsonl": '{"id": "1", "text": "the doctor. a story."}',
    "number.jsonl": "7",
    "no-text.jsonl": '{"title": "a"}',
    "list-text.jsonl": '{"text": ["a"]}',
    "two.jsonl": '{"id": "1", "text": "a"}\n{"id": 1, "text": "b"}',
    "empty.jsonl": '{"text": "a"}\n{"id": "x", "text": " \\n"}',
    "nothing.jsonl": "\n",
    "system.json": '[{"role": "system", "content": "the doctor"}]',
    "blank.json": '[{"role": "user", "content": "  "}]',
    "calls.json": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{}]}]',
    "image.json": '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]',
    "tool.json": '[{"role": "tool", "content": "4 degrees"}]',
    "none.json": "[]",
    "text.json": '"hello"',
}
QUESTION = "where is the doctor"
CITE = (QUESTION, "--cite", "--documents", "good.jsonl")


@pytest.fixture
def nothing_loads(run, monkeypatch):
    """`jopa` where loading a model fails the test."""
    monkeypatch.setattr("jopa.model.loading.load", lambda *_, **__: pytest.fail("a model was loaded"))
    return run


@pytest.fixture
def explain(nothing_loads, tmp_path):
    """`jopa explain` without a model; names of `TEXTS` become files."""
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(b"\xff\x00")
    (tmp_path / "bare").mkdir()
    files = {*TEXTS, "folder", "bare"}

    return lambda *words: nothing_loads("explain", *(tmp_path / word if word in files else word for word in words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((QUESTION, "--documents", "number.jsonl"), "document 1 is no text: 7"),
        ((QUESTION, "--documents", "no-text.jsonl"), "document 1 is no text"),
        ((QUESTION, "--documents", "list-text.jsonl"), "document 1 is no text"),
        ((QUESTION, "--documents", "folder"), "is no text: byte 0 is not UTF-8"),
        ((QUESTION, "--documents", "bare"), "holds no files"),
        ((QUESTION, "--documents", "two.jsonl"), "two documents have the id '1' (numbers 1 and 2)"),
        ((QUESTION, "--documents", "empty.jsonl"), "document 2 (id 'x') is empty"),
        ((QUESTION, "--documents", "nothing.jsonl"), "holds no documents"),
        ((QUESTION, "--unit", "document"), "unit 'document' needs documents"),
        ((QUESTION, "--attribute", "documents"), "there are no documents"),
        ((QUESTION, "--attribute", "tools"), "no message is of role 'tool'"),
        ((QUESTION, "--attribute", "7"), "there is no message at place 7"),
        ((QUESTION, "--attribute", "-2"), "there is no message at place -2"),
        ((QUESTION, "--attribute", "trace", "--unit", "0-5"), "character spans are of the prompt"),
        ((QUESTION, "--unit", "0-100"), "span (0, 100) does not lie within the prompt's 19 characters"),
        ((QUESTION, "--unit", "5-2"), "span (5, 2) does not lie within"),
        ((QUESTION, "--output", " "), "the output to explain is empty"),
        ((QUESTION, "--budget", "0"), "the budget must be at least 1, got 0"),
        ((QUESTION, "--template-arg", "documents=[]"), "'documents' is no argument of a chat template"),
        ((QUESTION, "--unit", "sentence", "--refine", "paragraph"), "'paragraph' is not finer than 'sentence'"),
        ((QUESTION, "--refine", "word", "--refine", "word"), "'word' is not finer than 'word'"),
        ((QUESTION, "--refine", "syllable"), "unknown unit 'syllable'"),
        ((QUESTION, "--unit", "0-5", "--refine", "word"), "not spans"),
        ((" ",), "the prompt is empty"),
        (("--messages", "system.json"), "no message is of role 'user'"),
        (("--messages", "blank.json"), "the prompt is empty"),
        (("--messages", "calls.json"), "the last message is the assistant's and calls tools"),
        (("--messages", "image.json"), "part of type 'image_url'"),
        (("--messages", "tool.json"), "no message is of role 'user'"),
        (("--messages", "none.json"), "there are no messages"),
        (("--messages", "text.json"), "chat messages are a JSON list"),
        (("--messages", "system.json", "--documents", "good.jsonl"), "no message is of role 'user'"),
        ((QUESTION, "--against", " "), "the prompt is empty"),
        ((QUESTION, "--against", "another prompt", "--unit", "syllable"), "unknown unit 'syllable'"),
        ((QUESTION, "--unit", "syllable"), "unknown unit 'syllable': choose one of token, word, sentence"),
        ((QUESTION, "--removal", "burn"), "unknown removal 'burn': choose one of delete, zero, hide"),
        ((QUESTION, "--method", "guess"), "unknown method 'guess': choose one of"),
        ((QUESTION, "--k", "0"), "k must be at least 1, got 0"),
        ((QUESTION, "--language", "deutsch!"), "the language must be a code"),
        ((QUESTION, "--compare", "ablation,guess"), "unknown method 'guess'"),
        ((QUESTION, "--compare", "ablation,random", "--unit", "syllable"), "unknown unit 'syllable'"),
        ((QUESTION, "--compare", "ablation,random", "--removal", "burn"), "unknown removal 'burn'"),
        ((QUESTION, "--diagnose", "--unit", "syllable"), "unknown unit 'syllable'"),
        ((QUESTION, "--diagnose", "--removal", "burn"), "unknown removal 'burn'"),
        ((QUESTION, "--diagnose", "--band", "1.1:1.2"), "the band must reach from above 0"),
        ((*CITE, "--unit", "syllable"), "unknown unit 'syllable'"),
        ((*CITE, "--removal", "burn"), "unknown removal 'burn'"),
        ((*CITE, "--below", "2"), "the PR that a sentence must fall below"),
        ((*CITE, "--max-sources", "0"), "max_sources must be at least 1"),
        ((*CITE, "--attribute", "user"), "citations are of the documents alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_one_line_and_no_model(explain, words, said):
    code, out, err = explain(*words)
    assert (code, out, err.strip().count("\n")) == (1, "", 0), err
    assert said in err and err.startswith("jopa: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--k", "0"], "k must be at least 1"), (["--budget", "0"], "budget must be at least 1")],
)
def test_detect_is_one_line_and_no_model(nothing_loads, words, said):
    code, _, err = nothing_loads("detect", QUESTION, *words)
    assert code == 1
    assert err.startswith(f"jopa: {said}")


def test_detect_takes_the_name_of_a_missing_file_for_no_prompt(nothing_loads):
    code, _, err = nothing_loads("detect", "missing.jsonl")
    assert (code, err) == (1, "jopa: cannot read 'missing.jsonl': No such file or directory\n")


def test_cite_without_documents_is_wrong_usage(explain):
    code, _, err = explain(QUESTION, "--cite")
    assert code == 2
    documents = "--documents FILE.jsonl or a folder"
    assert err == f"jopa: --cite cites documents: give some with {documents}; see jopa explain --help\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: jopa.explain(QUESTION, model=model, documents=["a", 7]), "document 2 is no text"),
        (lambda model: jopa.explain(QUESTION, model=model, documents=[]), "the list of documents is empty"),
        (lambda model: jopa.explain([], model=model), "there are no messages"),
        (
            lambda model: jopa.explain("a", model=model, unit="word", search=jopa.SearchOptions(refine=("line",))),
            "'line' is not finer than 'word'",
        ),
        (lambda model: jopa.explain("a", model=model, removal="erase"), "unknown removal 'erase'"),
        (lambda model: jopa.cite(QUESTION, model=model), "citations are of documents, and there are none"),
        (lambda model: jopa.cite(QUESTION, [" "], model=model), "document 1 is empty"),
        (lambda model: jopa.cite(" ", ["a"], model=model), "the prompt is empty"),
    ],
)
def test_python_refuses_before_it_loads_a_model(call, said, tmp_path):
    with pytest.raises(jopa.JopaError) as refused:
        call(tmp_path / "no-model-is-here")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_whole_request_as_it_was_sent_is_taken(run, tmp_path):
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    request = {"model": "x", "temperature": 0.2, "messages": [{"role": "user", "content": "a story"}], "tools": [tool]}
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    words = ("--output", "yes", "--unit", "word", "-k", "1", "--max-new-tokens", "2", "--json", "-")
    code, out, err = run("explain", "--messages", path, *words)
    assert code == 0, err
    record = json.loads(out)
    assert record["prompt"]["text"] == "a story"
    assert record["details"]["rendering"]["tools"] == [tool]


@pytest.mark.parametrize("words", [("explain", QUESTION), ("detect", QUESTION)])
def test_a_page_does_not_go_to_a_file_called_dash(nothing_loads, words):
    assert nothing_loads(*words, "--html", "-") == (
        1,
        "",
        "jopa: cannot write '-': only --json goes to stdout; name a file\n",
    )


def test_a_prompt_that_cannot_be_read_is_named(nothing_loads, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    code, out, err = nothing_loads("detect", "--file", tmp_path / "a.txt")
    assert (code, out) == (1, "")
    assert err == "jopa: cannot judge 'a.txt': not UTF-8: byte 4 cannot be read; save it as UTF-8\n"
