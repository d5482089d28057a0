"""What the user sees: progress, results, the files they asked for, and the one line of an error."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from jopa.errors import InputFileError
from jopa.reports.wording import one_line
from jopa.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType


def print_line(text: str) -> None:
    """Write one line to stderr; what is not printable in it becomes visible."""
    typer.echo(one_line(text), err=True)


def fail(line: str) -> NoReturn:
    """End the command with one line on stderr and exit code 1."""
    print_line(f"jopa: {line}")
    sys.exit(1)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """End the work on SIGTERM as on Ctrl-C, by a KeyboardInterrupt."""
    import signal

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except SystemExit as error:  # Ray puts its own handler in place of this one
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, before)


def require_writable(path: Path | None, *, stdout: bool = False) -> None:
    """Find out before the work whether a result can be written; '-' is stdout where `stdout` says so."""
    import tempfile

    if path is None or (stdout and str(path) == "-"):
        return
    if str(path) == "-":
        raise InputFileError("cannot write '-': only --json goes to stdout; name a file")
    try:
        if path.is_dir():
            raise InputFileError(f"cannot write '{path}': it is a folder")
        if path.exists() and not path.is_file():
            return  # a device or pipe: written to, never replaced
        path.with_name(f".{path.name}.12345678.partial").exists()  # the longest name that is needed, as in write_text
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputFileError(f"cannot write '{path}': {error.strerror} ('{path.parent}')") from error


def show_what_can_be() -> None:
    """Let stdout replace the characters that its encoding has not; on many terminals that is not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")


def _encodable(json_text: str, encoding: str | None) -> str:
    """A text of JSON with escapes for characters that an encoding has not; such stand inside its texts only."""
    try:
        json_text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return re.sub(r"[^\x00-\x7f]", lambda char: json.dumps(char[0])[1:-1], json_text)
    return json_text


def write_results(
    record: str, view: RenderableType, page: Callable[[], str], json_path: Path | None, html_path: Path | None
) -> None:
    """Write the asked files and show the view, unless stdout carries JSON."""
    from rich.console import Console

    if str(json_path) == "-":
        sys.stdout.write(_encodable(record, sys.stdout.encoding) + "\n")
    else:
        Console().print(view)
    written = []
    if json_path is not None and str(json_path) != "-":
        written.append(write_text(json_path, record + "\n"))
    if html_path is not None:
        written.append(write_text(html_path, page()))
    for path in written:
        print_line(f"Wrote {path}")
