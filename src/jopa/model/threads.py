"""How many threads torch works with: as many as there are idle cores, decided once, before a model is loaded.

Two threads beside a process that keeps one of two cores busy were three times as slow as one: each forward waits for
the slower thread. So cores that other work uses are left to it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from jopa.errors import SettingError

_SECONDS = 0.2
"""How long the cores are watched."""
_BUSY = 50.0
"""From this percentage on a core counts as busy."""


class Threads(NamedTuple):
    """A choice of threads and why it was made, as people read it."""

    n: int
    reason: str


def use_threads(asked: int | None = None) -> Threads:
    """Set how many threads torch uses on the processor in this process.

    Args:
        asked: the number of threads; by default `OMP_NUM_THREADS` where it is set, else as many as cores are idle.

    Raises:
        SettingError: fewer than one are asked for.
    """
    if asked is not None and asked < 1:
        raise SettingError(f"threads must be at least 1, got {asked}")
    import torch

    chosen = _chosen(asked, torch.get_num_threads())
    torch.set_num_threads(chosen.n)
    return chosen


def _chosen(asked: int | None, at_most: int) -> Threads:
    """The threads to use; at most as many as torch would by itself, unless more are asked for."""
    if asked is not None:
        return Threads(asked, "as asked for")
    if os.environ.get("OMP_NUM_THREADS"):
        return Threads(at_most, "OMP_NUM_THREADS says so")
    busy, n_cores = _busy_cores()
    n = max(1, min(at_most, n_cores - busy))
    return Threads(n, f"{busy} of {n_cores} cores were busy with other work")


def _busy_cores() -> tuple[int, int]:
    """How many of the cores that this process may use are busy, and how many there are."""
    import psutil

    percentages = psutil.cpu_percent(interval=_SECONDS, percpu=True)
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(percentages))
    used = [percentages[core] for core in ours if core < len(percentages)]
    return sum(percentage >= _BUSY for percentage in used), len(used) or 1
