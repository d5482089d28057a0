"""How many threads are used follows from the cores that are idle."""

import psutil
import pytest
import torch

import jopa
from jopa.model import threads
from jopa.model.threads import use_threads


@pytest.fixture
def machine(monkeypatch):
    """A machine whose cores are busy to these percentages, where torch would use as many threads as cores."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def made(*percentages):
        monkeypatch.setattr(psutil, "cpu_percent", lambda **_: list(percentages))
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(len(percentages))), raising=False)
        torch.set_num_threads(len(percentages))

    yield made
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("percentages", "expected"), [((1.0, 3.0), 2), ((99.0, 3.0), 1), ((99.0, 98.0), 1), ((99.0, 0.0, 0.0, 70.0), 2)]
)
def test_busy_cores_are_left_to_others(machine, percentages, expected):
    machine(*percentages)
    chosen = use_threads()
    assert chosen.n == torch.get_num_threads() == expected
    assert f"of {len(percentages)} cores were busy" in chosen.reason


def test_what_is_asked_for_is_done(machine, monkeypatch):
    machine(99.0, 99.0)
    assert use_threads(2) == (2, "as asked for")
    with pytest.raises(jopa.SettingError, match="threads must be at least 1, got 0"):
        use_threads(0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert use_threads() == (2, "OMP_NUM_THREADS says so")
