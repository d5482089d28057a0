"""The command line as its users meet it: real processes for what only a process shows, the app itself for the rest."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import jopa
from jopa import cli

PROMPT = "write a story about the doctor and his patient"
PAPER = ("--method", "jopa")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama) -> Path:
    path = tmp_path_factory.mktemp("tiny-model")
    llama.model.save_pretrained(path)
    llama.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run `jopa` in this process; returns exit code, stdout and stderr."""

    def call(*arguments, own_model=False, small=True):
        words = ["jopa", *map(str, arguments)]
        if "explain" in arguments:
            words += [] if own_model else ["--model", str(folder)]
            words += ["--max-new-tokens", "6", "--budget", "10"] if small else []
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_explain_shows_the_units_the_outputs_and_the_numbers(run):
    code, out, err = run("explain", PROMPT, "--k", 2)
    assert code == 0
    assert "Wrote" not in err
    for word in ("doctor", "PR", "synergy", "delete"):
        assert word in out


def test_json_on_stdout_is_pure(run):
    code, out, _ = run("explain", PROMPT, "--json", "-")
    assert code == 0
    a = jopa.Attribution.from_json(out)
    assert a.k == len(a.removed) == 3
    assert a.method == jopa.JointSearch(budget=10).settings
    assert a.removal == "delete"


