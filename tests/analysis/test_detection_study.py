"""The study behind the score: its arithmetic, and which prompts it sets against which."""

import importlib
import math
import random
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from jopa.detection.verdict import Segment, numbers
from planted_evidence import EVIDENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "analysis")
        return importlib.import_module("detection")


@pytest.fixture(scope="module")
def tables(study):
    return importlib.import_module("detection_tables")


@pytest.fixture(scope="module")
def places(study):
    return importlib.import_module("detection_places")


def table_of(tables, rows):
    records = tuple(
        {"id": str(i), "family": "F", "half": "blind", "source": "s"} | row for i, (row, _) in enumerate(rows)
    )
    evidence = tuple(evidence for _, evidence in rows)
    return tables.Table(records, evidence, tuple(map(numbers, evidence)))


def test_area_counts_pairs(tables):
    hostile = np.array([True, True, False, False])
    assert tables.area(np.array([3.0, 1.0, 2.0, 1.0]), hostile) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    low, high = tables.interval(np.array([3.0, 4.0, 2.0, 1.0]), hostile)
    assert (low, high) == (1.0, 1.0)
    low, high = tables.interval(np.array([3.0, 1.5, 2.0, 1.0]), hostile)
    assert 0 <= low < tables.area(np.array([3.0, 1.5, 2.0, 1.0]), hostile) < high <= 1


def test_a_unit_lies_in_a_span_with_more_than_half_of_it(study):
    assert study.lies_in(0, 4, [[1, 4]])
    assert not study.lies_in(0, 4, [[2, 4]])
    assert study.lies_in(0, 4, [[0, 1], [2, 4]])


def test_evidence_comes_back_as_it_was_written(study, tables):
    assert tables.evidence_of(study.rounded(asdict(EVIDENCE))) == EVIDENCE


def test_chance_is_the_share_of_all_draws(places):
    e = replace(EVIDENCE, span=Segment(2, 5, 1.0))
    record = {"inside": [3, 4, 5]}
    share, hit, chance, inside, precise, overlap, by_chance = places.hits(record, e)
    draws = [set(units) & {3, 4, 5} for units in combinations(range(8), 3)]
    assert share == pytest.approx(3 / 8)
    assert chance == pytest.approx(sum(map(bool, draws)) / len(draws))
    assert (hit, inside) == (True, pytest.approx(2 / 3))
    assert precise == pytest.approx(2 / 3)
    assert overlap == pytest.approx(2 / 4)
    overlaps = [0, 1 / 5, 2 / 4, 1, 2 / 4, 1 / 5]  # of [i, i + 3) with {3, 4, 5}, i = 0 … 5
    assert by_chance == pytest.approx(sum(overlaps) / 6)


def test_weights_find_the_number_that_tells(tables):
    rows = []
    for i in range(20):
        hostile = i % 2 == 0
        e = replace(
            EVIDENCE, refusal=-12.0 + i % 3, surprisals=tuple(v + 3 * hostile + i / 10 for v in EVIDENCE.surprisals)
        )
        rows.append(({"hostile": hostile}, e))
    table = table_of(tables, rows)
    bias, weights = tables.fitted(table, ("surprisal", "refusal"))
    assert weights["surprisal"] > 0
    assert abs(weights["surprisal"]) > abs(weights["refusal"])
    assert tables.area(tables.scores(table, bias, weights), table.hostile) > 0.9
    by_hand = [bias + sum(w * row[name] for name, w in weights.items()) for row in table.numbers]
    assert tables.scores(table, bias, weights) == pytest.approx(by_hand)


