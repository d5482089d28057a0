"""When a joint search helps, on a run that is made up."""

import runpy
from pathlib import Path

import pytest

from jopa.benchmark.records import read_run
from synthetic_run import cell, experiment, write_run

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "analysis" / "when_joint_helps.py"))


def made_up(tmp_path):
    """Prompts whose leave-one-out units overlap more and more, and on which joint gains just that."""
    cells = []
    for i in range(12):
        overlap = i / 24
        alone = {"individual": [1.0, 1.0, 1.0], "log_prob": -2.0, "log_prob_removed": -2.0 - 3 * (1 - overlap)}
        ours = {"individual": [0.9, 0.9, 0.9], "log_prob": -2.0, "log_prob_removed": -5.0, "synergy": 0.3}
        cells += [cell("joint", f"p{i}") | ours, cell("ablation", f"p{i}") | alone]
    return read_run(write_run(tmp_path, experiment(["joint", "ablation"]), cells))


def test_gain_and_overlap_by_hand(tmp_path):
    rows = STUDY["pairs"](made_up(tmp_path).done, "ablation")
    assert [row.overlap for row in rows] == pytest.approx([i / 24 for i in range(12)])
    assert [row.share for row in rows] == pytest.approx([i / 24 for i in range(12)])
    assert rows[6].gain == pytest.approx(3 * 6 / 24)
    assert rows[0].synergy == pytest.approx(0.1)


def test_on_how_many_prompts_another_set_does_more(tmp_path):
    def of(method, prompt, removed):
        return cell(method, prompt) | {"log_prob": -2.0, "log_prob_removed": removed}

    cells = [of("joint", f"p{i}", -5.0) for i in range(3)] + [of("ablation", f"p{i}", -4.0) for i in range(3)]
    cells += [of("greedy", "p0", -5.005), of("greedy", "p1", -5.5)]  # the first differs by rounding alone
    run = read_run(write_run(tmp_path, experiment(["joint", "ablation", "greedy"]), cells))
    n_prompts, gains = STUDY["surpassed"](run.done)
    assert (n_prompts, gains) == (3, [pytest.approx(0.5)])
    assert "on 2 of 3 prompts; elsewhere one does, by at most 0.50 nats." in "\n".join(STUDY["tables"](run.done))


def test_the_tables_and_the_figure(tmp_path):
    cells = made_up(tmp_path / "run").done
    printed = "\n".join(STUDY["tables"](cells))
    assert "| ablation | 12 |" in printed
    assert "11 / 1 / 0" in printed
    assert "1.00 (1.00 to 1.00)" in printed  # the overlap tells the gain exactly
    assert "| 30% | 4 |" in printed
    pytest.importorskip("matplotlib")
    STUDY["draw"](STUDY["pairs"](cells, "ablation"), tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert (tmp_path / "figure.svg").exists()
