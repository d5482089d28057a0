"""The report shows everything, hides nothing and lets no outside text act: on a page, in a notebook, in a terminal."""

import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jopa.attribution import Attribution
from jopa.choices import REMOVALS
from jopa.method import TraceStep
from jopa.problem import Problem
from jopa.prompt.building import Unit
from jopa.reports.attribution_html import CERTIFICATE_WORDS, comparison, comparison_html, to_html
from jopa.reports.terminal import comparison_table, to_terminal
from jopa.reports.wording import REMOVAL_WORDS, nats, unit_name, visible, word_diff

VOID = {"meta", "link", "img", "br", "hr", "input"}


def attribution(pieces=("Tell", " a", " story", " of", " doctors"), removed=(4, 2), individual=(9.5, 3.25), **changes):
    """An attribution whose numbers fit together; joint effect 14.5 nats unless the changes say otherwise."""
    units, start = [], 0
    for position, text in enumerate(pieces):
        units.append(Unit(text, start, start + len(text), (position,)))
        start += len(text)
    joint, n_output = changes.pop("joint", 14.5), changes.pop("n_output", 8)
    values = {
        "model": {"id": "some/model", "revision": "abc123", "dtype": "bfloat16", "device": "cuda:0"},
        "prompt": "".join(pieces),
        "input_ids": tuple(range(len(pieces))),
        "units": tuple(units),
        "output": "Once a doctor met a patient.",
        "output_ids": tuple(range(n_output)),
        "target": (0, n_output),
        "removal": "hide",
        "k": len(removed),
        "removed": tuple(removed),
        "log_prob": -20.75,
        "log_prob_removed": -20.75 - joint,
        "probability_ratio": math.exp(-joint / n_output),
        "individual": tuple(individual),
        "synergy": joint - sum(individual),
        "counterfactual_output": "Once a lawyer met a patient.",
        "method": {"name": "some-search", "steps": 77, "start": "abs"},
        "seed": 4321,
        "evaluations": 1234,
        "ffe": 56.75,
        "seconds": 7.9,
        "trace": (TraceStep(0, -22.5, 2, 4.0), TraceStep(1, -22.5, 3, 5.0), TraceStep(2, -35.25, 4, 6.5)),
        "stop": "budget spent",
        "certificate": "one-swap-optimal",
        "versions": {"jopa": "9.8.7", "torch": "2.99"},
    }
    return Attribution(**{**values, **changes})


class Page(HTMLParser):
    """What a browser would find: every element with its attributes and the text inside it."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attrs):
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attrs.items()}
        return [e for e in self.elements if e["tag"] == tag and named.items() <= e["attrs"].items()]

    def texts(self, tag, **attrs):
        return [element["text"] for element in self.all(tag, **attrs)]

    @property
    def words(self):
        root = next(e for e in self.elements if "jopa" in e["attrs"].get("class", "").split())
        styles = self.texts("style")
        return root["text"].replace(styles[-1], "")

    @property
    def boxes(self):
        """The texts of the prompt, the output and the output without the units."""
        return [e["text"] for e in self.elements if "scroll" in e["attrs"].get("class", "")]


def terminal(value, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(to_terminal(value))
    return console.file.getvalue()


def squeezed(text):
    return re.sub(r"\s+", " ", text)


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


# --- text from strangers ------------------------------------------------------------------------------------------

HOSTILE = """<script>alert(1)</script> "><img src=x onerror='alert(2)'> </style></div> &lt; {{ 7*7 }} [red]x[/red]"""


