"""Files that are whole or absent, and journals of synced lines.

    write_text       replaces a file in one step
    staged_folder    fills a folder in one step: all files or none
    locked           one process at a time in a folder
    Journal          a JSONL file that only grows; each line is on the disk before the work continues
    read_lines       the lines of a journal, a torn last line left out

A process that is killed while it writes a journal leaves at most a torn last line. Readers ignore it, and the next
`Journal` cuts it off.

Knows files and lines of JSON (`jopa.json_values`), nothing of what they hold.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, NamedTuple

from jopa.errors import InputFileError
from jopa.json_values import NotFiniteError, Record, encoded, parse_json


class NumberedRecord(NamedTuple):
    """A record of a journal and where it stands; the first line has number 1."""

    number: int
    record: Record


# Files ----------------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> Path:
    """Replace a file in one step: whole or not at all. Half a surrogate pair is escaped.

    A device or a pipe is written to, a link stays one to its file, and a file keeps its permissions. A process killed
    before the last step leaves a hidden `.NAME.*.partial` beside the file.

    Raises:
        InputFileError: the file cannot be written, for example because the disk is full.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return path
        target = Path(os.path.realpath(path))
        partial = target.with_name(f".{target.name}.{token_hex(4)}.partial")
        try:
            partial.touch(0o600 if target.exists() else 0o666, exist_ok=False)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def is_partial(path: Path) -> bool:
    """Whether a file is what `write_text` left behind when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".partial")


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` at the end, where other files stay as they are.

    None moves if the block fails, or if a folder stands where a file is to go, or the reverse.

    Raises:
        InputFileError: that is so, or the files cannot be written, for example because the disk is full.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=".partial"))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    complete = False
    try:
        yield staged
        paths = sorted(staged.rglob("*"), key=lambda path: (not path.is_dir(), path))
        places = [folder / path.relative_to(staged) for path in paths]
        for path, place in zip(paths, places, strict=True):
            if place.exists() and place.is_dir() != path.is_dir():
                raise FileExistsError(0, f"'{place}' is {'a' if place.is_dir() else 'no'} folder")
        for path, place in zip(paths, places, strict=True):
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                path.replace(place)
        complete = True
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and not complete:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone; the operating system releases it when the process ends, for whatever reason.

    What `write_text` left half written there when an earlier process was killed is removed.

    Raises:
        InputFileError: another process holds it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputFileError(
            f"another run is at work in '{folder}'; wait for it, or give another folder (--out)"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise InputFileError(f"cannot lock the folder '{folder}': {error}; give another one (--out)") from error
    try:
        for path in filter(is_partial, [entry for entry in folder.iterdir() if entry.is_file()]):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _cannot_write(path: Path, error: OSError) -> InputFileError:
    return InputFileError(f"cannot write '{path}': {error.strerror or error}")


# Journals -------------------------------------------------------------------------------------------------------------


class Journal:
    """A JSONL file that only grows, one synced line at a time. Use as a context.

    Raises:
        InputFileError: the file cannot be written, for example because the disk is full, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        _, sound = _scan(self._path)
        try:
            self._file = self._path.open("ab")
            self._file.truncate(sound)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        try:
            self._file.close()
        except OSError as error:  # what could not be written is written again when a file closes
            raise _cannot_write(self._path, error) from error

    def append(self, record: Any) -> None:
        """Write one record, a JSON object or a typed structure, as a line and wait until it is on the disk."""
        assert self._file is not None
        line = encoded(record) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(self._path, error) from error


def read_lines(path: Path) -> list[Record]:
    """The records of a journal, a torn last line left out; none if there is no file.

    Raises:
        InputFileError: a line other than the last is no JSON object, or holds numbers that are not finite.
    """
    return [line.record for line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[NumberedRecord]:
    """As `read_lines`, each record with the number of its line."""
    return _scan(path)[0]


def _scan(path: Path) -> tuple[list[NumberedRecord], int]:
    """A journal's records and the number of bytes before a torn last line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    found: list[NumberedRecord] = []
    sound = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        end = sound + len(line) + 1
        try:
            record = parse_json(line)
            if not isinstance(record, dict) or end > len(data):
                raise ValueError("no complete JSON object")
        except NotFiniteError as error:  # a crash cannot leave such a line
            raise InputFileError(f"'{path}', line {number}: {error}") from error
        except ValueError as error:
            if end >= len(data):
                break  # the last line, or what follows its end: incomplete, or nothing
            raise InputFileError(f"'{path}' is damaged: line {number} cannot be read ({error})") from error
        found.append(NumberedRecord(number, record))
        sound = end
    return found, sound
