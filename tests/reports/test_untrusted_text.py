"""No outside text acts in a report, and what cannot be seen becomes visible; a report needs nothing but itself."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jopa.choices import REMOVALS
from jopa.problem import Problem
from jopa.reports.attribution_html import CERTIFICATE_WORDS, comparison, comparison_html, to_html
from jopa.reports.terminal import comparison_table
from jopa.reports.wording import REMOVAL_WORDS, nats, unit_name, visible, word_diff
from report_pages import HOSTILE, Page, attribution, terminal

# --- text from strangers ------------------------------------------------------------------------------------------


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
