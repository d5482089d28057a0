"""What a visitor fills in, pastes, opens or links to, in a real browser: each ends in an answer or in words."""

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from page_browser import NO_CHROMIUM, PROMPT, ask, wait_for
from page_client import serving

import jopa
import tiny_models

pytestmark = NO_CHROMIUM
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

QUESTION = "Who met the birds?"
REQUESTS = {
    "Google": {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]},
    "one content": {"contents": {"parts": [{"text": QUESTION}]}},
    "Responses": {"input": QUESTION},
    "ShareGPT": {"conversations": [{"from": "human", "value": QUESTION}]},
}
PASTE = """
(kinds) => {
  const clipboard = new DataTransfer();
  for (const kind of kinds) {
    if (kind === "text/plain") clipboard.setData(kind, "two cells");
    else clipboard.items.add(new File(["x"], "copied", { type: kind }));
  }
  const event = new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true, cancelable: true });
  return document.getElementById("prompt").dispatchEvent(event);
}
"""
HEADINGS = """
[...document.querySelectorAll("h1, h2, h3, h4")].filter((h) => h.checkVisibility()).map((h) => Number(h.tagName[1]))
"""


@pytest.fixture(scope="module")
def url():
    return serving(tiny_models.sentence_model())


@pytest.fixture(scope="module")
def result():
    """The JSON of an explanation, as a file would hold it."""
    found = jopa.explain(QUESTION, model=tiny_models.sentence_model(), output=jopa.Generation(4), k=1)
    return found.to_json()


def explained(page, prompt=PROMPT):
    ask(page, prompt, length=4, budget=6)
    wait_for(page, "Done.")


def open_file(page, text, name="file.json"):
    page.set_input_files("#files", [{"name": name, "mimeType": "", "buffer": text.encode()}])


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_to_another_chat_api_is_pasted_or_read_from_a_file(open_page, request_):
    page = open_page()
    open_file(page, json.dumps(request_))
    playwright.expect(page.locator("#messages")).to_have_value(json.dumps(request_))
    assert page.inner_text("#pasted-count") == "1 message"
    explained(page, "")
    page.click("#keep")
    assert "Kept to compare with: “A conversation as JSON”" in page.inner_text("#kept")


def test_what_only_looks_like_a_request_is_named(open_page):
    page = open_page()
    for text in ('{"messages": "hello"}', '{"input": {"text": "hello"}}', "7", "null"):
        open_file(page, text, "odd.json")
        wait_for(page, "odd.json holds neither a chat nor a result of jopa")
        page.evaluate("document.getElementById('status').textContent = ''")


@pytest.mark.parametrize("button", ["#go", "#diagnose"])
def test_a_number_out_of_range_in_closed_settings_is_shown(open_page, button):
    page = open_page()
    explained(page)
    page.fill("#length", "5000")
    page.evaluate("document.querySelector('#settings').open = false")
    page.click(button)
    playwright.expect(page.locator("#length")).to_be_focused()
    assert page.is_visible("#length")


def test_a_part_of_the_answer_has_two_ends_in_order(open_page):
    page = open_page()
    explained(page)
    page.fill("#from", "2")
    page.click("#go")
    playwright.expect(page.locator("#to")).to_be_focused()  # one end alone would have been left out without a word
    page.fill("#to", "1")
    page.click("#go")
    playwright.expect(page.locator("#to")).to_be_focused()
    page.fill("#to", "3")
    page.click("#go")
    wait_for(page, "Done.")
    assert "output tokens 1:3" in page.inner_text("#verdict")


def test_another_link_in_the_same_tab_replaces_all_of_the_form(open_page):
    page = open_page(fragment="#prompt=One&k=2&attribute=system&until=0.5")
    page.evaluate("document.getElementById('system').value = 'of the first link'")
    page.evaluate("location.hash = 'prompt=Two&unit=word'")
    playwright.expect(page.locator("#prompt")).to_have_value("Two")
    values = page.evaluate(
        "['k', 'attribute', 'until', 'system', 'unit'].map((id) => document.getElementById(id).value)"
    )
    assert values == ["", "", "", "", "word"]


def test_the_error_page_of_a_proxy_is_not_shown_as_text(open_page):
    page = open_page()
    page.context.route("**/jobs", lambda route: route.fulfill(status=400, content_type="text/html", body="<html>no"))
    ask(page)
    wait_for(page, "This did not work: the server says 400.")


def test_cells_of_a_table_are_pasted_as_text(open_page):
    page = open_page()
    assert page.evaluate(PASTE, ["text/plain", "image/png"])  # left to the browser, which pastes the text
    assert page.evaluate(PASTE, ["text/plain"])
    assert page.inner_text("#status") == ""
    assert not page.evaluate(PASTE, ["image/png"])
    wait_for(page, "This file cannot be used")


def test_a_result_from_a_file_offers_nothing_that_needs_its_question(open_page, result):
    page = open_page()
    page.fill("#prompt", "another one")
    open_file(page, result)
    wait_for(page, "This is the result of the file.")
    shown = page.locator("#tools button").evaluate_all("all => all.filter((b) => !b.hidden).map((b) => b.id)")
    assert shown == ["keep", "json", "html"]
    assert "press" not in page.inner_text("#units-note")
    page.click("#keep")
    assert f"Kept to compare with: “{QUESTION}”" in page.inner_text("#kept")
    explained(page)
    assert page.locator("#copy").is_visible()


def test_a_result_that_opens_late_does_not_take_the_place_of_a_later_question(open_page, result):
    page = open_page()
    held = []
    page.context.route("**/results", lambda route: held.append(route))
    open_file(page, result)
    wait_for(page, "Opening")
    explained(page)
    with suppress(playwright.Error):  # the page has given it up
        held[0].continue_()
    page.wait_for_timeout(300)
    assert "Done." in page.inner_text("#status")
    assert page.inner_text("#units").startswith(PROMPT.split()[0])


def test_words_that_run_from_right_to_left_stand_in_their_order(open_page):
    places = "all => all.map((b) => [b.getBoundingClientRect().left, getComputedStyle(b).direction])"
    page = open_page()
    page.select_option("#unit", "word")
    explained(page, "הגשר אדום מאוד 1937 היום")
    lefts = [left for left, _ in page.locator("#units button").evaluate_all(places)]
    assert lefts == sorted(lefts, reverse=True)
    explained(page, "say הגשר אדום מאוד. then stop")
    found = page.locator("#units button").evaluate_all(places)
    order = sorted(range(len(found)), key=lambda i: found[i])
    assert order == [0, 3, 2, 1, 4, 5]
    assert [direction for _, direction in found] == ["ltr", "rtl", "rtl", "rtl", "ltr", "ltr"]


def test_headings_go_down_one_level_at_a_time(open_page):
    page = open_page()
    page.click("#context > summary")
    open_file(page, "The doctor met birds. Two people think.", "note.txt")
    explained(page, QUESTION)
    page.click("#keep")
    explained(page, "Who met the birds and said so?")
    assert page.inner_text("#prompts")
    for task in ("explain", "diagnose", "cite"):
        levels = page.evaluate(HEADINGS)
        assert levels[0] == 1
        assert all(below - above <= 1 for above, below in pairwise(levels)), (task, levels)
        if task != "cite":
            page.click({"explain": "#diagnose", "diagnose": "#cite"}[task])
            wait_for(page, {"explain": "Press the units", "diagnose": "Point at a sentence"}[task])
