"""Everything that stayed in place can be read in each view, and in an Attribution's JSON."""

import json
from dataclasses import replace

import pytest

import jopa
from jopa.prompt.fixed_parts import FixedPart
from jopa.reports.attribution_html import comparison_html, parts_html, to_html
from jopa.results.attribution import comparison_from_json, comparison_json
from report_pages import HOSTILE, Page, attribution, squeezed, terminal

FIXED = (
    FixedPart("tools", '[{"name": "find"}]'),
    FixedPart("system", "You speak of <b>doctors</b> only."),
    FixedPart("assistant", "An earlier answer."),
    FixedPart("prefix", "Answer in one line."),
    FixedPart("prefill", "Once upon"),
)
WHOLE = "<|system|>You speak of <b>doctors</b> only.<|user|>Tell a story of doctors"


def value(**changes):
    return replace(attribution(), input_ids=tuple(range(40)), fixed=FIXED, rendered=WHOLE, **changes)


def test_the_page_shows_every_part_and_the_whole_input():
    page = Page(to_html(value()))
    for part in FIXED:
        assert part.text in page.boxes
    assert WHOLE in page.boxes
    assert "35 of the input's 40 tokens belong to no unit" in page.words
    assert "What stayed in place" in page.texts("h2")


def test_the_terminal_shows_the_beginning_of_each_part():
    screen = squeezed(terminal(value(), no_color=True))
    assert "System message You speak of <b>doctors</b> only." in screen
    long = terminal(replace(value(), fixed=(FixedPart("system", "word " * 200),)))
    assert "… (1,000 characters)" in squeezed(long)
    assert long.count("word") < 60


def test_a_comparison_and_the_live_page_show_it_too():
    assert FIXED[1].text in Page(comparison_html([value(), value()])).boxes
    assert "An earlier answer." in parts_html(value())["in_place"]


def test_text_of_the_prompt_that_no_unit_holds_is_named():
    spans = replace(value(), units=value().units[:2], removed=(0, 1))
    assert "Text of the prompt that belongs to no unit" in Page(to_html(spans)).words
    assert "Text of the prompt" not in Page(to_html(value())).words


@pytest.mark.parametrize(
    ("fixed", "rendered", "n_ids", "note"),
    [
        ((), WHOLE, 40, "35 of the input's 40 tokens belong to no unit: what the chat template or the tokenizer adds"),
        ((), "", 40, "this older record does not hold their text"),
        ((), "", 5, "Nothing: every token of the input belongs to a unit"),
    ],
)
def test_an_input_without_fixed_parts_says_what_its_other_tokens_are(fixed, rendered, n_ids, note):
    shown = replace(value(), fixed=fixed, rendered=rendered, input_ids=tuple(range(n_ids)))
    assert note in squeezed(Page(to_html(shown)).words)
    assert note in squeezed(terminal(shown))


def test_hostile_fixed_parts_cannot_act():
    shown = replace(value(), fixed=(FixedPart(HOSTILE, HOSTILE),), rendered=HOSTILE)
    page = Page(to_html(shown, title=HOSTILE))
    assert not page.all("script") and not page.all("img")
    assert page.boxes.count(HOSTILE) == 2
    assert "[red]x[/red]" in terminal(shown)


def test_a_title_heads_the_page():
    page = Page(to_html(value(), title="Why the letter was refused"))
    assert page.texts("title") == page.texts("p", class_="heading") == ["Why the letter was refused"]
    assert not Page(to_html(value())).all("p", class_="heading")
    assert Page(comparison_html([value()], title="Two ways")).texts("title") == ["Two ways"]


def test_json_holds_it_and_older_records_are_read():
    again = jopa.Attribution.from_json(value().to_json())
    assert again == value()
    assert json.loads(value().to_json())["prompt"]["fixed"][1]["text"] == FIXED[1].text
    older = attribution().to_dict()
    assert list(older["prompt"]) == ["text", "ids", "units"]
    assert jopa.Attribution.from_dict(older) == attribution()


def test_a_comparison_is_read_back():
    pair = (value(), replace(value(), seed=5))
    assert comparison_from_json(comparison_json(pair)) == pair
    for text, message in (("[]", "no object"), ('{"schema": 1}', "no list of attributions"), ("{", "no JSON")):
        with pytest.raises(jopa.InputFileError, match=message):
            comparison_from_json(text)


def test_one_line_says_what_an_attribution_is():
    line = repr(value())
    assert "\n" not in line and len(line) < 200
    assert "'doctors', 'story' of 5 units PR 0.163" in line


def test_an_answer_that_was_kept_is_told():
    kept = replace(value(), details={"answer": "kept from an earlier run"})
    assert "kept from an earlier run" in Page(to_html(kept)).words
    assert "kept from an earlier run" in squeezed(terminal(kept))
    assert "kept" not in Page(to_html(value())).words


def test_the_regions_of_several_turns_have_names_of_their_own():
    turns = tuple(FixedPart("user", f"Turn {i}.") for i in range(3))
    regions = [
        each["attrs"]["aria-label"]
        for each in Page(to_html(replace(value(), fixed=turns))).all("div")
        if each["attrs"].get("role") == "region"
    ]
    assert len(set(regions)) == len(regions)
