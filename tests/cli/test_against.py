"""`jopa explain A --against B`: two prompts with the same options, side by side."""

import json

import pytest

import jopa

FIRST, SECOND = "write a story about the doctor and his patient", "write a story about green birds in rain"
SHORT = ("--k", 2, "--max-new-tokens", 3)


def test_both_prompts_are_explained_with_the_same_options(run, tmp_path):
    files = ("--json", tmp_path / "p.json", "--html", tmp_path / "p.html", "--title", "Doctors or birds")
    code, out, err = run("explain", FIRST, "--against", SECOND, "--unit", "word", *SHORT, *files)
    assert code == 0, err
    pair = jopa.PromptComparison.from_json((tmp_path / "p.json").read_text())
    assert (pair.first.prompt, pair.second.prompt) == (FIRST, SECOND)
    assert pair.first.k == pair.second.k == 2
    assert "first prompt" in out and "second prompt" in out
    assert '<p class="heading">Doctors or birds</p>' in (tmp_path / "p.html").read_text()


def test_the_second_comes_as_the_first(run, tmp_path):
    for name, text in (("a.txt", FIRST), ("b.txt", SECOND)):
        (tmp_path / name).write_text(text)
    code, out, _ = run("explain", "--file", tmp_path / "a.txt", "--against", tmp_path / "b.txt", *SHORT, "--json", "-")
    assert code == 0 and json.loads(out)["second"]["prompt"]["text"] == SECOND
    for name, text in (("a.json", FIRST), ("b.json", SECOND)):
        (tmp_path / name).write_text(json.dumps([{"role": "user", "content": text}]))
    chats = ("--messages", tmp_path / "a.json", "--against", tmp_path / "b.json")
    code, out, _ = run("explain", *chats, *SHORT, "--json", "-")
    assert code == 0 and json.loads(out)["second"]["prompt"]["text"] == SECOND


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compare", "joint,random"), "--against compares two prompts and --compare methods"),
        (("--diagnose",), "leave out --against"),
        (("--unit", "0-5,6-9"), "give --unit a name, not spans"),
        (("--title", "x"), "--title heads the page: it needs --html"),
    ],
)
def test_what_does_not_fit_is_one_line(run, options, message):
    code, _, err = run("explain", FIRST, "--against", SECOND, *options)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_a_second_prompt_with_too_few_units_is_refused_before_the_first_is_explained(run, monkeypatch):
    answers = "jopa.explanation.explaining.prepare_output"
    monkeypatch.setattr(answers, lambda *_, **__: pytest.fail("an answer was generated"))
    code, _, err = run("explain", FIRST, "--against", "green birds", "--unit", "word", "--k", 4)
    assert code == 1
    assert err == "jopa: k must be between 1 and the prompt's 2 units, got 4\n"


def test_a_second_prompt_that_cannot_be_read_is_named(run, tmp_path):
    (tmp_path / "a.txt").write_text(FIRST)
    code, _, err = run("explain", "--file", tmp_path / "a.txt", "--against", tmp_path / "none.txt")
    assert code == 1 and "none.txt" in err
