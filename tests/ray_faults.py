"""Methods that bring down the worker that runs them; Ray's workers import this file, so it imports no test."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jopa.method import Method, Selection


@dataclass(frozen=True)
class Deadly(Method):
    """Ends its own process on prompts of `units` units: first SIGTERM, then SIGKILL; otherwise the first units."""

    name: ClassVar[str] = "deadly"
    summary: ClassVar[str] = "kills its worker"
    cost: ClassVar[str] = "0"
    units: int = 11
    marks: str = ""

    def run(self, problem, k, *, seed=0):
        if problem.n_units == self.units:
            is_first = not any(Path(self.marks).iterdir())
            Path(self.marks, f"{os.getpid()}-{time.time_ns()}").touch()
            os.kill(os.getpid(), signal.SIGTERM if is_first else signal.SIGKILL)
        return Selection(tuple(range(k)), "lived")


@dataclass(frozen=True)
class Slow(Method):
    """Takes its time, so that there is time to kill its worker."""

    name: ClassVar[str] = "slow"
    summary: ClassVar[str] = "sleeps"
    cost: ClassVar[str] = "0"

    def run(self, problem, k, *, seed=0):
        time.sleep(0.3)
        return Selection(tuple(range(k)), "slept")
