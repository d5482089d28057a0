"""What no model could do is refused before one is loaded, in one line and with the exit code of every refusal."""

import pytest

PROMPT = "write a story about the doctor"
MISTAKES = [
    ([PROMPT, "--unit", "syllable"], "unknown unit 'syllable': choose one of token, word, sentence"),
    ([PROMPT, "--unit", "document"], "unit 'document' needs documents"),
    ([PROMPT, "--removal", "burn"], "unknown removal 'burn': choose one of delete, zero, hide"),
    ([PROMPT, "--method", "guess"], "unknown method 'guess': choose one of"),
    ([PROMPT, "--compare", "ablation,guess"], "unknown method 'guess'"),
    ([PROMPT, "--compare", "ablation,random", "--unit", "syllable"], "unknown unit 'syllable'"),
    ([PROMPT, "--compare", "ablation,random", "--removal", "burn"], "unknown removal 'burn'"),
    ([PROMPT, "--diagnose", "--unit", "syllable"], "unknown unit 'syllable'"),
    ([PROMPT, "--diagnose", "--removal", "burn"], "unknown removal 'burn'"),
    ([PROMPT, "--diagnose", "--band", "1.1:1.2"], "the band must reach from above 0"),
    ([PROMPT, "--against", "another prompt", "--unit", "syllable"], "unknown unit 'syllable'"),
    ([PROMPT, "--against", " "], "the prompt is empty"),
    ([PROMPT, "--refine", "syllable"], "unknown unit 'syllable' to refine to"),
    ([PROMPT, "--k", "0"], "k must be at least 1, got 0"),
    ([PROMPT, "--language", "deutsch!"], "the language must be a code"),
    (["  "], "the prompt is empty"),
]


@pytest.fixture
def nothing_loads(monkeypatch, run):
    monkeypatch.setattr("jopa.model.loading.load", lambda *_, **__: pytest.fail("loaded a model for nothing"))
    return run


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_explain_refuses_before_a_model_is_loaded(nothing_loads, arguments, message):
    code, out, err = nothing_loads("explain", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"jopa: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "syllable"], "unknown unit 'syllable'"),
        (["--removal", "burn"], "unknown removal 'burn'"),
        (["--below", "2"], "the PR that a sentence must fall below"),
        (["--max-sources", "0"], "max_sources must be at least 1"),
        (["--attribute", "user"], "citations are of the documents alone"),
    ],
)
def test_cite_refuses_before_a_model_is_loaded(nothing_loads, tmp_path, arguments, message):
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"text": "The doctor is green."}\n')
    code, _, err = nothing_loads("explain", "who is green?", "--cite", "--documents", documents, *arguments)
    assert code == 1
    assert err.startswith(f"jopa: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--k", "0"], "k must be at least 1"), (["--budget", "0"], "budget must be at least 1")],
)
def test_detect_refuses_before_a_model_is_loaded(nothing_loads, arguments, message):
    code, _, err = nothing_loads("detect", PROMPT, *arguments)
    assert code == 1
    assert err.startswith(f"jopa: {message}")


def test_the_documents_alone_may_be_named_for_citations(run, tmp_path):
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"text": "the doctor and his patient"}\n')
    options = ("--cite", "--documents", documents, "--attribute", "documents", "--max-new-tokens", "4")
    assert run("explain", "write a story", *options)[0] == 0
