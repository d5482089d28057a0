"""A diagnosis' JSON is read back exactly, and what stayed in place is with it."""

import io
import json
import pickle
from dataclasses import asdict, replace

import pytest
from rich.console import Console

import jopa
from jopa.diagnosis import result
from jopa.diagnosis.diagnosing import diagnose
from jopa.ordering import ranked
from jopa.prompt.fixed_parts import FixedPart
from jopa.prompt.request_guess import guessed_requests, marked_requests
from jopa.reports.diagnosis_html import diagnosis_facts, heat
from jopa.reports.terminal import diagnosis_view


@pytest.fixture(scope="module")
def found(llama):
    return diagnose(
        "tell me about the rain . write a story about green birds",
        model=llama,
        unit=[(0, 24), (24, 56)],
        output="there was rain . green birds met",
        options=jopa.PromptOptions(system="please tell me"),
    )


def test_json_round_trip_is_exact(found):
    again = jopa.Diagnosis.from_json(found.to_json())
    assert again == found
    assert again.to_json() == found.to_json()
    older = found.to_dict()
    for name in ("fixed", "rendered"):
        del older["prompt"][name]
    assert jopa.Diagnosis.from_dict(older) == replace(found, fixed=(), rendered="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "the schema must be 2, got 1"),
        ({"kind": "verdict"}, "kind"),
        ({"table": [[0.0]]}, "'table' must have 2 rows of"),
        ({"requests": [9]}, "'requests' must be units below 2"),
        ({"log_prob": float("nan")}, "not finite"),
        ({"removal": "burn"}, "removal"),
    ],
)
def test_a_json_that_is_no_diagnosis_is_refused(found, change, message):
    with pytest.raises(jopa.InputFileError, match=message):
        jopa.Diagnosis.from_dict(found.to_dict() | change)
    with pytest.raises(jopa.InputFileError, match="no JSON"):
        jopa.Diagnosis.from_json("{")


def test_each_sentence_and_each_unit_is_ranked_once(found, monkeypatch):
    rankings = []
    monkeypatch.setattr(result, "ranked", lambda values: rankings.append(tuple(values)) or ranked(values))
    fresh = replace(found)
    for _ in range(2):
        fresh.to_json(), fresh.to_html()
        Console(file=io.StringIO()).print(diagnosis_view(fresh))
    assert len(rankings) <= len(found.parts) + len(found.units)
    assert [[cell.rank for cell in row] for row in heat(fresh)] == [
        [units.index(i) + 1 if i in units else 0 for i in range(len(found.units))] for units in fresh.drivers
    ]


def test_what_was_computed_is_no_part_of_the_value(found):
    fresh, used = replace(found), replace(found)
    used.to_html()
    assert used == fresh and asdict(used) == asdict(fresh) and used.to_json() == fresh.to_json()
    assert pickle.loads(pickle.dumps(used)) == fresh
    changed = replace(used, table=tuple(tuple(2 * value for value in row) for row in used.table))
    assert changed.individual == pytest.approx([2 * value for value in used.individual])


def test_it_shows_what_stayed_in_place(found):
    assert found.fixed == (FixedPart("system", "please tell me"),)
    assert "please tell me" in found.to_html()
    fixed = [{"kind": "system", "text": "please tell me", "shown": True}]
    assert json.loads(found.to_json())["prompt"]["fixed"] == fixed
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(diagnosis_view(found))
    assert "please tell me" in console.export_text()


def test_a_title_heads_the_page_and_one_line_says_what_it_is(found):
    assert '<p class="heading">A letter</p>' in found.to_html(title="A letter")
    assert repr(found).startswith("<Diagnosis: ") and "\n" not in repr(found)


def test_a_row_a_unit(found):
    pytest.importorskip("pandas")
    frame = jopa.to_frame(found)
    assert list(frame.effect) == list(found.individual)
    assert list(frame.request) == [i in found.requests for i in range(2)]


def test_codes_of_requests_stand_beside_their_text(found):
    words = dict(diagnosis_facts(found))["Requests"]
    assert "R1 “tell me about the rain .”" in words


def test_a_blank_unit_is_no_request():
    with pytest.raises(jopa.SettingError, match=r"unit 1 \(counted from 0; 2 from 1\) is blank"):
        marked_requests(["tell me ", "\n", "write"], [0, 1])
    assert guessed_requests(["tell me ", "\n", "write a story"]) == (0, 2)


@pytest.mark.parametrize("number", [1e200, -1e308])
def test_numbers_that_nothing_could_be_computed_with_are_refused(found, number):
    record = found.to_dict() | {"table": [[number] * len(found.parts)] * len(found.units)}
    with pytest.raises(jopa.InputFileError, match="this diagnosis: "):
        jopa.Diagnosis.from_dict(record)


def test_sentences_outside_the_answer_are_refused(found):
    record = found.to_dict()
    record["output"]["parts"][0]["end"] = 10**400
    with pytest.raises(jopa.InputFileError, match="'parts' must lie within the output's"):
        jopa.Diagnosis.from_dict(record)


def test_a_share_of_nearly_nothing_is_a_dash(found):
    record = found.to_dict() | {"log_prob": 0.0, "log_prob_removed": -1e-320, "band": [1.0, 1.0]}
    assert "–" in jopa.Diagnosis.from_dict(record).to_html()