def hostile():
    return attribution(
        [HOSTILE, " then", " " + HOSTILE],
        removed=(0, 2),
        output=HOSTILE + " once",
        counterfactual_output="never " + HOSTILE,
        effects=(1.0, 2.0, 3.0),
        stop=HOSTILE,
        model={"id": HOSTILE, "revision": HOSTILE, "dtype": HOSTILE, "device": HOSTILE},
        method={"name": HOSTILE, HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
    )


@pytest.mark.parametrize("standalone", [True, False])
def test_hostile_text_is_text_everywhere(standalone):
    page, tame = Page(to_html(hostile(), standalone=standalone)), Page(to_html(attribution(), standalone=standalone))
    assert {e["tag"] for e in page.elements} <= {e["tag"] for e in tame.elements} | {"ol", "li", "small"}
    assert not [name for e in page.elements for name in e["attrs"] if name.startswith("on") or name == "src"]
    assert page.boxes[0] == f"{HOSTILE}1 then {HOSTILE}2"
    assert page.boxes[1:] == [HOSTILE + " once", "never " + HOSTILE]
    assert len(page.all("style")) == len(tame.all("style"))


def test_hostile_text_is_text_in_attributes():
    page = Page(to_html(hostile()))
    assert [e["attrs"]["title"] for e in page.all("th", scope="row") if "title" in e["attrs"]] == [
        HOSTILE,
        " " + HOSTILE,
    ]


def test_rich_markup_and_emoji_codes_are_literal_in_the_terminal():
    value = attribution(
        ["[red]x[/red]", " :smile:", " [/]"],
        removed=(0, 2),
        output="[bold]a[/bold]",
        counterfactual_output="[link=x]",
        effects=(1.0, 1.0, 1.0),
    )
    screen = terminal(value)
    for literal in ("⟦[red]x[/red]⟧₁ :smile: ⟦[/]⟧₂", "‹[bold]a[/bold]›", "‹[link=x]›", "“[red]x[/red]”"):
        assert literal in screen


UNSEEN = (
    "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\xad\u061c\u200b\u200e\u200f\u2028\u202e\u2060\u2066\ufeff\ud800\U000e0041"
)


@pytest.mark.parametrize("char", UNSEEN, ids=lambda char: f"U+{ord(char):04X}")
def test_unseen_characters_become_escapes(char):
    text = f"a{char}b"
    value = attribution(
        [text, f" c{char}d", " e"],
        removed=(1, 2),
        output=text,
        counterfactual_output=char,
        effects=(1.0, 2.0, 3.0),
        stop=text,
        model={"id": text, "revision": text, "dtype": text, "device": text},
        method={"name": text, text: text},
        versions={text: text},
    )
    html, screen = to_html(value), terminal(value, no_color=True)
    escape = char.encode("unicode_escape").decode()
    assert escape.startswith("\\")
    for shown in (html, screen):
        assert char not in shown
        assert f"a{escape}b" in shown
    html.encode()
    screen.encode()


def test_visible_keeps_what_can_be_seen_and_what_joins_it():
    text = "line\nnext\ttab é 漢字 ئەم‌ها 👩‍⚕️ 🇪🇺 x̂"
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" doctor", "doctor"),
        ("\n", "⏎"),
        (" \n\t", "␣⏎⇥"),
        ("\xa0", "\\xa0"),
        ("one\ntwo ", "one⏎two"),
        ("\x1b[2J", "\\x1b[2J"),
        ("x" * 50, "x" * 31 + "…"),
    ],
)
def test_unit_name(text, name):
    assert unit_name(text) == name


def test_blank_units_are_visible():
    value = attribution(["One", "\n\n", "two", " ", "three"], removed=(1, 3))
    page = Page(to_html(value))
    assert page.texts("mark")[1:] == ["⏎⏎1", "␣2"]
    assert page.boxes[0] == "One⏎⏎1\n\ntwo␣2three"
    assert "Without “⏎⏎” and “␣” together" in page.words
    screen = terminal(value)
    assert "One⟦⏎⏎⟧₁" in screen
    assert "two⟦␣⟧₂three" in screen


def test_right_to_left_text_keeps_its_order_and_is_isolated():
    pieces = ["اكتب", " قصة", " عن", " الطبيب"]
    value = attribution(pieces, removed=(3, 1), output="كان الطبيب هنا", counterfactual_output="كان الرجل هنا")
    page = Page(to_html(value))
    assert page.boxes == ["اكتب قصة2 عن الطبيب1", "كان الطبيب هنا", "كان الرجل هنا"]
    assert all(e["attrs"]["dir"] == "auto" for e in page.elements if "scroll" in e["attrs"].get("class", ""))
    assert page.texts("bdi")[:2] == ["الطبيب", "قصة"]
    assert page.texts("del")[1:] == ["الطبيب"]
    assert "⟦الطبيب⟧₁" in terminal(value)


# --- one page, no strings attached --------------------------------------------------------------------------------


def test_page_asks_for_nothing():
    html = to_html(attribution(effects=(1.0,) * 5))
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script|<link|<iframe|//\w", html)
    (policy,) = Page(html).all("meta", http_equiv="Content-Security-Policy")
    assert policy["attrs"]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_is_a_whole_document():
    page = Page(to_html(attribution()))
    html = to_html(attribution())
    assert html.startswith("<!DOCTYPE html>")
    assert [len(page.all(tag)) for tag in ("html", "head", "title", "body", "main", "h1")] == [1] * 6
    assert "open" in page.all("details")[0]["attrs"]


def test_fragment_is_no_document():
    page = Page(to_html(attribution(), standalone=False))
    assert not [tag for tag in ("html", "head", "title", "meta", "body", "main", "h1", "h2") if page.all(tag)]
    assert page.elements[0]["attrs"]["class"].split()[0] == "jopa"
    assert "open" not in page.all("details")[0]["attrs"]


