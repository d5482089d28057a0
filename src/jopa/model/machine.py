"""The machine that a model runs on: its processor, and what else is at work there."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


class OtherWork:
    """What other processes do, from now on, on the cores that this process may use."""

    def __init__(self) -> None:
        self._started, self._busy = time.perf_counter(), self._busy_seconds()

    def cores(self) -> float:
        """How many cores other processes have kept busy since then, on average; 0 where the system does not say."""
        return max(0.0, self._busy_seconds() - self._busy) / (time.perf_counter() - self._started)

    def share(self) -> float:
        """The share of those cores' time that other processes took."""
        return self.cores() / len(usable_cores())

    @staticmethod
    def _busy_seconds() -> float:
        import psutil

        own, of_cores = psutil.Process().cpu_times(), psutil.cpu_times(percpu=True)
        busy = 0.0
        for core in usable_cores():
            if core < len(of_cores):
                idle = of_cores[core].idle + getattr(of_cores[core], "iowait", 0.0)
                busy += sum(of_cores[core][:8]) - idle
        return busy - own.user - own.system


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    found = {name.strip(): value.strip() for name, value in told.items()}
    model = f" family {found['cpu family']} model {found.get('model')}" if "cpu family" in found else ""
    return (found.get("model name") or platform.processor() or platform.machine()) + model
