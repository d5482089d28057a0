"""The report shows everything: numbers, pictures and words, on a page and in a terminal."""

import re
from dataclasses import replace

import pytest

from jopa.prompt.building import Unit
from jopa.reports.attribution_html import to_html
from report_pages import Page, attribution, squeezed, terminal

# --- what is shown -------------------------------------------------------------------------------------------------

NUMBERS = {
    "probability ratio": "PR 0.16",
    "times": "6.13 times less likely",
    "individual effects": "+9.50 +3.25",
    "synergy": "+1.75",
    "joint effect": "+14.50",
    "log p": "−20.75 nats",
    "log p removed": "−35.25 without",
    "evaluations": "1,234 evaluations",
    "ffe": "56.8 FFE",
    "seconds": "7.9 seconds",
    "seed": "seed 4321",
    "k": "k = 2 of 5 units",
    "method": "some-search (steps = 77, start = abs)",
    "removal": "hide: no other token attends",
    "certificate": "one-swap-optimal: every set that differs in a single unit was scored",
    "stop": "budget spent",
    "model": "some/model · bfloat16 · cuda:0",
    "revision": "abc123",
    "versions": "jopa 9.8.7 · torch 2.99",
    "target": "tokens 0:8, the whole output",
}


@pytest.mark.parametrize("fact", NUMBERS)
def test_page_and_terminal_show_every_number(fact):
    page, screen = squeezed(Page(to_html(attribution())).words), squeezed(terminal(attribution()))
    for expected in NUMBERS[fact].split(" +") if fact == "individual effects" else [NUMBERS[fact]]:
        assert expected in page
        assert expected in screen


def test_verdict_is_one_sentence_naming_the_units_and_what_they_do():
    page = Page(to_html(attribution()))
    sentence = (
        "Without “doctors” and “story” together, the model is 6.13 times less likely per token to say this (PR 0.16)."
    )
    assert page.texts("p", class_="verdict") == [sentence]
    assert page.texts("title") == [sentence]
    assert sentence in squeezed(terminal(attribution()).replace("│", " "))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"removed": (2,), "individual": (14.5,)}, "Without “story”, the model is"),
        ({"joint": -8.0, "individual": (-9.0, 1.0)}, "2.72 times more likely per token to say this (PR 2.72)"),
        ({"joint": 0.001}, "the model is about as likely per token to say this (PR 1.00)"),
        ({"joint": 80.0}, "22,026 times less likely per token to say this (PR 4.5 × 10⁻⁵)"),
        ({"probability_ratio": 0.0}, "1 × 10³⁰⁸ times less likely"),
        ({"target": (2, 5)}, "to say output tokens 2:5 (PR"),
        (
            {"removed": (4, 3, 2, 1, 0), "individual": (5.0, 4.0, 3.0, 2.0, 1.0)},
            "Without “doctors”, “of”, “story”, “a” and 1 more together, the model",
        ),
    ],
)
def test_verdict_fits_the_case(changes, expected):
    assert expected in Page(to_html(attribution(**changes))).texts("p", class_="verdict")[0]
    assert expected in squeezed(terminal(attribution(**changes)).replace("│", " "))


def test_narrowed_target_is_named_beside_the_output():
    value = attribution(target=(2, 5))
    for text in (Page(to_html(value)).words, terminal(value)):
        assert "only tokens 2:5 count" in text
        assert "tokens 2:5 of the output's 8" in squeezed(text)


def test_page_marks_removed_units_in_the_prompt_by_rank():
    page = Page(to_html(attribution()))
    assert page.texts("mark") == ["marked", "story2", "doctors1"]
    assert page.texts("sup") == ["2", "1"]
    assert page.boxes[0] == "Tell a story2 of doctors1"


def test_text_between_units_is_kept():
    value = attribution()
    value = replace(value, units=(Unit("Tell", 0, 4, (0,)), Unit("doctors", 16, 23, (4,))), removed=(1, 0))
    assert Page(to_html(value)).boxes[0] == "Tell2 a story of doctors1"


def test_terminal_marks_without_colour():
    screen = terminal(attribution(), no_color=True)
    assert "Tell a ⟦story⟧₂ of ⟦doctors⟧₁" in screen
    assert "Once a ‹doctor› met a patient." in screen
    assert "Once a ‹lawyer› met a patient." in screen
    assert "\x1b" not in screen


def test_rank_of_two_digits():
    pieces = [f" w{i}" for i in range(12)]
    value = attribution(pieces, removed=tuple(range(12)), individual=(1.0,) * 12)
    assert "⟦w9⟧₁₀ ⟦w10⟧₁₁" in terminal(value)
    assert Page(to_html(value)).texts("span", class_="badge")[9:] == ["10", "11", "12"]


@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_terminal_keeps_to_80_columns(colour):
    wide = attribution(["word"] + [" longer-words-than-usual"] * 40, effects=(1.0,) * 41, output="x" * 300)
    screen = terminal(wide, color_system=colour, force_terminal=colour is not None)
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in screen.splitlines()) <= 80
    assert screen.count("x") > 300 - 1


def test_outputs_stand_side_by_side_with_differences_marked():
    page = Page(to_html(attribution()))
    assert page.boxes[1:] == ["Once a doctor met a patient.", "Once a lawyer met a patient."]
    assert page.texts("del") == ["dotted = differs", "doctor"]
    assert page.texts("ins") == ["underlined = differs", "lawyer"]


