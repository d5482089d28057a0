"""The study behind the score: its arithmetic, and which prompts it sets against which."""

import importlib.util
import math
import sys
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from jopa.detection.verdict import Stretch, numbers
from planted_evidence import EVIDENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("detection_study", ROOT / "analysis" / "detection.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["detection_study"] = module
    spec.loader.exec_module(module)
    return module


def table_of(study, rows):
    records = tuple(
        {"id": str(i), "family": "F", "half": "test", "source": "s"} | row for i, (row, _) in enumerate(rows)
    )
    evidence = tuple(evidence for _, evidence in rows)
    return study.Table(records, evidence, tuple(map(numbers, evidence)))


def test_area_counts_pairs(study):
    hostile = np.array([True, True, False, False])
    assert study.area(np.array([3.0, 1.0, 2.0, 1.0]), hostile) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    low, high = study.interval(np.array([3.0, 4.0, 2.0, 1.0]), hostile)
    assert (low, high) == (1.0, 1.0)
    low, high = study.interval(np.array([3.0, 1.5, 2.0, 1.0]), hostile)
    assert 0 <= low < study.area(np.array([3.0, 1.5, 2.0, 1.0]), hostile) < high <= 1


def test_a_unit_lies_in_a_span_with_more_than_half_of_it(study):
    assert study.lies_in(0, 4, [[1, 4]])
    assert not study.lies_in(0, 4, [[2, 4]])
    assert study.lies_in(0, 4, [[0, 1], [2, 4]])


def test_evidence_comes_back_as_it_was_written(study):
    assert study.evidence_of(study.rounded(asdict(EVIDENCE))) == EVIDENCE


def test_chance_is_the_share_of_all_draws(study):
    e = replace(EVIDENCE, span=Stretch(2, 5, 1.0))
    record = {"inside": [3, 4, 5]}
    share, hit, chance, inside, precise, overlap, by_chance = study._hits(record, e)
    draws = [set(units) & {3, 4, 5} for units in combinations(range(8), 3)]
    assert share == pytest.approx(3 / 8)
    assert chance == pytest.approx(sum(map(bool, draws)) / len(draws))
    assert (hit, inside) == (True, pytest.approx(2 / 3))
    assert precise == pytest.approx(2 / 3)
    assert overlap == pytest.approx(2 / 4)
    overlaps = [0, 1 / 5, 2 / 4, 1, 2 / 4, 1 / 5]  # of [i, i + 3) with {3, 4, 5}, i = 0 … 5
    assert by_chance == pytest.approx(sum(overlaps) / 6)


def test_weights_find_the_number_that_tells(study):
    rows = []
    for i in range(20):
        hostile = i % 2 == 0
        e = replace(
            EVIDENCE, refusal=-12.0 + i % 3, surprisals=tuple(v + 3 * hostile + i / 10 for v in EVIDENCE.surprisals)
        )
        rows.append(({"hostile": hostile}, e))
    table = table_of(study, rows)
    bias, weights = study.fitted(table, ("surprisal", "refusal"))
    assert weights["surprisal"] > 0
    assert abs(weights["surprisal"]) > abs(weights["refusal"])
    assert study.area(study.scores(table, bias, weights), table.hostile) > 0.9
    by_hand = [bias + sum(w * row[name] for name, w in weights.items()) for row in table.numbers]
    assert study.scores(table, bias, weights) == pytest.approx(by_hand)


def test_only_whole_pairs_count(study, tmp_path):
    evidence = study.rounded(asdict(EVIDENCE))
    lines = [
        {"id": "a", "family": "GCG (vicuna)", "hostile": True, "half": "test", "pair": None},
        {"id": "b", "family": "GCG (vicuna)", "hostile": False, "half": "test", "pair": "a"},
        {"id": "c", "family": "PAIR", "hostile": True, "half": "test", "pair": None},
        {"id": "d", "family": study.BENIGN, "hostile": False, "half": "test", "pair": None},
    ]
    with study.Journal(tmp_path / "evidence.jsonl") as journal:
        for line in lines:
            journal.append({**line, "evidence": evidence})
    table = study.Table.read(tmp_path)
    assert [record["id"] for record in table.records] == ["a", "b", "d"]
    assert table.families == ["GCG"]
    assert table.hostile.tolist() == [True, False, False]


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data").exists(), reason="the shared data are not here")
def test_attacks_and_controls_are_matched(study, monkeypatch):
    monkeypatch.setattr(study, "DATA", ROOT.parent / "shared" / "data")
    cases = list(study.in_turn(6, lambda text: len(text.split())))
    by_id = {case.id: case for case in cases}
    assert len(by_id) == len(cases)  # nothing twice
    attacks = [case for case in cases if case.hostile]
    assert len(attacks) == 6 * 6
    controls = {case.pair: case for case in cases if case.pair}
    assert set(controls) == {case.id for case in attacks}
    for attack in attacks:
        control = controls[attack.id]
        assert (control.half, control.family) == (attack.half, attack.family)
        lengths = len(attack.text.split()), len(control.text.split())
        assert math.isclose(*lengths, rel_tol=0.15)
    for family in {case.family for case in attacks}:
        halves = [case.half for case in attacks if case.family == family]
        assert halves.count("test") == 3
    assert {case.source for case in controls.values()} == {"counsel_chat", "alpaca", "aqua"}