def test_notebooks_show_the_fragment():
    assert attribution()._repr_html_() == to_html(attribution(), standalone=False)


def test_style_of_the_fragment_touches_nothing_around_it():
    (style,) = Page(to_html(attribution(), standalone=False)).texts("style")
    rules = re.sub(r"/\*.*?\*/|@(?:media|container)[^{]*\{", "", style, flags=re.S)
    selectors = [part for rule in re.findall(r"([^{}]+)\{", rules) for part in re.split(r",(?![^(]*\))", rule)]
    assert len(selectors) > 50
    assert [s.strip() for s in selectors if not re.match(r"\s*\.jopa(-page)?(?![\w-])", s)] == []


def test_ids_cannot_clash_between_two_fragments():
    page = Page(to_html(attribution(effects=(1.0,) * 5), standalone=False))
    assert not [e for e in page.elements if "id" in e["attrs"]]


def test_tables_and_boxes_have_names():
    page = Page(to_html(attribution()))
    assert page.texts("th", scope="col") == ["#", "unit, alone", "nats", "how they add up"]
    assert page.texts("th", scope="row") == ["doctors", "story", "synergy", "joint effect"]
    scrolling = [e["attrs"] for e in page.elements if e["attrs"].get("role") == "region"]
    assert len(scrolling) == 4
    assert all(attrs["aria-label"] and attrs["tabindex"] == "0" for attrs in scrolling)


def test_import_stays_light():
    heavy = "print([m for m in ('rich', 'jinja2', 'torch') if m in sys.modules])"
    code = f"import sys, jopa.reports.attribution_html, jopa.reports.terminal; {heavy}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


# --- words, numbers, differences ------------------------------------------------------------------------------------


def test_every_removal_and_certificate_has_words():
    assert set(REMOVAL_WORDS) == set(REMOVALS)
    assert set(CERTIFICATE_WORDS) == set(get_args(get_type_hints(Problem.certificate)["return"]))


def test_certificate_counts_the_sets():
    page = Page(to_html(attribution(certificate="optimal")))
    assert "optimal: all sets of 2 of the 5 units were scored (10), and none does more" in page.words


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (1.005, False, "1.00"),
        (-3.456, False, "−3.46"),
        (-0.001, True, "0.00"),
        (2.0, True, "+2.00"),
        (-2.0, True, "−2.00"),
    ],
)
def test_nats(value, signed, text):
    assert nats(value, signed=signed) == text


@pytest.mark.parametrize(
    ("before", "after", "left", "right"),
    [
        ("the cat sat", "the dog sat", ["cat"], ["dog"]),
        ("the cat sat", "the cat sat", [], []),
        ("the sat", "the cat sat", [], [" cat"]),
        ("a b", "a\n\nb", [" "], ["\n\n"]),
        ("same end ", "same end", [" "], []),
        ("all new", "other words here", ["all new"], ["other words here"]),
        ("Cat", "cat", ["Cat"], ["cat"]),
        ("我喜欢猫", "我喜欢狗", ["猫"], ["狗"]),
        ("", "word", [], ["word"]),
    ],
)
def test_diff_marks_what_differs(before, after, left, right):
    sides = word_diff(before, after)
    assert [[piece.text for piece in side if piece.mark] for side in sides] == [left, right]


@given(st.text(alphabet="ab \n\t漢x‍é", max_size=40), st.text(alphabet="ab \n\t漢x‍é", max_size=40))
def test_diff_rebuilds_both_texts_and_agrees_on_the_rest(before, after):
    left, right = word_diff(before, after)
    assert "".join(piece.text for piece in left) == before
    assert "".join(piece.text for piece in right) == after
    same = ["".join(piece.text for piece in side if not piece.mark) for side in (left, right)]
    assert same[0] == same[1]
    assert (before == after) == (not any(piece.mark for piece in left + right))


@given(st.text())
def test_diff_of_any_text_with_itself_marks_nothing(text):
    left, right = word_diff(text, text)
    assert left == right
    assert "".join(piece.text for piece in left) == text
    assert not any(piece.mark for piece in left)


def test_comparison_marks_the_largest_joint_effect_and_escapes():
    strong = attribution()
    weak = replace(strong, log_prob_removed=strong.log_prob - 1, method={"name": "<b>weak</b>"})
    header, rows = comparison([strong, weak])
    assert header == ["method", "units", "joint effect", "PR", "FFE", "evaluations", "seconds"]
    assert [best for _, best in rows] == [True, False]
    html = comparison_html([strong, weak])
    assert "<b>weak" not in html
    assert html.count("★") == 2  # the row and the note
    assert html.count("<style>") == 2  # the page's own and one for all its parts
    console = Console(width=80, file=io.StringIO(), no_color=True)
    console.print(comparison_table([strong, weak]))
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
