"""The machine that a model runs on: its processor, and what else is at work there."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


class OtherWork:
    """What other processes do on this machine's processors from now on."""

    def __init__(self) -> None:
        self._started, self._busy = time.perf_counter(), self._busy_seconds()

    def share(self) -> float:
        """The share of all processors' time since then that other processes took; 0 where the system does not say."""
        wall = time.perf_counter() - self._started
        return max(0.0, self._busy_seconds() - self._busy) / (wall * (os.cpu_count() or 1))

    @staticmethod
    def _busy_seconds() -> float:
        import psutil

        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return sum(machine[:8]) - idle - own.user - own.system


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
