"""A search from coarse to fine in a real browser: asked for, followed, read as a tree, built on."""

import pytest
from page_browser import NO_CHROMIUM, PATIENCE, WEAK, json_of, taken_out, wait_for
from page_client import serving

import tiny_models
from jopa.web.limits import RequestLimits

pytestmark = NO_CHROMIUM
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

SENTENCES = ["The doctor met birds.", "Please write a story.", "Two people think.", "There was rain."]
TEXTS = [" ".join(SENTENCES[i % 4 :] + SENTENCES[: i % 4]) for i in range(6)]


@pytest.fixture(scope="module")
def url():
    return serving(tiny_models.sentence_model(), limits=RequestLimits(tokens=2000))


def ask_in_levels(page, refine, unit="document"):
    files = [{"name": f"{i}.txt", "mimeType": "text/plain", "buffer": text.encode()} for i, text in enumerate(TEXTS)]
    page.set_input_files("#files", files)
    playwright.expect(page.locator("#documents > li")).to_have_count(len(TEXTS))
    page.fill("#prompt", "Who met birds?")
    page.select_option("#unit", unit)
    page.select_option("#refine", refine)
    page.evaluate("document.querySelector('#settings').open = true")
    page.fill("#length", "4")
    page.fill("#budget", "20")
    page.fill("#k", "2")
    page.click("#go")
    wait_for(page, "Done.")


def test_the_tree_of_a_search_from_documents_to_words(open_page):
    page = open_page()
    ask_in_levels(page, "sentence,word")
    record = json_of(page)
    assert [level["unit"] for level in record["levels"]] == ["document", "sentence", "word"]
    tree = page.inner_text("#levels")
    for number, level in enumerate(record["levels"], start=1):
        assert f"Level {number}, {level['unit']}s" in tree
        assert f"certificate {level['certificate']}" in tree
    assert page.locator("#levels li.chosen").count() == sum(len(level["removed"]) for level in record["levels"])
    said = page.evaluate("window.said")
    assert any(line.startswith("Searching documents") for line in said)
    assert any(line.startswith("Searching sentences") for line in said)
    # The buttons are the words that the last level could take out; everything else is text.
    assert page.locator("#units button").count() == len(record["prompt"]["units"])
    assert sorted(taken_out(page)) == sorted(record["removed"])
    assert page.locator("#curve polyline").count() == 1


def test_what_the_last_level_found_is_changed_by_hand_and_restored(open_page):
    page = open_page()
    ask_in_levels(page, "sentence")
    found, tree = taken_out(page), page.inner_text("#levels")
    texts = [unit["text"] for unit in json_of(page)["prompt"]["units"]]
    page.focus("#units button[tabindex='0']")
    for _ in range(found[0]):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    wait_for(page, "Done. Press more units")
    record = json_of(page)
    assert [record["prompt"]["units"][i]["text"] for i in record["removed"]] == [texts[i] for i in found[1:]]
    assert page.inner_text("#levels") == ""
    page.click("#back")
    assert page.inner_text("#levels") == tree
    page.reload()
    page.click("#history > summary")
    page.click("#runs .run >> nth=0")
    wait_for(page, "This is what was found then.")
    assert page.inner_text("#levels") == tree
    assert taken_out(page) == found
    assert page.input_value("#refine") == "sentence"
    page.click(f"#units [data-unit='{found[0]}']")
    wait_for(page, "Done. Press more units")  # a kept result can be built on, in the same units


def test_only_finer_units_are_offered(open_page):
    page = open_page()
    page.select_option("#refine", "sentence,word")
    page.select_option("#unit", "sentence")
    assert page.input_value("#refine") == "auto"
    offered = page.locator("#refine option:not(:disabled)").evaluate_all("all => all.map((one) => one.value)")
    assert offered == ["auto", "", "word", "token"]
    page.select_option("#other", "greedy")
    assert page.is_disabled("#refine")
    page.select_option("#other", "")
    page.select_option("#refine", "word")
    page.evaluate("document.querySelector('#settings').open = true")
    page.select_option("#task", "diagnose")
    assert page.is_disabled("#refine")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tree_on_a_phone_need_not_scroll_sideways(open_page, scheme):
    page = open_page(width=390, height=844, color_scheme=scheme)
    ask_in_levels(page, "sentence")
    playwright.expect(page.locator("#levels li.chosen")).to_have_count(4, timeout=PATIENCE)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(WEAK) == []
