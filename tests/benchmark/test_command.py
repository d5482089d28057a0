"""`jopa bench` on a tiny benchmark: what it says, what it refuses, and what a signal leaves."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from forked import forked
from jopa import cli, storage
from tiny_bench import cells, same_run

pytestmark = pytest.mark.usefixtures("loaded")


@pytest.fixture
def command(home, monkeypatch, capsys):
    """Run `jopa bench` in this process; returns exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jopa", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def toml(home, tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        f"""
title = "tiny"
ks = [1, 2]
max_new_tokens = 5
sentence_bert = false
[[models]]
name = "tiny"
id = "{home / "model"}"
device = "cpu"
[[data]]
name = "mine"
path = "{home / "prompts.jsonl"}"
[[methods]]
name = "random"
[[methods]]
name = "ablation"
[[methods]]
name = "jopa"
settings = {{ steps = 6 }}
[[methods]]
name = "greedy"
"""
    )
    return path


def test_the_command(command, toml, tmp_path, reference):
    code, out, err = command(toml, "--out", tmp_path / "run")
    assert code == 0, err
    assert out == ""
    assert err.splitlines()[0].startswith("mine: kept 4 of 4 records of ")
    assert "32 cells done, 0 failed, 0 were there already" in err
    assert f"jopa report {tmp_path / 'run'}" in err
    same_run(tmp_path / "run", reference)
    code, _, err = command(toml, "--out", tmp_path / "run", "--limit", "2")
    assert code == 0
    assert "0 cells done, 0 failed, 16 were there already" in err


def test_the_command_tells_what_failed(command, toml, tmp_path):
    toml.write_text(toml.read_text().replace("ks = [1, 2]", "ks = [99]"))
    arguments = (toml, "--out", tmp_path / "run", "--limit", 1)
    code, _, err = command(*arguments)
    assert code == 0
    assert "0 cells done, 4 failed" in err
    assert "--retry-failed" in command(*arguments)[2]
    assert "0 cells done, 4 failed" in command(*arguments, "--retry-failed")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.toml",), 1, "jopa: cannot read 'nowhere.toml'"),
        (("TOML", "--data", "mine=nowhere.jsonl"), 1, "nowhere.jsonl"),
        (("TOML", "--data", "other=x.jsonl", "--sets", "other"), 1, "cannot read 'x.jsonl'"),
        (("TOML", "--sets", "other"), 1, "has no data set 'other': it has mine"),
        (("TOML", "--data", "mine"), 2, "write NAME=FILE.jsonl"),
        (("TOML", "--limit", "0"), 1, "limit must be at least 1, got 0"),
        (("TOML", "--workers", "2"), 2, "--workers needs --ray"),
        (("TOML", "--worker-cpus", "1"), 2, "--worker-cpus needs --ray"),
        (("TOML", "--together", "0"), 1, "at least 1 prompt must be worked on at a time, got 0"),
        (("TOML", "--ray", "--together", "0"), 1, "together must be at least 1, got 0"),
    ],
)
def test_the_command_refuses_in_a_line(command, toml, tmp_path, arguments, code, message):
    found, out, err = command(*(toml if word == "TOML" else word for word in arguments), "--out", tmp_path / "run")
    assert (found, out) == (code, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    if code == 1:
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def slowly(words) -> None:
    """`jopa`, so slow that a busy machine sees it at work."""
    append = storage.Journal.append

    def wait_and_append(*arguments):
        time.sleep(0.05)
        append(*arguments)

    storage.Journal.append = wait_and_append
    sys.argv = ["jopa", *words]
    cli.main()


@pytest.mark.parametrize(("together", "how"), [(1, signal.SIGINT), (3, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_signal_is_one_line_and_the_same_command_goes_on(command, toml, tmp_path, reference, together, how):
    folder, said = tmp_path / "run", tmp_path / "said"
    words = ["bench", str(toml), "--out", str(folder), "--together", str(together)]
    process = forked(lambda: slowly(words), said)
    try:
        deadline = time.monotonic() + 60
        while not cells(folder) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, how)
        process.join(60)
        err = said.read_text()
        assert process.exitcode == 1, err
    finally:
        process.kill()
    assert err.splitlines()[-1].startswith(f"jopa: stopped; what is done is in '{folder}'")
    assert "Traceback" not in err
    assert 1 <= len(cells(folder)) < 32
    code, _, err = command(toml, "--out", folder, "--together", together)
    assert code == 0
    if together == 1:
        same_run(folder, reference)
    else:  # in another order, and to rounding
        found, wanted = ({tuple(it["key"].values()): it["removed"] for it in cells(at)} for at in (folder, reference))
        assert found == wanted
