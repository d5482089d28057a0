"""What a run leaves in its folder, read back; torn, damaged, and held by another process."""

import json
import os
import signal
import subprocess
import sys

import pytest

from jopa.benchmark.records import (
    CellKey,
    Journal,
    cell_key,
    encoded,
    locked,
    partial_of,
    read_lines,
    read_run,
    write_whole,
)
from jopa.errors import InputFileError

RECORDS = [
    {"text": "plain", "number": 1, "real": -30.123456789012345, "none": None, "list": [1, [2, 3]]},
    {"text": "half a pair \ud83d and the other half \ude00, é, 漢, 😀"},
    {"text": 'line\nbreaks \r\n \u2028 \u2029 \x85 \x00 \x1f and a "quote" and \\u0041'},
    {},
    {"last": "тест" * 5, "cut": {"any": "where"}},
]


def cell(example, status="done", **more):
    key = {"model": "m", "data": "d", "example": example, "method": "joint", "k": 3, "seed": 0}
    return {"key": key, "status": status, **more}


def written(path, records=RECORDS):
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return path


def folder_of_a_run(path, cells=()):
    write_whole(path / "experiment.json", '{"title": "made up"}')
    written(path / "cells.jsonl", cells)
    return path


def test_what_is_appended_is_read_back(tmp_path):
    path = written(tmp_path / "a.jsonl")
    assert read_lines(path) == RECORDS
    assert path.read_bytes().count(b"\n") == len(RECORDS)  # a line a record, whatever stands in it
    path.read_bytes().decode("utf-8")  # strictly UTF-8, half a pair or not
    written(path, RECORDS[:2])
    assert read_lines(path) == RECORDS + RECORDS[:2]


def test_a_line_is_on_the_disk_before_the_next_thing_happens(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Journal(tmp_path / "a.jsonl") as journal:
        for number, record in enumerate(RECORDS, start=1):
            journal.append(record)
            assert read_lines(tmp_path / "a.jsonl") == RECORDS[:number]
            assert synced[-1] == (tmp_path / "a.jsonl").stat().st_size
    assert len(synced) == len(RECORDS)


def test_what_is_no_json_is_not_written(tmp_path):
    path = written(tmp_path / "a.jsonl")
    before = path.read_bytes()
    for value, error in ((float("nan"), ValueError), (float("inf"), ValueError), ({1, 2}, TypeError)):
        with pytest.raises(error):
            encoded({"value": value})
        with Journal(path) as journal, pytest.raises(error):
            journal.append({"value": value})
    assert path.read_bytes() == before


def test_a_missing_or_empty_file_has_no_records(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    assert read_lines(tmp_path / "empty.jsonl") == []
    with Journal(tmp_path / "new.jsonl"):
        pass
    assert read_lines(tmp_path / "new.jsonl") == []


def test_a_last_line_torn_at_any_byte_is_ignored_and_cut(tmp_path):
    whole = written(tmp_path / "whole.jsonl").read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    assert len(whole) - last > 40
    for end in range(last, len(whole)):  # at the last but one, all of the record but its line's end
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(whole[:end])
        assert read_lines(torn) == RECORDS[:-1], end
        assert torn.read_bytes() == whole[:end]  # readers change nothing
        written(torn, RECORDS[-1:])
        assert torn.read_bytes() == whole, end


@pytest.mark.parametrize("rest", [b"\x00" * 700, b'{"text": \n', b"[1, 2]\n", b"\n", b"\xff\xfe{\n"])
def test_whatever_a_crash_leaves_at_the_end_is_cut(tmp_path, rest):
    path = written(tmp_path / "a.jsonl")
    sound = path.read_bytes()
    path.write_bytes(sound + rest)
    assert read_lines(path) == RECORDS
    with Journal(path):
        pass
    assert path.read_bytes() == sound


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'"text"', b"\xff\xfe", b'{"a": 1} {"b": 2}', b"\x00\x00"])
def test_a_damaged_line_that_is_not_the_last_is_an_error(tmp_path, damage):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + damage + b'\n{"c": 3}\n')
    with pytest.raises(InputFileError, match="is damaged: line 2 cannot be read") as caught:
        read_lines(path)
    assert str(path) in str(caught.value)
    before = path.read_bytes()
    with pytest.raises(InputFileError, match="line 2"), Journal(path):
        pass
    assert path.read_bytes() == before  # nothing is cut from a file that nobody understands


def test_read_run_gives_the_last_record_of_each_key_in_first_order(tmp_path):
    cells = [cell("a", "failed", error="E: x"), cell("b"), cell("c", "failed", error="E: y"), cell("a", synergy=1.5)]
    folder_of_a_run(tmp_path, cells)
    example = {"model": "m", "data": "d", "example": "a", "prompt": {"text": "t"}}
    written(tmp_path / "examples.jsonl", [example])
    written(tmp_path / "sessions.jsonl", [{"date": "one"}, {"date": "two"}])
    run = read_run(tmp_path)
    assert run.experiment == {"title": "made up"}
    assert [session["date"] for session in run.sessions] == ["one", "two"]
    assert run.examples == {("m", "d", "a"): example}
    assert run.cells == (cells[3], cells[1], cells[2])
    assert run.done == (cells[3], cells[1])
    assert run.failed == (cells[2],)
    assert cell_key(cells[1]) == CellKey("m", "d", "b", "joint", 3, 0)


def test_read_run_of_a_run_that_has_only_begun(tmp_path):
    write_whole(tmp_path / "experiment.json", '{"title": "made up"}')
    run = read_run(tmp_path)
    assert (run.sessions, run.examples, run.cells) == ((), {}, ())


def test_read_run_of_what_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputFileError, match=r"holds no benchmark run: cannot read 'experiment.json'") as caught:
            read_run(folder)
        assert "jopa bench" in str(caught.value)
        assert str(folder) in str(caught.value)
    for text, message in (("{", "is no JSON"), ("[1]", "holds no JSON object"), ("\udcff", "is no JSON")):
        (tmp_path / "experiment.json").write_text(text, errors="surrogateescape")
        with pytest.raises(InputFileError, match=message):
            read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cells", {"status": "done"}),
        ("cells", {"key": {"model": "m"}, "status": "done"}),
        ("cells", {"key": 3}),
        ("examples", {"model": "m"}),
        ("examples", {"model": [], "data": "d", "example": "e"}),
    ],
)
def test_records_of_another_form_are_an_error(tmp_path, name, line):
    folder_of_a_run(tmp_path)
    written(tmp_path / f"{name}.jsonl", [line])
    with pytest.raises(InputFileError, match="a record of another form"):
        read_run(tmp_path)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    partial_of(path).write_text("left behind by a process that was killed, and longer than what comes")
    write_whole(path, "first \u2028 \udcff\n")
    assert path.read_bytes() == "first \u2028 \\udcff\n".encode()
    write_whole(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


HOLD = """
import sys, time
from pathlib import Path
from jopa.benchmark.records import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_held_alone_and_free_when_its_holder_dies(tmp_path, how):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(InputFileError, match=f"another run is at work in '{tmp_path}'"), locked(tmp_path):
                pytest.fail("two held it at once")
        finally:
            holder.send_signal(how)
            holder.wait(20)
    for _ in range(2):  # and it can be held again and again
        with locked(tmp_path):
            pass


def test_a_lock_is_released_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputFileError, match="cannot lock the folder"), locked(tmp_path):
        pass


def test_records_are_plain_json(tmp_path):
    """What another program reads with nothing but a JSON parser is what was written."""
    lines = written(tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == RECORDS
