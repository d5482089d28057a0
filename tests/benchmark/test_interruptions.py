"""Runs of a tiny benchmark that are killed, torn or out of space, and continued: the same records as without."""

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import msgspec
import pytest

import tiny_bench
from jopa.benchmark.records import FinishedCell, read_run
from jopa.benchmark.run import run_bench, serial_map
from jopa.errors import InputFileError
from jopa.methods import make_method
from jopa.storage import read_lines
from tiny_bench import JOURNALS, cells, keys, same_run, timeless

pytestmark = pytest.mark.usefixtures("loaded")


def stopping(after: int):
    """A map that ends as by Ctrl-C behind some line."""

    def mapper(experiment, tasks):
        for number, line in enumerate(serial_map(experiment, tasks)):
            if number == after:
                raise KeyboardInterrupt
            yield line

    return mapper


def test_a_run_stopped_behind_any_line_goes_on_to_the_same_records(home, tmp_path):
    wanted = tiny_bench.experiment(home, [make_method("random"), make_method("ablation")], limit=1)
    run_bench(wanted, tmp_path / "whole")
    n_lines = sum(len(read_lines(tmp_path / "whole" / f"{name}.jsonl")) for name in JOURNALS)
    assert n_lines == 1 + 3 + 4  # ablation answers both k in one search
    for after in range(n_lines):
        with pytest.raises(KeyboardInterrupt):
            run_bench(wanted, tmp_path / str(after), mapper=stopping(after))
        run_bench(wanted, tmp_path / str(after))
        same_run(tmp_path / str(after), tmp_path / "whole")


def journal_bytes(folder: Path) -> int:
    journals = [folder / f"{name}.jsonl" for name in JOURNALS]
    return sum(path.stat().st_size for path in journals if path.exists())


def _work(wanted, folder) -> None:
    run_bench(wanted, folder)
    os._exit(0)


def test_killed_at_random_moments_and_torn_then_continued(home, tmp_path, reference):
    """kill -9 of a process at work, at random numbers of bytes in the journals; at times its last line is torn, too."""
    wanted, folder, draw = tiny_bench.experiment(home), tmp_path / "run", random.Random(4)
    whole = journal_bytes(reference)
    kills = torn = 0
    for _ in range(40):
        step = draw.randrange(1, whole // 6)
        worker = multiprocessing.get_context("fork").Process(target=_work, args=(wanted, folder))
        worker.start()
        target = journal_bytes(folder) + step
        while worker.is_alive() and journal_bytes(folder) < target:
            time.sleep(0.0005)
        time.sleep(draw.random() * 0.01)
        worker.kill()  # SIGKILL; nothing if it has ended
        worker.join(30)
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -signal.SIGKILL
        kills += 1
        journals = [folder / f"{name}.jsonl" for name in JOURNALS if (folder / f"{name}.jsonl").exists()]
        if journals and draw.random() < 0.5:
            last = max(journals, key=lambda path: path.stat().st_mtime_ns)
            data = last.read_bytes()
            if data:
                start = data.rstrip(b"\n").rfind(b"\n") + 1
                last.write_bytes(data[: draw.randrange(start, len(data))])
                torn += 1
        read_run(folder) if (folder / "experiment.json").exists() else None  # readers are never in trouble
    else:
        pytest.fail("it never came to its end")
    assert kills >= 4
    assert torn >= 1
    assert len(keys(cells(folder))) == len(set(keys(cells(folder)))) == 32
    same_run(folder, reference)


def test_a_torn_cell_is_redone(home, tmp_path):
    wanted = tiny_bench.experiment(home, [make_method("random")], limit=2)
    run_bench(wanted, tmp_path)
    before = cells(tmp_path)
    path = tmp_path / "cells.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_run(tmp_path).cells) == 3
    assert run_bench(wanted, tmp_path).done == 1
    assert timeless(cells(tmp_path)) == timeless(before)


def test_a_line_that_comes_twice_is_written_once(home, tmp_path):
    """A worker that was given up may have answered after all."""

    def twice(experiment, tasks):
        for line in serial_map(experiment, tasks):
            yield line
            if line.journal == "cells":
                yield line

    assert run_bench(tiny_bench.experiment(home, limit=1), tmp_path, mapper=twice).done == 8
    assert len(cells(tmp_path)) == 8


def test_half_a_surrogate_pair_in_an_answer_is_recorded(home, tmp_path):
    """A model's bytes need be no text; a record of them is."""

    def strange(experiment, tasks):
        for journal, record in serial_map(experiment, tasks):
            if isinstance(record, FinishedCell):
                record = msgspec.structs.replace(record, counterfactual_output="half \ud83d of it")
            yield journal, record

    run_bench(tiny_bench.experiment(home, [make_method("random")], limit=1), tmp_path, mapper=strange)
    assert {cell["counterfactual_output"] for cell in cells(tmp_path)} == {"half \ud83d of it"}


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_there(home, tmp_path, monkeypatch):
    wanted = tiny_bench.experiment(home, [make_method("random"), make_method("ablation")], limit=1)
    run_bench(wanted, tmp_path / "whole")
    synced = 0

    def full_after_six(handle):
        nonlocal synced
        synced += 1
        if synced > 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_six)
        with pytest.raises(InputFileError, match=r"cannot write '.*\.jsonl': No space left on device"):
            run_bench(wanted, tmp_path / "run")
    assert 0 < sum(len(read_lines(tmp_path / "run" / f"{name}.jsonl")) for name in JOURNALS) < 8
    run_bench(wanted, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")
