"""What a diagnosis concludes from what was measured, and how it is said."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import jopa
from jopa.diagnosis.diagnosing import measured
from jopa.prompt.answer_parts import Part
from jopa.prompt.building import Unit
from jopa.prompt.request_guess import guessed_requests
from jopa.reports.diagnosis_html import diagnosis_html, diagnosis_verdict
from jopa.reports.terminal import diagnosis_view
from table_scorer import TableScorer

PROMPT = (
    "Create a message to complain about the noise in the neighborhood to friends. "
    "Give me the Python code for filtering results. Please."
)
REQUESTS = (
    "Create a message to complain about the noise in the neighborhood to friends. ",
    "Give me the Python code for filtering results. ",
    "Please.",
)
PARTS = (Part("Hi all <b>!</b>", 0, 2), Part("The noise is \x1b[31mloud.", 2, 3), Part("Bye | now", 3, 6))
BAND = (0.95, 1.05)


class Tokens(TableScorer):
    """Token log-probabilities: −1 each, less what a function of the removed units takes from each of them."""

    def __init__(self, n_units, falls):
        super().__init__(n_units, lambda units: 0.0)
        self.falls = falls

    def log_probs(self, keep):
        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += removed
        return torch.stack([-1.0 - torch.tensor(self.falls(units)) for units in removed])


def complaint(removed):
    """The complaint (unit 0) makes the first two sentences; nobody asked for the code (unit 1) or the plea (2)."""
    falls = [0.0] * 6
    if 0 in removed:
        falls = [1.0, 2.0, 4.0, 0.0, 0.25, -0.25]
    if 2 in removed:
        falls[5] += 0.06
    if removed == {0, 1, 2}:
        falls = [2.0, 2.0, 4.0, 1.0, 1.0, 0.0]
    return falls


def diagnosis(falls=complaint, band=BAND, n=3, prompt=PROMPT, requests=REQUESTS):
    units, start = [], 0
    for position, text in enumerate(requests[:n]):
        units.append(Unit(text, start, start + len(text), (position,)))
        start += len(text)
    known = {"model": {"id": "table", "revision": None, "dtype": "float32", "device": "cpu"}, "prompt": prompt}
    known |= {"input_ids": (1, 2, 3), "units": tuple(units), "output": "Hi all!", "output_ids": (9,) * 6}
    known |= {"removal": "delete", "seed": 0, "versions": {"jopa": "0"}}
    known |= {"requests": tuple(range(n)), "requests_given": False, "cut_off": False}
    return measured(jopa.Problem(Tokens(n, falls)), PARTS, target=(0, 6), band=band, **known)


def test_the_planted_requests_are_told_apart():
    d = diagnosis()
    assert d.log_prob == pytest.approx(-6.0)
    assert d.joint == pytest.approx(10.0)
    assert d.individual == pytest.approx((7.0, 0.0, 0.06))
    assert d.ratios == pytest.approx((math.exp(-7 / 6), 1.0, math.exp(-0.01)))
    assert d.table[0] == pytest.approx((3.0, 4.0, 0.0))
    assert d.per_token[0] == pytest.approx((1.5, 4.0, 0.0))
    assert d.shares == pytest.approx((0.7, 0.0, 0.006))
    assert d.synergy == pytest.approx(2.94)
    assert d.shares is not None
    assert sum(d.shares) + d.synergy / d.joint == pytest.approx(1.0)
    assert d.without_influence == (1, 2)
    assert d.drives == ((1, 0), (), ())  # 4 nats a token, then 1.5
    assert d.drivers == ((0,), (0,), ())
    assert d.together_ratio == pytest.approx(math.exp(-0.01))
    assert d.evaluations == 6  # whole, all, three alone, the two ignored together


def test_the_band_decides_what_is_ignored_and_driven():
    narrow = diagnosis(band=(0.995, 1.0))
    assert narrow.without_influence == (1,)
    assert narrow.together is None


def said(d):
    return "".join(piece.text for piece in diagnosis_verdict(d))


def test_requests_that_stand_in_for_each_other_are_said_to():
    d = diagnosis(lambda removed: [2.0 if {0, 1} <= removed else 0.0] * 6)
    assert d.without_influence == (0, 1, 2)
    assert d.together_ratio == pytest.approx(math.exp(-2))
    assert d.shares == (0.0, 0.0, 0.0)
    assert d.interaction == 1
    assert "some are redundant" in said(d)


def test_small_effects_that_add_up_are_no_redundancy():
    d = diagnosis(lambda removed: [0.03 * len(removed)] * 6)  # PR 0.97 each, 0.91 all at once
    assert d.without_influence == (0, 1, 2)
    assert d.together_ratio == pytest.approx(math.exp(-0.09))
    assert d.interaction == 0
    assert "redundant" not in said(d) and "counteract" not in said(d)


def test_units_that_counteract_are_the_other_direction():
    d = diagnosis(lambda removed: [0.04 if len(removed) == 1 else 0.0] * 6)
    assert d.interaction == -1
    assert "they counteract one another" in said(d)


def test_a_difference_within_rounding_shows_nothing():
    d = diagnosis(lambda removed: [5e-5 if {0, 1} <= removed else 0.0] * 6, band=(0.99999, 1.0))
    assert d.interaction == 0


def test_every_sentence_ranks_the_units_that_drive_it():
    def falls(removed):
        row = [0.0] * 6
        if 0 in removed:
            row[:3] = [1.07, 1.07, 1.44]  # its mark on the first sentence does not depend on the second
        if 1 in removed:
            row[2] += 0.3  # a fifth of the strongest
            row[0] += 0.6
            row[1] += 0.6
        return row

    d = diagnosis(falls)
    assert d.drivers == ((0, 1), (0,), ())
    assert d.drives == ((1, 0), (0,), ())
    record = json.loads(d.to_json())
    assert [entry["unit"] for entry in record["drivers"][0]] == [0, 1]
    assert record["drivers"][0][1]["nats_per_token"] == pytest.approx(0.6)
    assert "+1.07▲1" in terminal(d) and "+0.60▲2" in terminal(d)


def test_a_cut_off_answer_and_the_guess_are_said():
    d = replace(diagnosis(), cut_off=True, requests=(1,))
    assert "cut off at its limit of 6 tokens" in said(d)
    assert "(1 of 1 requests, guessed)" in said(d)
    assert "no measurable influence on this answer" in said(d)
    assert "guessed" not in said(replace(d, requests_given=True))
    assert "U1" in terminal(d) and "R2" in terminal(d)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (["I am a nurse. ", "Write a poem. ", "Do not use any table. ", "\n"], (1, 2)),
        (["Where is it? ", "It was red."], (0,)),
        (["Das Haus ist alt. ", " "], (0,)),
    ],
)
def test_requests_are_guessed(units, expected):
    assert guessed_requests(units) == expected


def test_there_are_no_shares_of_nothing():
    d = diagnosis(lambda removed: [-0.5 * len(removed)] * 6)  # the answer is likelier without the prompt
    assert d.shares is None
    assert d.without_influence == ()  # it is not unchanged
    assert d.drives == ((), (), ())
    assert json.loads(d.to_json())["shares"] is None
    assert "No unit drives a sentence." in diagnosis_html(d)


def test_a_sentence_that_one_request_drives_is_told_though_the_rest_makes_up_for_it():
    d = diagnosis(lambda removed: [3.0, 0.0, 0.0, -1.0, -1.0, -1.0] if 0 in removed else [0.0] * 6)
    assert 0 in d.without_influence
    assert d.drives[0] == (0,)
    assert "have no measurable influence on this answer (3 of 3 requests, guessed)." in said(d)
    assert said(d).endswith("R1 “Create a message to com…” drives S1 “Hi all <b>!</b>”.")


def test_json_holds_the_whole_table():
    d = diagnosis()
    record = json.loads(d.to_json())
    assert record["schema"] == 2
    assert record["kind"] == "diagnosis"
    assert [unit["text"] for unit in record["prompt"]["units"]] == list(REQUESTS)
    assert record["output"]["parts"][1] == {"text": PARTS[1].text, "start": 2, "end": 3}
    assert record["without_influence"] == [1, 2]
    assert record["drives"] == [[1, 0], [], []]
    assert record["per_token"][0] == pytest.approx([1.5, 4.0, 0.0])
    assert record["joint_ratio"] == pytest.approx(math.exp(-10 / 6))


def terminal(d, width=80) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(diagnosis_view(d))
    return console.export_text()


def test_the_terminal_shows_requests_and_table_within_80_columns():
    text = terminal(diagnosis())
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "no measurable influence",
        "+4.00▲1",
        "+1.50",
        "70 %",
        "drives S2",
        "FFE",
        "probability ratio",
        "complain",
    ):
        assert word in text, word
    assert "\x1b[31m" not in text


def test_many_requests_share_several_tables():
    requests = tuple(f"Do thing {i}. " for i in range(14))
    d = diagnosis(lambda removed: [0.1 * len(removed)] * 6, n=14, prompt="".join(requests), requests=requests)
    text = terminal(d)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"R{i + 1} " in text for i in range(14))
    assert text.count("sentence") >= 3


def test_the_heat_map_has_its_numbers_in_every_cell():
    page = diagnosis_html(diagnosis())
    assert page.count('<td class="cell') == 9
    assert page.count("▲1</td>") == 2
    assert "+4.00 ▲1" in page
    assert "−0.00" not in page
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "default-src 'none'" in page
    part = diagnosis()._repr_html_()
    assert "<html" not in part
    assert "jopa-diagnosis" in part
