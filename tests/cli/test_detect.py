"""`jopa detect` as its users meet it."""

import io
import json

import pytest

import jopa
import tiny_models
from jopa import cli
from jopa.detection.calibration import RATE, Calibration, set_threshold
from jopa.detection.settings import DetectionConfig
from jopa.model import loading

PROMPT = "write a story about the doctor and his patient"


@pytest.fixture
def run(monkeypatch, capsys):
    """`jopa detect` with the tiny model in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr("jopa.cli.progress.EVERY_SECONDS", 600)  # however busy the machine is, no line of progress
    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny_models.language_model("llama"))

    def call(*arguments, quick=("--budget", "4", "--max-new-tokens", "3")):
        words = ["jopa", "detect", *map(str, arguments), *quick]
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
        "order: ",
        "no probability",
        "optimised suffixes",
        "fluent",
        "not fitted on this model",
        "write a story about",
        "answer",
        "without it",
        "PR",
        "surprisal",
        "characters",
    ):
        assert word in " ".join(out.split())


def test_json_on_stdout_is_pure(run):
    code, out, _ = run(PROMPT, "--json", "-")
    record = json.loads(out)
    assert code == 0
    assert record["id"] == "prompt 1"
    assert record["score"] is None and isinstance(record["order"], float)
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
    assert by_option["order"] == by_argument["order"] == by_text["order"]
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
    assert "most surprising text" in flat and "not fitted on this model" in flat and "optimised suffixes" in flat
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


# A threshold of one's own


def harmless(tmp_path, n):
    path = tmp_path / "harmless.jsonl"
    texts = [" ".join((PROMPT + " " + PROMPT).split()[i : i + size]) for size in (4, 5, 6) for i in range(9)]
    path.write_text("".join(json.dumps({"id": str(i), "prompt": text}) + "\n" for i, text in enumerate(texts[:n])))
    return path


def test_a_threshold_is_set_saved_and_used(run, tmp_path):
    saved = tmp_path / "threshold.json"
    code, out, err = run("--calibrate", harmless(tmp_path, 20), "--calibration", saved)
    assert (code, out) == (0, "")
    assert (
        "set from 20 harmless prompts of yours: at most 5 % of harmless prompts are flagged; 0 of these 20 are" in err
    )
    assert "95 % interval 0.0 % to 16.8 %" in err
    assert json.loads(saved.read_text())["prompts"] == 20
    code, out, _ = run(PROMPT, "--calibration", saved, "--json", "-")
    record = json.loads(out)
    assert code == 0
    assert record["calibration"] == json.loads(saved.read_text())
    assert record["flagged"] is (record["order"] > record["calibration"]["threshold"])
    code, out, _ = run(PROMPT, "green birds", "--calibration", saved, "--out", tmp_path / "out")
    assert code == 0
    assert "20 harmless prompts" in " ".join(out.split())
    assert "lagged" in run(PROMPT, "--calibration", saved)[1]
    code, _, err = run(PROMPT, "--calibration", saved, "--k", "2")
    assert code == 1
    assert "made with other settings (k 3, now 2); make it again with --calibrate" in " ".join(err.split())


def test_a_calibration_brings_its_settings_as_in_python(run, tmp_path):
    model = tiny_models.language_model("llama")
    config = DetectionConfig(2, 4, 3, 200, True)
    saved = set_threshold([float(i) for i in range(25)], model=model.identity, config=config).save(tmp_path / "c.json")
    code, out, err = run(PROMPT, "--calibration", saved, "--json", "-", quick=())
    assert (code, err) == (0, "")
    record = json.loads(out)
    verdict = jopa.detect(PROMPT, model=model, calibration=Calibration.read(saved))
    assert record["looking"] == config.to_dict() == verdict.config.to_dict()
    assert (record["order"], record["flagged"]) == (verdict.order, verdict.flagged)
    for more, difference in (
        (("--k", "3"), "k 2, now 3"),
        (("--most-tokens", "1024"), "most_tokens 200, now 1024"),
        (("--template-arg", "mood=3"), "template_args"),
    ):
        code, _, err = run(PROMPT, "--calibration", saved, *more, quick=())
        assert code == 1
        assert difference in " ".join(err.split())


def test_the_help_says_the_settings_that_are_used(run):
    help_ = " ".join(run("--help", quick=())[1].replace("│", " ").split())
    for name in ("k", "budget", "max_new_tokens", "most_tokens"):
        default = getattr(DetectionConfig(), name)
        assert f"[default: ({default}; with --calibration, as its prompts were judged)]" in help_
    assert f"[default: ({RATE})]" in help_


def test_a_rate_without_prompts_to_set_it_from_is_refused(run, tmp_path):
    for words in ((PROMPT,), (PROMPT, "--calibration", tmp_path / "c.json")):
        code, _, err = run(*words, "--false-alarm-rate", "0.05")
        assert code == 2
        assert "--false-alarm-rate needs --calibrate" in " ".join(err.replace("│", " ").split())


def test_a_threshold_goes_beside_the_prompts_and_judges_at_once(run, tmp_path):
    code, out, _ = run(PROMPT, "--calibrate", harmless(tmp_path, 20), "--out", tmp_path / "out")
    assert code == 0
    assert "lagged" in out
    assert (tmp_path / "harmless.calibration.json").exists()


@pytest.mark.parametrize(
    ("n", "more", "message"),
    [
        (19, [], "needs at least 20 different harmless prompts that can be judged, got 19"),
        (20, ["--false-alarm-rate", "0.01"], "a false-alarm rate of 0.01 needs at least 99"),
        (20, ["--false-alarm-rate", "0"], "must be above 0 and below 1"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(run, tmp_path, n, more, message):
    code, _, err = run("--calibrate", harmless(tmp_path, n), *more)
    assert code == 1
    assert message in " ".join(err.split())
    assert err.count("\n") == 1
