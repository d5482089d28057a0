"""The studies that read the records of benchmark runs, on runs that are made up: no model is needed."""

import json
import random
import runpy
import sys
from pathlib import Path

from jopa.benchmark.records import read_run
from synthetic_run import cell, experiment, trace, write_run

ANALYSIS = Path(__file__).parents[2] / "analysis"
SETTINGS = {"name": "jopa", "initial": "abs", "sampling": "gradient", "gradients": "once", "steps": 200}


def test_open_questions_are_answered_from_records(tmp_path, monkeypatch, capsys):
    source, cells = random.Random(0), []
    for number in range(6):
        name, shape = f"p{number}", {"search_removal": "zero", "units": 9 + number}
        searched = {"method": SETTINGS, "trace": trace(source, 200, -2, -9)}
        cells.append(cell("jopa", name, pr=0.3 + 0.1 * number, **shape) | searched)
        other = {"method": SETTINGS | {"gradients": "fresh"}, "search_log_prob_removed": -4.0}
        cells.append(cell("fresh", name, pr=0.2, **shape) | other)
    write_run(tmp_path, experiment(["jopa", "fresh"]), cells)
    monkeypatch.setattr(sys, "argv", ["open_questions.py", str(tmp_path)])
    runpy.run_path(str(ANALYSIS / "open_questions.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "6 searches." in printed
    assert "| fresh | 6 | -1.00 ± 0.00 | 6 / 0 / 0 | 5 |" in printed
    assert "| alpaca | fresh | 6 | 2.00 ± 0.00 | 3.22 ± 0.00 |" in printed
    assert "| alpaca | fresh | 6 | 3.22 ± 0.00 | 53 % |" in printed
    assert "| alpaca | 12 | 1.00 | 1.00 | 100 % | 0.38 ± 0.06 |" in printed
    assert "| fresh | 6 | a (6) · story (6) · write (6) |" in printed


def test_case_studies_are_picked_from_records(tmp_path):
    ratios = {"p0": (0.2, 0.5), "p1": (0.4, 0.3), "p2": (0.3, 0.6)}
    cells = [
        cell(method, name, pr=pr)
        for name, both in ratios.items()
        for method, pr in zip(("joint", "ablation"), both, strict=True)
    ]
    run = read_run(write_run(tmp_path, experiment(["joint", "ablation"]), cells))
    study = runpy.run_path(str(ANALYSIS / "case_studies.py"))
    data = study["by_data"](run)
    assert [(case.name, case.reason) for case in study["picked"](run, data)] == [
        ("p0", "largest synergy"),
        ("p2", "median synergy"),
        ("p1", "smallest synergy; first on which leave-one-out's set does at least as much"),
    ]
    lines = list(study["summary"](data))
    assert "| alpaca | 3 | leave-one-out | 2 | 0 | 1 | +1.39 |" in lines
    assert "| alpaca | joint | 3 | 0.30 | 0.30 | +0.33, +0.91, +1.72 | 3 | 0 |" in lines
    case = next(study["picked"](run, data))
    shown = study["marked_prompt"](case.example.prompt, case.cells["joint"])
    assert shown.startswith(r"> **\[write\]** **\[a\]** **\[story\]** about")


def test_case_studies_write_their_prompts(tmp_path):
    attack = {"id": "a", "method": "GCG", "jbb_index": 0, "prompt": "attack"}
    everyday = {"id": "e", "method": "benign", "jbb_index": None, "prompt": "everyday"}
    benign = [{"id": f"b{i}", "method": "benign", "jbb_index": i, "prompt": f"behaviour {i}"} for i in range(31)]
    question = {"id": "q", "question": "How many?", "options": ["A)5(√3 + 1)", "B) 6"]}
    for name, rows in (("jailbreak", [attack, everyday, *benign]), ("aqua", [question])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runpy.run_path(str(ANALYSIS / "case_studies.py"))["write_prompts"](tmp_path, tmp_path)
    behaviours, questions = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("jbb-benign", "aqua-questions")
    )
    assert behaviours == [{"id": f"b{i}", "prompt": f"behaviour {i}"} for i in range(30)]
    assert questions == [{"id": "q", "prompt": "How many?\nAnswer Choices: (a) 5(√3 + 1) (b) 6"}]
