"""No phase is silent where there is no terminal."""

import time

import pytest

from jopa.benchmark.run import RunProgress
from jopa.cli import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)


def test_a_long_phase_is_told_again_and_again(capsys):
    with progress.progress_bar() as show:
        show("loading the model", 0, None)
        time.sleep(0.2)
        show("searching", 3, 1200)
        time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("loading the model, 0 s")][:2] == ["loading the model, 0 s"] * 2
    assert any(line.startswith("searching, 3 of 1,200, ") for line in lines)
    time.sleep(0.12)
    assert not capsys.readouterr().err  # it ends with its block


def test_a_benchmark_speaks_before_its_first_cell_and_repeats_nothing(capsys):
    lines = []

    def until(beginning):
        deadline = time.monotonic() + 20
        while not any(line.startswith(beginning) for line in lines):
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)
            lines.extend(capsys.readouterr().err.splitlines())

    with progress.cell_progress() as show:
        until("reading records, 0 s")
        show(RunProgress(0, 0, 8))
        until("0 of 8 cells; loading the model, generating an answer and searching")
        show(RunProgress(0, 0, 8, 1, 2))
        until("0 of 8 cells; answers generated: 1, searches ended: 2")
        show(RunProgress(2, 1, 8, 3, 4))
        until("3 of 8 cells, 1 failed")
        time.sleep(0.12)
    lines += capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("3 of 8 cells, 1 failed")]) == 1