def test_only_whole_pairs_count(study, tables, tmp_path):
    evidence = study.rounded(asdict(EVIDENCE))
    lines = [
        {"id": "a", "family": "GCG (vicuna)", "hostile": True, "half": "blind", "pair": None},
        {"id": "b", "family": "GCG (vicuna)", "hostile": False, "half": "blind", "pair": "a"},
        {"id": "c", "family": "PAIR", "hostile": True, "half": "blind", "pair": None},
        {"id": "d", "family": tables.BENIGN, "hostile": False, "half": "blind", "pair": None},
    ]
    with study.Journal(tmp_path / "evidence.jsonl") as journal:
        for line in lines:
            journal.append({**line, "evidence": evidence})
    table = tables.Table.read(tmp_path)
    assert [record["id"] for record in table.records] == ["a", "b", "d"]
    assert table.families == ["GCG"]
    assert table.hostile.tolist() == [True, False, False]


def test_tables_are_made_of_any_records(study, tables, places, tmp_path, monkeypatch):
    """Every table, from made-up evidence of both halves, with and without other defences' numbers."""
    monkeypatch.setattr(tables, "DRAWS", 100)  # for each interval; see `test_area_counts_pairs`
    drawn = random.Random(0)
    with study.Journal(tmp_path / "evidence.jsonl") as journal, study.Journal(tmp_path / "rivals.jsonl") as rivals:
        for i in range(80):
            hostile, attack = i % 4 == 0, ("GCG (x)", "PAIR")[i // 40]
            family = {2: tables.EVERYDAY, 3: tables.BENIGN}.get(i % 4, attack)
            surprisals = tuple(drawn.random() + 3 * hostile for _ in EVIDENCE.surprisals)
            line = {"id": str(i), "family": family, "hostile": hostile, "half": ("development", "blind")[i // 4 % 2]}
            line |= {"pair": str(i - 1) if i % 4 == 1 else None, "source": "s", "inside": [1, 2] if hostile else None}
            journal.append({**line, "evidence": study.rounded(asdict(replace(EVIDENCE, surprisals=surprisals)))})
            if i < 60:
                found = {"affirmation": float(hostile), "effect": drawn.random(), "influence": list(surprisals)}
                rivals.append({"id": str(i), "highlighted": found, "perturbed": {"loss": 1.0, "changed": 0.2}})
    table = tables.Table.read(tmp_path)
    printed = "\n".join([*tables.reporting(table), *places.where_units_lie(table), *places.kinds_of_answers(table)])
    assert "| GCG | 5, 5 |" in printed
    assert "| Token Highlighter: willingness | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) |" in printed
    assert "| SmoothLLM: less likely answer | 0.50 (0.50–0.50) |" in printed
    assert "10 % of 10 everyday" not in printed  # too few for a threshold
    assert "| score 0.5 |" in printed
    assert len(tables.fitting(table.of("development"))) > len(tables.SETS)


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data").exists(), reason="the shared data are not here")
def test_attacks_and_controls_are_matched(study, tables, monkeypatch):
    monkeypatch.setattr(study, "DATA", ROOT.parent / "shared" / "data")
    cases = list(study.in_turn(6, lambda text: len(text.split())))
    by_id = {case.id: case for case in cases}
    assert len(by_id) == len(cases)  # nothing twice
    attacks = [case for case in cases if case.hostile]
    assert len(attacks) == 4 * 6 + 2 * 3 + 6  # PAIR twice as many, either random search half as many
    controls = {case.pair: case for case in cases if case.pair}
    assert set(controls) == {case.id for case in attacks}
    for attack in attacks:
        control = controls[attack.id]
        assert (control.half, control.family) == (attack.half, attack.family)
        lengths = len(attack.text.split()), len(control.text.split())
        assert math.isclose(*lengths, rel_tol=0.2)
    for name in ("GCG (vicuna)", "PAIR", tables.BENIGN, tables.EVERYDAY):
        halves = [case.half for case in cases if case.family == name and case.pair is None]
        assert halves.count("blind") == len(halves) // 2
    rows = list(study.read("jailbreak"))
    seen = {id_ for family in study.SHARES for id_ in study.measured_earlier(rows, family)}
    assert seen and not seen & {case.id for case in attacks if case.half == "blind"}
    assert sum(study.half_of(i) == "blind" for i in range(100)) == 50
