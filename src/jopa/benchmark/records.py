"""What a benchmark run leaves in its folder, and how it survives being killed.

    experiment.json    the experiment, normalised
    sessions.jsonl     one line a start of the command: when, where, with which versions, on which data
    examples.jsonl     one line a (model, data set, example): prompt, units and the model's own output
    selections.jsonl   one line a finished search, so that none is repeated
    cells.jsonl        one line a cell: the result

A line is written whole, flushed and synced before the work goes on, so a record's existence means done. A process
killed while writing leaves at most a torn last line: readers ignore it and the next run cuts it off. Where a key occurs
twice (a failed cell redone), the last line counts.

Knows files, nothing of models and methods.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from jopa.errors import InputFileError

SCHEMA = 1

Record = dict[str, Any]


class CellKey(NamedTuple):
    """What names a cell: one example, method, k and seed."""

    model: str
    data: str
    example: str
    method: str
    k: int
    seed: int


@dataclass(frozen=True)
class Run:
    """A benchmark run as its folder tells it.

    Attributes:
        experiment: the experiment, normalised.
        sessions: one a start of the command, in order.
        examples: by (model, data set, example).
        cells: one a cell, done or failed, in the order in which they were first written.
    """

    experiment: Record
    sessions: tuple[Record, ...]
    examples: dict[tuple[str, str, str], Record]
    cells: tuple[Record, ...]

    @property
    def done(self) -> tuple[Record, ...]:
        """The cells that have a result."""
        return tuple(cell for cell in self.cells if cell["status"] == "done")

    @property
    def failed(self) -> tuple[Record, ...]:
        """The cells that ended in an error."""
        return tuple(cell for cell in self.cells if cell["status"] == "failed")


def read_run(folder: Path) -> Run:
    """Read a run's folder; safe while the run goes on.

    Raises:
        InputFileError: there is no run, or a line other than the last is damaged.
    """
    path = folder / "experiment.json"
    try:
        experiment = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(
            f"'{folder}' holds no benchmark run: cannot read '{path.name}' ({error.strerror}); "
            "make one with 'jopa bench EXPERIMENT.toml --out DIR'"
        ) from error
    except ValueError as error:
        raise InputFileError(f"'{path}' is no JSON: {error}") from error
    if not isinstance(experiment, dict):
        raise InputFileError(f"'{path}' is no experiment: it holds no JSON object")
    sessions, examples, cells = (read_lines(folder / f"{name}.jsonl") for name in ("sessions", "examples", "cells"))
    try:
        return Run(
            experiment,
            tuple(sessions),
            {(line["model"], line["data"], line["example"]): line for line in examples},
            tuple({cell_key(line): line for line in cells}.values()),
        )
    except (KeyError, TypeError) as error:
        raise InputFileError(f"'{folder}' holds a record of another form than jopa's: {error}") from error


def cell_key(cell: Record) -> CellKey:
    """The key of a cell's record."""
    return CellKey(**cell["key"])


def read_lines(path: Path) -> list[Record]:
    """The records of a JSONL file, a torn last line left out; none if there is no file.

    Raises:
        InputFileError: a line other than the last is no JSON object.
    """
    records, _ = _scan(path)
    return records


class Journal:
    """A JSONL file that only grows, one synced line at a time. Use as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        _, sound = _scan(self._path)
        self._file = self._path.open("ab")
        self._file.truncate(sound)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, record: Record) -> None:
        """Write one line and wait until it is on the disk."""
        assert self._file is not None
        self._file.write(encoded(record) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def encoded(record: Record) -> bytes:
    """A record as one line of JSON, without the line's end; half a surrogate pair is escaped.

    Raises:
        ValueError: it holds NaN or infinity, which JSON has not.
        TypeError: it holds a value of another kind than JSON's.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return line.encode("utf-8", "backslashreplace")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder alone; the operating system lets go of it when the process ends, however it ends.

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
        yield
    finally:
        lock.release()


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: whole or not at all."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """Where `write_whole` writes before it renames; a process killed in between leaves it behind."""
    return path.with_name(f".{path.name}.partial")


def _scan(path: Path) -> tuple[list[Record], int]:
    """A JSONL file's records and the number of bytes before a torn last line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    records: list[Record] = []
    sound = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        end = sound + len(line) + 1
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or end > len(data):
                raise ValueError("no complete JSON object")
        except ValueError as error:
            if end >= len(data):
                break  # the last line, or what is behind its end: torn, or nothing at all
            raise InputFileError(f"'{path}' is damaged: line {number} cannot be read ({error})") from error
        records.append(record)
        sound = end
    return records, sound
