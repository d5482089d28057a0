"""How many threads torch works with: as many as there are idle cores, looked at again while a model runs.

Each of a forward's many products waits for its slowest thread. So two threads beside a process that takes one of two
cores are slower than one alone, and cores that other work uses are left to it.
"""

from __future__ import annotations

import math
import os
import time

from jopa.errors import SettingError
from jopa.model.machine import OtherWork, usable_cores

_SECONDS = 0.2
"""How long the cores are watched before the work begins."""
_BUSY = 50.0
"""From this percentage on a core counts as busy then."""
_PERIOD = 0.5
"""Seconds from one look to the next, during the work."""
_OVERLOOKED = 0.25
"""Other work that takes less than this share of a core counts as none. Work that wants a whole core gets half of it
beside as many threads as there are cores, so this must be well below a half."""


class Threads:
    """A number of threads that torch uses in this process, and why.

    Args:
        n: how many.
        reason: why so many, as people read it.
        at_most: where not None, the number follows the other work on the machine, up to this.
    """

    def __init__(self, n: int, reason: str, at_most: int | None = None) -> None:
        self.n, self._reason, self._at_most = n, reason, at_most
        self._least, self._most = n, n
        self._looked, self._other_work = time.perf_counter(), OtherWork() if at_most else None

    def __str__(self) -> str:
        """The number and the reason: `2; 0 of 2 cores were busy with other work`."""
        if self._least < self._most:
            return f"{self._least} to {self._most}; as many as cores were idle"
        return f"{self.n}; {self._reason}"

    def follow(self) -> None:
        """Take as many threads as cores are idle by now; called by the thread that runs a model."""
        if self._at_most is None or self._other_work is None:
            return
        import torch

        if time.perf_counter() - self._looked >= _PERIOD:
            busy = math.ceil(self._other_work.cores() - _OVERLOOKED)
            self.n = max(1, min(self._at_most, len(usable_cores()) - max(0, busy)))
            self._least, self._most = min(self._least, self.n), max(self._most, self.n)
            self._looked, self._other_work = time.perf_counter(), OtherWork()
        if torch.get_num_threads() != self.n:  # torch keeps a number for each thread of this process
            torch.set_num_threads(self.n)


_in_use: Threads | None = None
"""What `use_threads` chose, as torch's own number is one for the process."""


def use_threads(asked: int | None = None) -> Threads:
    """Set how many threads torch uses on the processor in this process.

    Args:
        asked: the number of threads; by default `OMP_NUM_THREADS` where it is set, else as many as cores are idle,
            which `follow_other_work` keeps up to date.

    Raises:
        SettingError: fewer than one are asked for.
    """
    global _in_use
    if asked is not None and asked < 1:
        raise SettingError(f"threads must be at least 1, got {asked}")
    import torch

    chosen = _chosen(asked, torch.get_num_threads())
    torch.set_num_threads(chosen.n)
    _in_use = chosen
    return chosen


def follow_other_work() -> None:
    """Between two products: take as many threads as cores are idle, if `use_threads` was to choose the number."""
    if _in_use is not None:
        _in_use.follow()


def _chosen(asked: int | None, at_most: int) -> Threads:
    """The threads to use; at most as many as torch would by itself, unless more are asked for."""
    if asked is not None:
        return Threads(asked, "as asked for")
    if os.environ.get("OMP_NUM_THREADS"):
        return Threads(at_most, "OMP_NUM_THREADS says so")
    busy, n_cores = _busy_cores()
    n = max(1, min(at_most, n_cores - busy))
    return Threads(n, f"{busy} of {n_cores} cores were busy with other work", at_most)


def _busy_cores() -> tuple[int, int]:
    """How many of the cores that this process may use are busy, and how many there are."""
    import psutil

    percentages = psutil.cpu_percent(interval=_SECONDS, percpu=True)
    used = [percentages[core] for core in usable_cores() if core < len(percentages)]
    return sum(percentage >= _BUSY for percentage in used), len(used) or 1
