"""What the user sees: progress, results, the files they asked for, and the one line of an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from jopa.errors import InputFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType


def fail(line: str) -> NoReturn:
    """End the command with one line on stderr and exit code 1."""
    typer.echo(f"jopa: {line}", err=True)
    sys.exit(1)


def progress_bar() -> Any:
    """A context whose value shows progress on stderr if that is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def shown() -> Iterator[Any]:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)
            yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)

    return shown()


def require_writable(path: Path | None) -> None:
    """Find out before the work whether a result can be written."""
    import tempfile

    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise InputFileError(f"cannot write '{path}': it is a folder")
    if path.exists() and not path.is_file():
        return  # a device or pipe: written to, never replaced
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputFileError(f"cannot write '{path}': {error.strerror} ('{path.parent}')") from error


def write_results(
    record: str, view: RenderableType, page: Callable[[], str], json_path: Path | None, html_path: Path | None
) -> None:
    """Write the asked files and show the view, unless stdout carries JSON."""
    from rich.console import Console

    if str(json_path) == "-":
        sys.stdout.write(record + "\n")
    else:
        Console().print(view)
    written = []
    if json_path is not None and str(json_path) != "-":
        written.append(_write(json_path, record + "\n"))
    if html_path is not None:
        written.append(_write(html_path, page()))
    for path in written:
        typer.echo(f"Wrote {path}", err=True)


def _write(path: Path, text: str) -> Path:
    """Write a whole file or none: under a temporary name first, then renamed."""
    import os
    import tempfile

    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return path
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            Path(partial).chmod(0o666 & ~umask)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputFileError(f"cannot write '{path}': {error.strerror}") from error
    return path
