"""Curves of settings, on a run that is made up."""

import runpy
from pathlib import Path

import pytest

from jopa.benchmark.records import read_run
from synthetic_run import cell, experiment, write_run

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "analysis" / "hyperparameters.py"))


def test_each_variant_stands_beside_its_defaults(tmp_path):
    cells = []
    for i in range(4):
        for label, budget, fall in (("joint", 50, 3.0), ("joint, budget 25", 25, 2.0), ("joint, budget 100", 100, 3.5)):
            found = {"method": {"name": "joint", "budget": budget, "batch": 4}, "ffe": float(budget)}
            cells.append(cell(label, f"p{i}") | found | {"log_prob_removed": -2.0 - fall - 0.1 * i})
    labels = ["joint", "joint, budget 25", "joint, budget 100"]
    found = STUDY["variants"](read_run(write_run(tmp_path / "run", experiment(labels), cells)).done)
    assert [(one.setting, one.value) for one in found] == [("", ""), ("budget", 25), ("budget", 100)]
    assert found[1].difference == pytest.approx([-1.0] * 4)
    assert found[2].effect == pytest.approx(3.5 + 0.15)
    printed = "\n".join(STUDY["table"](found))
    assert "| joint | budget = 25 | 4 | -1.00 (-1.00 to -1.00) | 0 / 0 / 4 | 25 | 50 |" in printed
    assert "| joint | budget = 100 | 4 | +0.50 (+0.50 to +0.50) | 4 / 0 / 0 | 100 | 50 |" in printed
    pytest.importorskip("matplotlib")
    STUDY["draw"](found, tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 1000