def test_files_are_written_whole(run, tmp_path):
    code, _, err = run("explain", PROMPT, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert code == 0
    assert f"Wrote {tmp_path / 'a.json'}" in err
    assert f"Wrote {tmp_path / 'a.html'}" in err
    a = jopa.Attribution.from_json((tmp_path / "a.json").read_text())
    assert a.prompt == PROMPT
    assert "</html>" in (tmp_path / "a.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]


def test_every_option_reaches_the_explanation(run):
    code, out, _ = run(
        *("explain", PROMPT, "--k", 1, "--unit", "word", "--removal", "hide", "--system", "you think", "--seed", 4),
        *("--prefix", "please tell me", "--prefill", "once upon", "--output", "time there was", "--target", "1:2"),
        *(
            "--all-effects",
            "--method",
            "jopa",
            "--set",
            "initial=random",
            "--set",
            "steps=4",
            "--batch-size",
            2,
            "--json",
            "-",
        ),
        small=False,
    )
    assert code == 0
    a = jopa.Attribution.from_json(out)
    assert (a.k, a.removal, a.seed, a.target, a.output) == (1, "hide", 4, (1, 2), "time there was")
    assert a.method == jopa.PaperSearch(steps=4, initial="random").settings
    assert a.effects is not None and len(a.effects) == len(a.units) == 9
    words = a.input_ids
    assert len(words) == 9 + len("<s> <|system|> you think </s> <|user|> please tell me".split()) + len(
        "</s> <|assistant|> once upon".split()
    )


def test_the_prompt_may_come_from_a_file_messages_or_stdin(run, tmp_path, monkeypatch):
    def explained(*source):
        code, out, err = run("explain", *source, "--k", 1, "--output", "once upon time", "--json", "-")
        assert code == 0, err
        return jopa.Attribution.from_json(out).prompt

    (tmp_path / "p.txt").write_bytes("write a story\r\nabout rain\r\n".encode("utf-8-sig"))
    assert explained("--file", tmp_path / "p.txt") == "write a story\r\nabout rain"
    messages = [{"role": "system", "content": "you think"}, {"role": "user", "content": PROMPT}]
    (tmp_path / "m.json").write_text(json.dumps(messages))
    assert explained("--messages", tmp_path / "m.json") == PROMPT


def test_spans_and_targets_in_words(run):
    code, out, _ = run(
        "explain",
        PROMPT,
        "--k",
        1,
        "--unit",
        "0-13,20-30",
        "--output",
        "once upon time",
        "--target",
        "upon",
        "--json",
        "-",
    )
    a = jopa.Attribution.from_json(out)
    assert code == 0
    assert [unit.text for unit in a.units] == ["write a story", " the doctor"]
    assert a.target == (1, 2)


def test_methods_are_compared_on_the_same_output(run, tmp_path):
    arguments = ["explain", PROMPT, "--compare", "ablation, greedy,exhaustive", "--k", 2, "--html", tmp_path / "c.html"]
    code, out, _ = run(*arguments, "--json", tmp_path / "c.json", small=False)
    assert code == 0
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["schema"] == 1
    found = [jopa.Attribution.from_dict(entry) for entry in record["comparison"]]
    assert [a.method["name"] for a in found] == ["ablation", "greedy", "exhaustive"]
    assert {(a.output_ids, a.removal, a.log_prob) for a in found} == {
        (found[0].output_ids, "delete", found[0].log_prob)
    }
    assert found[2].certificate == "optimal"
    assert found[2].joint >= max(a.joint for a in found) - 1e-6
    page = (tmp_path / "c.html").read_text()
    for a in found:
        assert a.method["name"] in out
        assert a.method["name"] in page
        assert f"{a.joint:+.2f}".replace("-", "−") in out
    assert page.count("<!DOCTYPE html>") == page.count("</html>") == 1


def test_a_method_that_refuses_does_not_take_the_others_with_it(run):
    text = " ".join(["Tell me a story about a doctor and a patient in a town by the sea."] * 4)
    arguments = ["explain", text, "--k", 8, "--max-new-tokens", 6, "--profile", "--json", "-", "--compare"]
    code, out, err = run(*arguments, "exhaustive,ablation,random", small=False)
    assert code == 1
    assert [a["method"]["name"] for a in json.loads(out)["comparison"]] == ["ablation", "random"]
    assert "\nablation\n" in err and "\nrandom\n" in err and "\nexhaustive\n" not in err
    assert err.splitlines()[-1].startswith("jopa: exhaustive: ")
    code, out, err = run(*arguments, "exhaustive,exhaustive", small=False)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1 and err.startswith("jopa: ")


def test_profile_prints_what_each_method_cost_beside_the_result(run):
    code, out, err = run("explain", PROMPT, "--compare", "ablation,jopa", "--profile", "--json", "-", small=False)
    assert code == 0
    evaluations = [a["evaluations"] for a in json.loads(out)["comparison"]]
    assert min(evaluations) > 0
    tables = err[err.index("\nablation\n") :].split("\njopa\n")
    assert len(tables) == 2
    repeats = []
    for table, searched in zip(tables, evaluations, strict=True):
        rows = {line.split("  ")[0]: line.split() for line in table.splitlines() if line}
        assert int(rows["evaluations"][1]) >= searched
        assert float(rows["all"][1]) >= float(rows["scoring"][1]) > 0
        repeats.append(int(rows["evaluations"][2]))
    assert repeats[0] <= 1  # the whole prompt
    assert repeats[1] > 100  # 200 swaps of 9 units come back to the same sets


def bad_files(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 in the rain")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "no.json").write_text("{not json")
    (tmp_path / "object.json").write_text('{"role": "user"}')
    (tmp_path / "shape.json").write_text('[{"role": "user", "text": "hello"}]')
    (tmp_path / "number.json").write_text("[3]")
    (tmp_path / "assistant.json").write_text('[{"role": "assistant", "content": "hello"}]')
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["explain", ""], 1, "the prompt is empty"),
        (["explain", "  \n "], 1, "the prompt is empty"),
        (["explain", PROMPT, "--k", "0"], 1, "k must be at least 1, got 0"),
        (["explain", PROMPT, "--k", "10"], 1, "k must be between 1 and the prompt's 9 units, got 10"),
        (["explain", PROMPT, "--k", "many"], 2, "Invalid value for '--k'"),
        (["explain", PROMPT, "--model", "no/such/model/here"], 1, "cannot load the model 'no/such/model/here'"),
        (["explain", PROMPT, "--method", "magic"], 1, "unknown method 'magic': choose one of"),
        (["explain", PROMPT, "--unit", "syllable"], 1, "unknown unit 'syllable': choose one of token, word"),
        (["explain", PROMPT, "--unit", "3-x"], 1, "cannot read the spans '3-x'"),
        (["explain", PROMPT, "--unit", "0-999"], 1, "does not lie within the prompt's 46 characters"),
        (["explain", PROMPT, "--removal", "burn"], 1, "unknown removal 'burn': choose one of delete, zero, hide"),
        (["explain", PROMPT, "--set", "steps"], 1, "cannot read the setting 'steps'"),
        (["explain", PROMPT, "--set", "stops=3"], 1, "has no setting 'stops'"),
        (["explain", PROMPT, *PAPER, "--set", "initial=best"], 1, "initial must be one of"),
        (
            ["explain", PROMPT, *PAPER, "--set", "steps=few"],
            1,
            "setting 'steps' of method 'jopa' must be of type int, got 'few'",
        ),
        (["explain", PROMPT, *PAPER, "--set", "steps=2.5"], 1, "must be of type int, got 2.5"),
        (["explain", PROMPT, *PAPER, "--set", "steps=true"], 1, "must be of type int, got True"),
        (["explain", PROMPT, *PAPER, "--set", "initial=3"], 1, "must be of type str, got 3"),
        (["explain", PROMPT, "--json", "a", "--html", "a"], 2, "name the same file"),
        (["explain", PROMPT, "--compare", "greedy,magic"], 1, "unknown method 'magic'"),
        (["explain", PROMPT, "--compare", "greedy"], 1, "leave out --set and --budget"),
        (["explain", PROMPT, "--method", "greedy"], 1, "method 'greedy' takes no budget"),
        (["explain", PROMPT, "--output", ""], 1, "output to explain is empty"),
        (["explain", PROMPT, "--target", "4:90"], 1, "target must lie within the output's"),
        (["explain", PROMPT, "--dtype", "float4"], 1, "unknown dtype 'float4'"),
        (["explain", PROMPT, "--device", "warp"], 1, "device 'warp' cannot be used here"),
        (["explain", PROMPT, "--batch-size", "0"], 1, "batch_size must be at least 1"),
        (["explain", PROMPT, "--temperature", "-1"], 1, "temperature must be 0"),
        (["explain", PROMPT, "--max-new-tokens", "0"], 1, "max_new_tokens must be at least 1"),
        (["explain", PROMPT, "--max-new-tokens", "300"], 1, "context of 128 tokens"),
        (["explain", "rain " * 300], 1, "the prompt has 303 tokens and the output up to"),
        (["explain", PROMPT, "--nonsense"], 2, "No such option"),
        (["explain"], 2, "give exactly one of PROMPT, --file and --messages"),
        (["explain", PROMPT, "--file", "x"], 2, "give exactly one of"),
        (["explain", "--file", "missing.txt"], 1, "cannot read 'missing.txt': No such file"),
        (["explain", "--file", "folder"], 1, "cannot read 'folder': Is a directory"),
        (["explain", "--file", "latin.txt"], 1, "'latin.txt' is not UTF-8: byte 3"),
        (["explain", "--file", "empty.txt"], 1, "the prompt is empty"),
        (["explain", "--messages", "no.json"], 1, "'no.json' is no JSON"),
        (["explain", "--messages", "object.json"], 1, "chat messages are a JSON list"),
        (["explain", "--messages", "shape.json"], 1, "message 1 is not of the form"),
        (["explain", "--messages", "number.json"], 1, "chat messages are a JSON list"),
        (["explain", "--messages", "assistant.json"], 1, "nothing attributable"),
        (["explain", PROMPT, "--json", "folder"], 1, "cannot write 'folder': it is a folder"),
        (["explain", PROMPT, "--html", "nowhere/a.html"], 1, "cannot write 'nowhere/a.html': No such file"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_clear_line(run, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    own_model = "--model" in arguments
    got, out, err = run(*arguments, own_model=own_model, small="--max-new-tokens" not in arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    if code == 1:
        assert err.startswith("jopa: ")
        assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


def test_a_device_is_written_to_and_not_replaced(run):
    code, _, _ = run("explain", PROMPT, "--json", "/dev/null")
    assert code == 0
    assert Path("/dev/null").is_char_device()
    code, _, err = run("explain", PROMPT, "--json", "/dev/full")
    assert code == 1
    assert "cannot write '/dev/full': No space left" in err


def test_an_output_path_is_checked_before_the_work(run, monkeypatch):
    monkeypatch.setattr("jopa.model.loading.load", lambda *_, **__: pytest.fail("loaded a model for nothing"))
    code, _, err = run("explain", PROMPT, "--json", "/nowhere/at/all.json")
    assert code == 1
    assert "cannot write" in err


def test_an_unexpected_error_is_one_line_and_debug_shows_it_all(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("jopa.explanation.explaining.explain", broken)
    code, _, err = run("explain", PROMPT)
    assert code == 1
    assert err == "jopa: unexpected ZeroDivisionError: deep inside; run again with --debug for the traceback\n"
    monkeypatch.setattr(sys, "argv", ["jopa", "explain", PROMPT, "--debug"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_every_command_takes_debug():
    import inspect

    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert "debug" in inspect.signature(command.callback).parameters, command.callback


def test_methods_and_models_are_listed(run):
    code, out, _ = run("methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["METHOD", *jopa.METHODS]
    assert run("models")[0] == 0


def test_the_same_seed_gives_the_same_json_in_two_processes(run, folder):
    """In a process of its own, and in this one."""
    arguments = ["explain", PROMPT, "--model", str(folder), "--json", "-"]
    arguments += ["--max-new-tokens", "6", "--seed", "3", "--no-answer-cache"]
    done = subprocess.run([sys.executable, "-m", "jopa", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in done.stderr.splitlines():  # nothing but progress, on a machine that is busy
        assert re.fullmatch(r"[a-z ]+(, \d+ of( at most)? \d+)?, \d+ s", line)
    code, out, _ = run(*arguments, own_model=True, small=False)
    assert code == 0
    one, other = (json.loads(text) for text in (done.stdout, out))
    assert one.pop("seconds") and other.pop("seconds")
    assert one == other


def test_help_is_quick_and_light():
    before = os.times().children_user
    script = (
        "import sys; sys.argv = ['jopa', '--help']; from jopa.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.rstrip().endswith("False")  # torch is not imported
    assert "explain" in done.stdout
    spent = os.times().children_user - before
    assert spent < 4  # seconds of a processor, however busy the machine is; half a second on an idle one


def test_version():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("jopa 0.")
