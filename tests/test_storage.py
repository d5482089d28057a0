"""Journals read back: torn, damaged, and held by another process; files written whole."""

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from jopa.errors import InputFileError
from jopa.json_values import encoded, parse_json
from jopa.storage import Journal, is_partial, locked, read_lines, staged_folder, write_text

RECORDS = [
    {"text": "plain", "number": 1, "real": -30.123456789012345, "none": None, "list": [1, [2, 3]]},
    {"text": "half a pair \ud83d and the other half \ude00, é, 漢, 😀"},
    {"text": 'line\nbreaks \r\n \u2028 \u2029 \x85 \x00 \x1f and a "quote" and \\u0041'},
    {},
    {"last": "тест" * 5, "cut": {"any": "where"}},
]


def written(path, records=RECORDS):
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
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


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "first \u2028 \udcff\n")
    assert path.read_bytes() == "first \u2028 \\udcff\n".encode()
    write_text(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    path = write_text(tmp_path / "a.json", "first")
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode  # a new one has those that the process gives
    path.chmod(mode)
    write_text(path, "second")
    assert path.stat().st_mode & 0o777 == mode and path.read_bytes() == b"second"


def test_the_permissions_of_other_files_do_not_change_for_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("other threads make files meanwhile"))
    write_text(tmp_path / "a.json", "first")


def test_a_link_stays_a_link_to_the_file_that_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    path = write_text(tmp_path / "folder" / "a.json", "first")
    link = tmp_path / "link.json"
    link.symlink_to(path)
    write_text(link, "second")
    assert link.is_symlink() and path.read_text() == "second"
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "folder" / "new.json")
    write_text(dangling, "third")
    assert dangling.is_symlink() and (tmp_path / "folder" / "new.json").read_text() == "third"
    assert len(list(tmp_path.rglob("*"))) == 5


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_moves_where_something_of_another_kind_is_in_the_way(tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b").mkdir() if kind == "file" else (out / "b").touch()
    with pytest.raises(InputFileError, match=r"cannot write .*b' is (a|no) folder"), staged_folder(out) as staged:
        (staged / "a").write_text("new")
        (staged / "c").mkdir()
        (staged / "b").touch() if kind == "file" else (staged / "b").mkdir()
    assert [path.name for path in out.iterdir()] == ["b"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.json", "old")
    written(tmp_path / "a.jsonl")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputFileError, match=r"cannot write '.*a.json': No space left on device"):
        write_text(path, "new")
    with Journal(tmp_path / "a.jsonl") as journal, pytest.raises(InputFileError, match="No space left on device"):
        journal.append({})
    assert path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "a.jsonl"]


def test_a_folder_is_filled_as_a_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputFileError, match="No space left"), staged_folder(out) as staged:
        (staged / "a").write_text("half")
        full_disk()
    assert list(tmp_path.iterdir()) == []
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "other").write_text("of somebody else")
    for complete in (False, True):
        with suppress(ZeroDivisionError), staged_folder(out) as staged:
            (staged / "sub").mkdir()
            (staged / "sub" / "new").write_text("new")
            assert is_partial(staged)
            if not complete:
                raise ZeroDivisionError
        names = {"other", "new"} if complete else {"other"}
        assert {path.name for path in (out / "sub").iterdir()} == names
        assert [path.name for path in out.iterdir()] == ["sub"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '[1, {"a": -1e999}]'])
def test_numbers_that_are_not_finite_are_refused(tmp_path, number):
    with pytest.raises(ValueError, match="not finite"):
        parse_json(number)
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{{"a": {number}}}\n')
    with pytest.raises(InputFileError, match=r"'.*a.jsonl', line 2: the number .* is not finite"):
        read_lines(tmp_path / "a.jsonl")


HOLD = """
import sys, time
from pathlib import Path
from jopa.storage import locked
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


def test_what_a_killed_process_left_half_written_is_removed(tmp_path, monkeypatch):
    class KilledError(BaseException):
        """Ends the process before it can clean up."""

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KilledError):
            write_text(tmp_path / "a.json", "half")
    assert [is_partial(path) for path in tmp_path.iterdir()] == [True]
    (tmp_path / ".b.partial").mkdir()  # a report that is being written
    (tmp_path / "other.txt").write_text("of somebody else")
    with locked(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} - {"lock"} == {".b.partial", "other.txt"}


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
