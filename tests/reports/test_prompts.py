"""Two prompts side by side: both answers, both sets and what changed, in each view."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

import jopa
from jopa.reports.prompts_html import prompts_html
from jopa.reports.terminal import prompts_view
from jopa.reports.wording import word_diff
from report_pages import HOSTILE, Page, attribution, squeezed


def pair():
    second = attribution(
        ("Tell", " a", " joke", " of", " doctors"), removed=(2, 4), output="A doctor laughs.", individual=(7.5, 1.0)
    )
    return jopa.PromptComparison(attribution(), second)


def screen(value):
    file = io.StringIO()
    Console(file=file, width=80, no_color=True).print(prompts_view(value))
    return file.getvalue()


def test_what_changed_is_told_by_the_texts_of_units():
    assert pair().in_both == ("doctors",)
    assert pair().only_first == ("story",)
    assert pair().only_second == ("joke",)
    assert not pair().same_output


@pytest.mark.parametrize("view", [lambda value: Page(prompts_html(value)).words, screen], ids=["page", "terminal"])
def test_each_view_shows_both_answers_and_both_sets(view):
    text = squeezed(view(pair()).replace("│", " "))
    assert "The answers differ. Found for both: “doctors”. Only for the first: “story”. Only for" in text
    for words in ("+9.50", "+7.50", "“joke”", "“story”", "first prompt", "second prompt", "+14.50 nats", "PR"):
        assert words in text
    assert "Both prompts have the same answer." in squeezed(view(jopa.PromptComparison(attribution(), attribution())))


def test_the_page_marks_what_differs_and_holds_both_reports():
    page = Page(prompts_html(pair()))
    assert page.texts("del")[1:2] == ["story"] and page.texts("ins")[1:2] == ["joke"]
    assert page.boxes[:4] == [
        "Tell a story of doctors",
        "Tell a joke of doctors",
        attribution().output,
        "A doctor laughs.",
    ]
    assert [text.strip() for text in page.texts("summary")][:1] == ["The whole report of the first prompt"]
    assert "Once a lawyer met a patient." in page.words
    assert not Page(prompts_html(pair(), standalone=False)).all("html")


def test_the_terminal_keeps_to_80_columns():
    assert max(map(len, screen(pair()).splitlines())) <= 80


def test_json_round_trip_is_exact():
    again = jopa.PromptComparison.from_json(pair().to_json())
    assert again == pair() and again.to_json() == pair().to_json()
    for text, message in (("[]", "no object"), ('{"schema": 1, "first": {}}', "lacks"), ('{"schema": 7}', "schema")):
        with pytest.raises(jopa.InputFileError, match=message):
            jopa.PromptComparison.from_json(text)


def test_hostile_text_cannot_act():
    hostile = replace(attribution(), output=HOSTILE, counterfactual_output=HOSTILE)
    page = Page(jopa.PromptComparison(hostile, attribution()).to_html(title=HOSTILE))
    assert not page.all("script") and not page.all("img")


def test_one_line_and_one_frame():
    assert repr(pair()).startswith("<PromptComparison: different answers, 1 units found for both")
    pytest.importorskip("pandas")
    assert list(pair().to_frame().prompt) == ["first"] * 5 + ["second"] * 5


def test_texts_that_would_take_long_to_compare_differ_as_a_whole():
    before = "same " + "a b " * 20_000 + "end"
    after = "same " + "b b a " * 15_000 + "end"
    began = time.process_time()
    sides = word_diff(before, after)
    assert time.process_time() - began < 5  # the exact comparison takes minutes
    for side, text in zip(sides, (before, after), strict=True):
        assert "".join(piece.text for piece in side) == text
        assert [piece.mark for piece in side] == [0, 1, 0]


def test_the_page_says_which_options_were_not_the_same():
    assert "The same model and options for both." in Page(prompts_html(pair())).words
    second = replace(pair().second, method={"name": "another"}, removal="delete")
    words = Page(prompts_html(jopa.PromptComparison(attribution(), second))).words
    assert "Not the same for both: method and its settings, removal." in words
    tried = [{"k": 2, "pr": 0.3, "certificate": "none"}]
    until = [
        replace(each, k=k, details={"until_pr": {"pr": 0.5, "reached": True, "tried": tried}})
        for k, each in enumerate((pair().first, pair().second), start=1)
    ]
    assert "The same model and options for both." in Page(prompts_html(jopa.PromptComparison(*until))).words
