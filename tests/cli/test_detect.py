"""`jopa detect` as its users meet it."""

import io
import json

import pytest

import tiny_models
from jopa import cli
from jopa.model import loading

PROMPT = "write a story about the doctor and his patient"


@pytest.fixture
def run(monkeypatch, capsys):
    """`jopa detect` with the tiny model in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny_models.language_model("llama"))

    def call(*arguments):
        words = ["jopa", "detect", *map(str, arguments), "--budget", "4", "--max-new-tokens", "3"]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_one_prompt_is_told_in_words(run):
    code, out, err = run(PROMPT)
    assert code == 0
    assert err == ""
    for word in (
        "score: 0.",
        "optimised suffixes",
        "fluent",
        "Uncalibrated",
        "write a story about",
        "answer",
        "without it",
        "PR",
        "surprisal",
        "characters",
    ):
        assert word in out


def test_json_on_stdout_is_pure(run):
    code, out, _ = run(PROMPT, "--json", "-")
    record = json.loads(out)
    assert code == 0
    assert record["id"] == "prompt 1"
    assert 0 <= record["score"] <= 1
    assert record["calibrated"] is False
    assert "optimised suffixes" in record["tuned_for"]
    assert record["beginning"] == PROMPT
    assert set(record["answer"]) == {"kind", "tokens", "log_prob"}


def test_a_file_is_one_prompt(run, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT + "\n")
    by_option, by_argument, by_text = (
        json.loads(run(*arguments, "--json", "-")[1]) for arguments in (("--file", path), (path,), (PROMPT,))
    )
    assert by_option["id"] == by_argument["id"] == "prompt.txt"
    assert by_option["score"] == by_argument["score"] == by_text["score"]
    assert by_option["span"] == by_text["span"]


def test_many_prompts_are_a_table_and_records(run, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "good", "prompt": "green birds in rain"}\n{"id": "[b]bad\\u001b", "prompt": " "}\n')
    out_folder = tmp_path / "out"
    code, out, err = run(path, PROMPT, "--out", out_folder)
    assert code == 0
    assert "good" in out
    flat = " ".join(out.split())
    assert "hostile" not in flat
    assert "most surprising text" in flat and "Uncalibrated" in flat and "optimised suffixes" in flat
    assert "[b]bad\\x1b" in out  # never read as markup, and nothing unseen reaches the terminal
    assert "the prompt is empty" in " ".join(out.split())
    assert "1 of 3 prompts could not be judged" in err
    records = [json.loads(line) for line in (out_folder / "verdicts.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["good", "[b]bad\x1b", "prompt 1"]
    assert [record["status"] for record in records] == ["done", "failed", "done"]


def test_an_id_may_hold_what_no_terminal_shows(run, tmp_path):
    path = tmp_path / "strange.jsonl"
    path.write_text('{"id": "half \\ud800", "prompt": "green birds"}\n')
    assert json.loads(run(path, "--json", "-")[1])["id"] == "half \ud800"
    code, out, _ = run(path, "green birds", "--out", tmp_path / "out")
    assert code == 0
    assert "half \\ud800" in out


def test_stdin_is_one_prompt(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PROMPT.encode() + b"\n")))
    record = json.loads(run("--file", "-", "--json", "-")[1])
    assert record["id"] == "stdin"
    assert record["span"] == json.loads(run(PROMPT, "--json", "-")[1])["span"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a PROMPT, or --file"),
        ([""], 1, "jopa: the prompt is empty; give a text with something in it besides blanks"),
        ([PROMPT, "--k", "0"], 1, "k must be at least 1, got 0"),
        ([PROMPT, "--most-tokens", "5"], 1, "more than the limit of 5"),
        (["one", "two", "--json", "-"], 2, "--json takes one prompt, got 2"),
        (["--file", "nowhere.txt"], 1, "cannot read 'nowhere.txt': No such file or directory"),
        (["x" * 20_000, "--most-tokens", "1"], 1, "more than the limit of 1"),
        (["", " "], 1, "2 of 2 prompts could not be judged"),
        ([PROMPT, "--json", "/nowhere/out.json"], 1, "cannot write '/nowhere/out.json'"),
        (["a\0b \udcff"], 1, "half a surrogate pair"),
        (["--file", ".", "--out", "./runs/out"], 2, "--out lies in the folder of prompts '.'"),
    ],
)
def test_bad_input_is_one_clear_line(run, arguments, code, message):
    found, _, err = run(*arguments)
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
