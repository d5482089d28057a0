"""What a faulty method gives is the record of a failed cell: the run goes on, and the folder can be read."""

import json
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import tiny_bench
from faulty_selections import FAULTS, RANKING_FAULTS, Giving, Scoring, giving, made
from jopa.benchmark.records import read_run, read_searches
from jopa.benchmark.run import batched_map, run_bench, serial_map
from jopa.evaluation.regeneration import Evaluator
from jopa.method import Method, Selection
from jopa.methods import make_method
from jopa.storage import read_lines

pytestmark = pytest.mark.usefixtures("loaded")


class Mended(Method):
    """Gave what cannot be used, and then gives what can."""

    name: ClassVar[str] = "giving"
    summary: ClassVar[str] = "gives what it was told to"
    cost: ClassVar[str] = "0"

    def run(self, problem, k, *, seed=0):
        return Selection(tuple(range(k)), "mended")


def wanted_of(home, methods, **more):
    wanted = tiny_bench.experiment(home, [make_method("ablation")], limit=1, ks=(2,), unit="word", **more)
    others = [replace(wanted.methods[0], label=label, method=method) for label, method in methods.items()]
    return replace(wanted, methods=(*others, *wanted.methods))


def test_each_fault_is_a_failed_cell_and_the_mended_method_searches_again(home, tmp_path):
    methods = {label: giving(Giving, gives) for label, (gives, _) in FAULTS.items()}
    methods |= {f"ranking: {label}": giving(Scoring, gives) for label, (gives, _) in RANKING_FAULTS.items()}
    outcome = run_bench(wanted_of(home, methods), tmp_path)
    assert (outcome.done, outcome.failed) == (1, len(methods))
    run = read_run(tmp_path)
    assert {cell.key.method for cell in run.done} == {"ablation"}
    for cell in run.failed:
        assert cell.error.startswith(f"ScoringError: method '{methods[cell.key.method].name}' gave ")
    assert [search.method for search in read_searches(tmp_path)] == ["ablation"]

    mended = {label: Mended() for label in methods if not label.startswith("ranking")}
    outcome = run_bench(wanted_of(home, mended), tmp_path, retry_failed=True)
    assert (outcome.done, outcome.failed) == (len(mended), 0)


def test_numbers_of_numpy_are_recorded(home, tmp_path):
    def gives(k, n):
        details = {"error": np.float32(0.5), "counts": np.arange(2)}
        return made(Selection, np.arange(k), "s", scores=np.arange(n, dtype=np.float32), details=details)

    assert run_bench(wanted_of(home, {"given": giving(Giving, gives)}), tmp_path).failed == 0
    cell = next(cell for cell in read_run(tmp_path).done if cell.key.method == "given")
    assert set(cell.removed) == {0, 1}
    assert cell.details == {"error": 0.5, "counts": [0, 1]}
    assert cell.scores is not None and cell.scores[:3] == (0.0, 1.0, 2.0)


def test_an_evaluation_that_could_not_be_read_again_fails_alone(home, tmp_path, monkeypatch):
    evaluate = Evaluator.evaluate

    def too_likely(self, sets):
        return [replace(it, log_prob_removed=7.0) if len(it.removed) == 2 else it for it in evaluate(self, sets)]

    monkeypatch.setattr(Evaluator, "evaluate", too_likely)
    outcome = run_bench(tiny_bench.experiment(home, [make_method("ablation")], limit=2), tmp_path)
    assert (outcome.done, outcome.failed) == (2, 2)
    assert all("log_prob_removed" in cell.error for cell in read_run(tmp_path).failed)


@pytest.mark.parametrize("removed", [[0, 0], [0], [0, 1, 2], [0, 99]])
def test_a_selection_of_an_older_version_that_is_none_is_searched_again(home, tmp_path, removed):
    wanted = wanted_of(home, {"given": Mended()})
    run_bench(wanted, tmp_path)
    path = tmp_path / "selections.jsonl"
    lines = read_lines(path)
    assert lines[0]["method"] == "given"
    lines[0]["answers"][0]["removed"] = removed
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cells = tiny_bench.cells(tmp_path)
    failed = {"schema": 1, "key": cells[0]["key"], "status": "failed", "error": "IndexError", "date": "", "worker": ""}
    (tmp_path / "cells.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (failed, cells[1])))
    outcome = run_bench(wanted, tmp_path, retry_failed=True)
    assert (outcome.done, outcome.failed) == (1, 0)
    assert [search.answers[0].removed for search in read_searches(tmp_path)][-1] == (0, 1)


class Leaving(Method):
    """Ends the process, as a command's own main function does where its input is wrong."""

    name: ClassVar[str] = "leaving"
    summary: ClassVar[str] = "exits"
    cost: ClassVar[str] = "0"

    def run(self, problem, k, *, seed=0):
        sys.exit("no data")


class LeavingEarly(Leaving):
    """The same before any work."""

    def validate(self, shape, k):
        sys.exit(3)


@pytest.mark.parametrize("mapper", [serial_map, batched_map(2)], ids=["serial", "batched"])
def test_a_method_that_exits_is_a_failed_cell(home, tmp_path, mapper):
    wanted = wanted_of(home, {"run": Leaving(), "validate": LeavingEarly()})
    outcome = run_bench(wanted, tmp_path, mapper=mapper)
    assert (outcome.done, outcome.failed) == (1, 2)
    errors = {cell.key.method: cell.error for cell in read_run(tmp_path).failed}
    assert errors == {"run": "SystemExit: no data", "validate": "SystemExit: 3"}
