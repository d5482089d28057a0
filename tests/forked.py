"""Work in a process of its own that needs no imports: it is forked from the process of the tests."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def _run(work: Callable[[], object], said: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    work()


def forked(work: Callable[[], object], said: Path):
    """A started process that does this work and writes its stderr to a file."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(work, said))
    process.start()
    return process
