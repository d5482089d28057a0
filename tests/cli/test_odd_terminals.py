"""Terminals and files that take less than the command writes."""

import errno
import io
import json
import sys

import pytest

PROMPT = "tell me of 日本 \N{GRINNING FACE} the “doctor”"


def written(run, monkeypatch, encoding, *options, errors="strict"):
    """What `jopa explain` writes to a terminal of some encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    monkeypatch.setattr(sys, "stdout", stream)
    code, _, err = run("explain", PROMPT, "--output", "once upon", "--budget", 4, "--k", 1, *options)
    assert code == 0, err
    stream.flush()
    return stream.buffer.getvalue()


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second is Python's own in the locale C
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_some_characters_shows_the_others(run, monkeypatch, encoding, errors):
    assert b"doctor" in written(run, monkeypatch, encoding, errors=errors)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_whole_whatever_the_encoding(run, monkeypatch, encoding):
    record = json.loads(written(run, monkeypatch, encoding, "--json", "-").decode(encoding))
    assert record["prompt"]["text"] == PROMPT


def test_a_full_disk_is_no_bug_of_jopa(run, monkeypatch):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    code, _, err = run("explain", PROMPT, "--output", "once upon", "--budget", 4, "--k", 1, "--json", "-")
    assert (code, err.strip().splitlines()[-1]) == (
        1,
        "jopa: cannot write: no space is left on the device; make room, or write somewhere else",
    )


@pytest.mark.parametrize("option", ["--json", "--html", "--documents", "--messages", "--file"])
def test_names_that_are_too_long_are_one_line(run, option):
    prompt = () if option in ("--messages", "--file") else (PROMPT,)
    code, _, err = run(
        "explain", *prompt, "--output", "once upon", option, "a" * 250 if option == "--html" else "a" * 300
    )
    assert code == 1
    assert err.startswith("jopa: cannot ") and "File name too long" in err


def test_no_standard_input_is_said(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert run("explain", "--file", "-")[::2] == (1, "jopa: cannot read '-': there is no standard input\n")


def test_half_a_character_as_an_output_is_refused(run):
    code, _, err = run("explain", PROMPT, "--output", "once \ud83d")
    assert (code, "the output to explain holds half a surrogate pair" in err) == (1, True)