def test_empty_output_without_the_units_is_said():
    value = attribution(counterfactual_output="")
    assert Page(to_html(value)).boxes[2] == "(nothing: it stops at once)"
    assert "(nothing: it stops at once)" in terminal(value)


# --- the effects picture ------------------------------------------------------------------------------------------


def bars(page):
    """(start, end) of each bar in percent of the width, top to bottom."""
    found = [e["attrs"] for e in page.elements if e["attrs"].get("class", "").startswith("fill")]
    numbers = [[float(number) for number in re.findall(r"[\d.]+(?=%)", attrs["style"])] for attrs in found]
    return [(left, left + width) for left, width in numbers], ["less" in attrs["class"] for attrs in found]


def test_bars_start_where_the_last_one_ended_and_sum_to_the_joint_effect():
    spans, negative = bars(Page(to_html(attribution())))
    whole = 14.5
    expected = [(0, 9.5), (9.5, 12.75), (12.75, 14.5), (0, 14.5)]
    assert spans == [pytest.approx((100 * a / whole, 100 * b / whole), abs=0.02) for a, b in expected]
    assert negative == [False] * 4


def test_negative_effects_and_synergy_go_left_and_are_hatched():
    value = attribution(individual=(8.0, -2.0), joint=2.0)
    page = Page(to_html(value))
    spans, negative = bars(page)
    expected = [(0, 8), (6, 8), (2, 6), (0, 2)]
    assert spans == [pytest.approx((100 * a / 8, 100 * b / 8), abs=0.02) for a, b in expected]
    assert negative == [False, True, True, False]
    assert page.texts("td", class_="nats") == ["+8.00", "−2.00", "−4.00", "+2.00"]
    assert "They overlap: together they do 4.00 nats less than the sum of each alone." in page.words
    assert re.search(r"2 story +−2\.00 +░+", terminal(value))
    assert re.search(r"synergy +−4\.00 +░+", terminal(value))


def test_bars_left_of_zero_stay_in_the_picture():
    spans, _ = bars(Page(to_html(attribution(individual=(-1.0, -2.0), joint=-9.0))))
    assert min(start for start, _ in spans) == 0
    assert max(end for _, end in spans) == pytest.approx(100, abs=0.02)


def test_no_effect_at_all_draws_no_bar():
    value = attribution(individual=(0.0, 0.0), joint=0.0)
    assert bars(Page(to_html(value)))[0] == []
    assert "█" not in terminal(value)
    assert "The joint effect is the sum of the individual effects." in terminal(value)


# --- trace and effects ----------------------------------------------------------------------------------------------


def test_trace_is_a_stepped_line_that_says_itself_in_words():
    page = Page(to_html(attribution()))
    (line,) = page.all("polyline")
    points = [tuple(map(float, point.split(","))) for point in line["attrs"]["points"].split()]
    # From -20.75 (the whole prompt) at the top to -35.25 at the bottom; 6.5 FFE wide; level until it falls.
    start = 100 * (22.5 - 20.75) / 14.5
    assert points == [
        pytest.approx(point, abs=0.01) for point in [(100 * 4 / 6.5, start), (100, start), (100, 100), (100, 100)]
    ]
    (picture,) = page.all("svg", role="img")
    assert picture["attrs"]["aria-label"].endswith("from −22.50 to −35.25 nats over 6.5 full-forward equivalents")


@pytest.mark.parametrize("steps", [0, 1])
def test_without_a_search_there_is_no_line(steps):
    page = Page(to_html(attribution(trace=attribution().trace[:steps])))
    assert not page.all("svg")
    assert "no search steps to draw" in page.words
    terminal(attribution(trace=()))


def test_strip_of_all_effects_only_when_they_are_known():
    without, strip = attribution(), attribution(effects=(0.25, -6.0, 3.25, 0.0, 9.5))
    assert not Page(to_html(without)).all("ol")
    assert "Every unit alone" not in terminal(without)
    page = Page(to_html(strip))
    assert page.texts("li") == ["Tell 0.25", "a −6.00", "story 3.25", "of 0.00", "doctors 9.50"]
    classes = [item["attrs"]["class"] for item in page.all("li")]
    assert classes == ["plus", "less", "plus chosen", "plus", "plus chosen"]
    heats = [int(item["attrs"]["style"].removeprefix("--heat:").rstrip("%")) for item in page.all("li")]
    assert heats[4] > heats[1] > heats[2] > heats[0] > heats[3] == 0
    assert "Tell 0.25 a −6.00 story 3.25 of 0.00 doctors 9.50" in squeezed(terminal(strip))


def test_strip_of_zeros():
    assert Page(to_html(attribution(effects=(0.0,) * 5))).texts("small") == ["0.00"] * 5


def test_the_first_sentences_say_where_no_set_suffices():
    tried = [{"k": k, "pr": 0.4, "certificate": "none"} for k in (1, 2)]
    until = {"pr": 0.01, "reached": False, "tried": tried}
    words = "No set of up to 2 units was found that brings PR below 0.01."
    assert words in Page(to_html(attribution(details={"until_pr": until}))).texts("p")[0]
    assert words in squeezed(terminal(attribution(details={"until_pr": until})).replace("│", " "))
    assert words not in Page(to_html(attribution(details={"until_pr": {**until, "reached": True}}))).words
