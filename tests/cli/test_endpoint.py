"""A model behind a server from the command line."""

import sys

import pytest

import jopa
from jopa import cli


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["jopa", "explain", "the doctor and his patient", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_the_endpoint_is_asked(run, monkeypatch, llama):
    asked = {}

    def connect(url, **settings):
        asked.update(settings, url=url)
        return llama

    monkeypatch.setattr("jopa.remote.connecting.connect", connect)
    code, out, _ = run(
        *("--endpoint", "http://host:1", "--endpoint-model", "m", "--api", "sglang", "--tokenizer", "folder"),
        *("--key-variable", "MY_KEY", "--max-tokens-sent", "9", "--no-score-cache", "--k", "1", "--json", "-"),
    )
    assert code == 0
    assert jopa.Attribution.from_json(out).model["id"] == "tiny-llama"
    assert asked == {
        **{"url": "http://host:1", "model": "m", "api": "sglang", "tokenizer": "folder", "key_variable": "MY_KEY"},
        **{"max_tokens_sent": 9, "cache": False},
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "http://host"], "--endpoint-model"),
        (["--endpoint-model", "m"], "--endpoint"),
        (["--endpoint", "http://host", "--endpoint-model", "m", "--model", "x"], "--model"),
        (["--endpoint", "http://host", "--endpoint-model", "m", "--batch-size", "2"], "--batch-size"),
        (
            ["--endpoint", "http://host", "--endpoint-model", "m", "--trust-remote-code"],
            "leave out --trust-remote-code",
        ),
        (["--dry-run"], "--endpoint"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, words, said):
    code, _, err = run(*words)
    assert code == 2
    assert said in err


def test_an_address_that_is_none_is_one_line(run):
    code, _, err = run("--endpoint", "host:1", "--endpoint-model", "m")
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("jopa: 'host:1' is no server's address")
