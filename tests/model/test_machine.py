"""What other work does on the machine, from the system's counters."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from jopa.model.machine import OtherWork


class CpuTimes(NamedTuple):
    """Seconds of a core or a process, as psutil gives them."""

    user: float
    system: float
    idle: float


def test_other_work_is_that_of_the_cores_less_ones_own(monkeypatch):
    cores = iter(
        [
            [CpuTimes(6, 1, 30), CpuTimes(4, 1, 20), CpuTimes(0, 0, 9)],
            [CpuTimes(10, 2, 30), CpuTimes(7, 1, 22), CpuTimes(9, 9, 9)],  # 8 busy seconds on the first two
        ]
    )
    own = iter([CpuTimes(1, 1, 0), CpuTimes(4, 2, 0)])  # 4 of them
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: next(cores))
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: next(own)))
    monkeypatch.setattr(time, "perf_counter", iter([100.0, 105.0]).__next__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert OtherWork().share() == pytest.approx(0.4)


def test_a_busy_core_is_seen():
    other = OtherWork()
    busy = "import time; end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert other.cores() > 0.3
