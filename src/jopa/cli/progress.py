"""How far the work is, on stderr: a bar on a terminal, else a line every some seconds, so that no phase is silent."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jopa.reports.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jopa.benchmark.run import RunProgress as CellProgress

EVERY_SECONDS = 10.0
"""Between two lines where there is no terminal."""


@contextmanager
def heartbeat(line: Callable[[], str], *, active: bool) -> Iterator[None]:
    """Write a line to stderr every `EVERY_SECONDS`, from a thread of its own, for the time of a block.

    Args:
        line: what to write; called each time. Nothing is written where it is empty.
        active: whether to write at all.
    """
    ended = threading.Event()

    def write_lines() -> None:
        while not ended.wait(EVERY_SECONDS):
            if text := line():
                print(one_line(text), file=sys.stderr, flush=True)

    thread = threading.Thread(target=write_lines, name="jopa-heartbeat", daemon=True)
    if active:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if active:
            thread.join()


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A context whose value, `(stage, done, total)`, shows progress on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started, now = time.monotonic(), ("", 0, None)

    def line() -> str:
        stage, done, total = now
        count = f", {done:,} of {total:,}" if total else f", {done:,}" if done else ""
        return f"{stage}{count}, {time.monotonic() - started:.0f} s" if stage else ""

    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        heartbeat(line, active=not console.is_terminal),
    ):
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int | None) -> None:
            nonlocal now
            now = (stage, done, total)
            bar.update(task, description=one_line(stage), completed=done, total=total)

        yield show


@contextmanager
def cell_progress() -> Iterator[Any]:
    """A context whose value shows how far a benchmark is: a bar, or a line every `EVERY_SECONDS` where it changed.

    Before the first cell (records are read, models and data loaded, answers generated, sets searched) it says so.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        *(TextColumn("{task.fields[stage]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
        *(TextColumn("{task.fields[failed]} failed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    started = time.monotonic()
    text, last_text, last_told = "", "", started

    def line() -> str:
        nonlocal last_text, last_told
        seconds = time.monotonic() - started
        if text == last_text and time.monotonic() - last_told < 6 * EVERY_SECONDS and last_text:
            return ""
        last_text, last_told = text, time.monotonic()
        return text or f"reading records, {seconds:.0f} s"

    with (
        Progress(*columns, console=console, speed_estimate_period=600, disable=not console.is_terminal) as bar,
        heartbeat(line, active=not console.is_terminal),
    ):
        task = bar.add_task("", total=None, failed=0, rate="", stage="loading")

        def show(now: CellProgress) -> None:
            nonlocal text
            finished, seconds = now.done + now.failed, time.monotonic() - started
            rate = f"{60 * finished / seconds:.1f} a minute" if finished and seconds else ""
            bar.update(task, total=now.total, completed=finished, failed=now.failed, rate=rate, stage="cells")
            if finished:
                text = f"{finished} of {now.total} cells, {now.failed} failed, {rate}"
            elif now.answers or now.searches:
                text = f"0 of {now.total} cells; answers generated: {now.answers}, searches ended: {now.searches}"
            else:
                text = f"0 of {now.total} cells; loading the model, generating an answer and searching"

        yield show
