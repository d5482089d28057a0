"""The web page in a real browser, with a tiny model behind it; no request may leave this machine."""

import threading
import time

import pytest
from page_browser import NO_CHROMIUM, PATIENCE, PROMPT, WEAK, ask, json_of, taken_out, wait_for
from page_client import serving

import jopa
from jopa.explanation import planning
from jopa.web import endpoints

pytestmark = NO_CHROMIUM
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

HOSTILE = "doctor <img src=x onerror=window.hacked=1> <script>window.hacked=2</script> patient"


@pytest.fixture(scope="module")
def url(llama):
    return serving(llama)


def test_from_a_typed_prompt_to_the_final_picture(open_page, llama):
    page = open_page()
    ask(page)
    wait_for(page, "Done.")
    a = jopa.explain(PROMPT, k=3, model=llama, unit="word", output=jopa.Generation(12))
    assert sorted(taken_out(page)) == sorted(a.removed)
    assert page.locator("#units button").count() == len(PROMPT.split())
    assert page.locator("#units sup").all_inner_texts() == [str(a.removed.index(i) + 1) for i in sorted(a.removed)]
    said = page.locator("#outputs .scroll")
    assert said.nth(0).text_content() == a.output
    assert said.nth(1).text_content() == a.counterfactual_output
    assert page.locator("#verdict bdi").count() == 3
    assert page.locator("#effects tbody tr").count() == 3
    assert page.locator("#curve polyline").get_attribute("points").count(",") >= 2
    curve = page.locator("#curve svg").get_attribute("aria-label")
    assert f"down to {a.log_prob_removed:.2f}".replace("-", "−") in curve
    words = page.evaluate("window.said")
    assert any("writes its answer" in line for line in words)
    assert any("Searching" in line for line in words)
    assert json_of(page)["removed"] == list(a.removed)


def test_a_unit_is_put_back_with_the_keyboard_and_all_of_it_restored(open_page):
    page = open_page()
    ask(page)
    wait_for(page, "Done.")
    found, before = taken_out(page), page.inner_text("#verdict")
    page.focus("#units button[tabindex='0']")
    for _ in range(min(found)):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert taken_out(page) == sorted(found)[1:]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    wait_for(page, "Done. Press more units")
    record = json_of(page)
    assert record["method"]["name"] == "by-hand"
    assert sorted(record["removed"]) == sorted(found)[1:]
    assert page.inner_text("#verdict") != before
    page.click("#back")
    assert sorted(taken_out(page)) == sorted(found)
    assert page.inner_text("#verdict") == before
    for unit in found:
        page.click(f"#units [data-unit='{unit}']")
    wait_for(page, "Nothing is taken out")
    drawn = "parseFloat(getComputedStyle(document.querySelector('#verdict')).opacity)"
    assert page.evaluate(drawn) < 1  # it speaks of units that are back
    page.click("#back")
    assert page.evaluate(drawn) == 1


def test_a_part_of_the_answer_is_selected_with_the_mouse(open_page):
    page = open_page()
    ask(page)
    wait_for(page, "Done.")
    whole = json_of(page)
    answer = page.locator("#outputs .scroll").first.bounding_box()
    y = answer["y"] + 14
    page.mouse.move(answer["x"] + 4, y)
    page.mouse.down()
    page.mouse.move(answer["x"] + 90, y, steps=4)
    page.mouse.up()
    chosen = page.evaluate("document.getSelection().toString()")
    page.click("#part-go")
    wait_for(page, "Done.")
    record = json_of(page)
    start, end = record["output"]["target"]
    assert start == 0
    assert 0 < end < len(whole["output"]["ids"])
    assert record["output"]["ids"] == whole["output"]["ids"]  # the same answer, not a new one
    covered = " ".join(record["output"]["text"].split()[:end])
    assert covered.startswith(chosen.strip())
    assert len(covered.split()) == len(chosen.split())
    assert f"tokens {start}:{end}" in page.inner_text("#verdict")


def test_a_blank_selected_after_a_word_does_not_take_the_next_word_in(open_page):
    page = open_page()
    ask(page)
    wait_for(page, "Done.")
    words = json_of(page)["output"]["text"].split()
    # What differs between the two answers stands in pieces of its own; wherever they end, here one ends with the word.
    page.evaluate(
        """n => {
            const answer = document.querySelector("#outputs .scroll");
            const first = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT).nextNode();
            if (n < first.length) first.splitText(n);
        }""",
        len(words[0]),
    )
    for selected in (words[0], f"{words[0]} ", f"{words[0]} {words[1][:1]}"):
        page.evaluate(
            """n => {
                const answer = document.querySelector("#outputs .scroll");
                const pieces = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
                const first = pieces.nextNode();
                while (n > pieces.currentNode.length) {
                    n -= pieces.currentNode.length;
                    pieces.nextNode();
                }
                document.getSelection().setBaseAndExtent(first, 0, pieces.currentNode, n);
            }""",
            len(selected),
        )
        expected = words[0] if selected.strip() == words[0] else f"{words[0]} {words[1]}"
        page.wait_for_function(
            "text => document.querySelector('#part-go').textContent.includes(text)", arg=f"“{expected}”"
        )


def test_two_methods_compared_and_the_report_downloaded(open_page):
    page = open_page()
    page.select_option("#method", "greedy")
    page.select_option("#other", "ablation")
    ask(page)
    wait_for(page, "Done.")
    assert page.locator("#table tbody tr").count() == 2
    assert page.locator("#curve polyline").count() == 2
    assert [item["method"]["name"] for item in json_of(page)["comparison"]] == ["greedy", "ablation"]
    page.click("#which button >> nth=1")
    assert page.locator("#which button").nth(1).get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.click("#html")
    report = download.value.path().read_text()
    assert report.startswith("<!DOCTYPE html>")
    assert "2 methods, one output" in report


def test_of_two_methods_one_may_refuse(open_page):
    page = open_page()
    page.select_option("#method", "exhaustive")
    page.select_option("#other", "ablation")
    page.fill("#k", "4")
    ask(page, "one two three four five six seven eight nine ten " * 4)
    wait_for(page, "Done, but not by exhaustive: C(40, 4)")
    assert "bad" in page.get_attribute("#status", "class")
    assert json_of(page)["method"]["name"] == "ablation"
    assert page.locator("#curve polyline").count() == 1


def test_a_link_brings_the_question_along(open_page, browser):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.select_option("#unit", "token")
    page.fill("#k", "2")
    ask(page, PROMPT + " #&?=%")
    wait_for(page, "Done.")
    page.click("#copy")
    wait_for(page, "The link is in the clipboard")
    link = page.evaluate("navigator.clipboard.readText()")
    again = open_page(fragment="#" + link.partition("#")[2])
    values = {name: again.input_value(f"#{name}") for name in ("prompt", "k", "unit", "length")}
    assert values == {"prompt": PROMPT + " #&?=%", "k": "2", "unit": "token", "length": "12"}
    strange = open_page(fragment="#k=%3Cimg%20src%3Dx%3E&unit=%22onclick&stage=x&prompt=%3Cimg src=x onerror=hacked=1>")
    assert strange.input_value("#unit") == "auto"
    assert strange.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (HOSTILE, "Done."),
        ("x " * 40_000, "the prompt has 80,000 characters and this page takes at most 60,000"),
        ("   \n  ", "the prompt is empty"),
        ("😀😀 👩‍👩‍👧 🏳️‍🌈 😀", "Done."),
    ],
    ids=["markup", "80 000 characters", "only spaces", "only emoji"],
)
def test_a_hostile_prompt_is_shown_or_refused(open_page, prompt, words):
    """Emoji are hard to show: one may be several characters, and to this model each word of them is unknown, so units
    that look different have the same tokens. They are explained all the same, and none is cut in two."""
    page = open_page()
    ask(page, prompt)
    wait_for(page, words)
    if words == "Done.":
        units = page.locator("#units button").evaluate_all("all => all.map((one) => one.firstChild.data)")
        assert units == prompt.split()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script:not([type])").count() == 0
    ask(page)  # the server is well
    playwright.expect(page.locator("#units")).to_contain_text("doctor and")
    wait_for(page, "Done.")


def test_ten_at_once_each_get_their_own(open_page, llama):
    colours = "write story about doctor patient rain green birds time day".split()
    pages = [open_page() for _ in colours]
    with llama.lock:  # the first waits for the model until all have asked
        for page, word in zip(pages, colours, strict=True):
            ask(page, f"please tell me of {word} and {word} number <{word}>", length=6, budget=5)
    for page, word in zip(pages, colours, strict=True):
        wait_for(page, "Done.")
        text = page.inner_text("#units")
        assert text.count(word) == 3
        assert not any(other in text for other in set(colours) - {word})
        assert json_of(page)["prompt"]["text"].endswith(f"<{word}>")
    waited = [line for page in pages for line in page.evaluate("window.said") if line.startswith("Waiting")]
    assert any("before you" in line for line in waited)


def test_stop_really_stops_the_model(open_page, llama):
    forwards = []

    def slow(*_):
        forwards.append(time.monotonic())
        time.sleep(0.03)

    page = open_page()
    hook = llama.model.register_forward_pre_hook(slow)
    try:
        page.select_option("#method", "shapley")
        ask(page)
        wait_for(page, "Searching")
        page.click("#stop")
        wait_for(page, "Stopped.")
        deadline = time.monotonic() + 10
        while time.monotonic() - forwards[-1] < 0.7:
            assert time.monotonic() < deadline, "the model is still at work"
            time.sleep(0.1)
        assert page.locator("#stop").is_hidden()
    finally:
        hook.remove()
    assert not llama.model._forward_pre_hooks
    page.select_option("#method", "greedy")
    ask(page)
    wait_for(page, "Done.")


def test_behind_a_password_everything_works(open_page, llama):
    url = serving(llama, password="open sesame")
    page = open_page(url=url, http_credentials={"username": "me", "password": "open sesame"})
    ask(page)
    wait_for(page, "Done.")


def test_who_leaves_the_queue_is_not_served(open_page, llama, monkeypatch):
    served = []

    def recorded(model, request, methods):
        served.append(request.prompt)
        return planning.planned(model, request, methods)

    monkeypatch.setattr("jopa.web.work.planned", recorded)
    monkeypatch.setattr(endpoints, "ALIVE_SECONDS", 0.1)
    may_go_on = threading.Event()
    may_go_on.set()

    def slow(*_):
        time.sleep(0.03)
        may_go_on.wait(PATIENCE / 1000)

    hook = llama.model.register_forward_pre_hook(slow)
    try:
        first, second = open_page(), open_page()
        first.select_option("#method", "shapley")
        ask(first)
        wait_for(first, "Searching")
        may_go_on.clear()
        ask(second, "green birds upon time")
        wait_for(second, "Waiting")
        second.close()
        time.sleep(1.0)  # the server hears of it when it tells the next position
        first.click("#stop")
    finally:
        may_go_on.set()
        hook.remove()
    first.select_option("#method", "greedy")
    ask(first)
    wait_for(first, "Done.")
    assert served == [PROMPT, PROMPT]


def test_a_closed_tab_stops_the_model(open_page, llama):
    forwards = []

    def slow(*_):
        forwards.append(time.monotonic())
        time.sleep(0.03)

    page = open_page()
    hook = llama.model.register_forward_pre_hook(slow)
    try:
        page.select_option("#method", "shapley")
        ask(page)
        wait_for(page, "Searching")
        page.close()
        deadline = time.monotonic() + 10
        while time.monotonic() - forwards[-1] < 0.7:
            assert time.monotonic() < deadline, "the model is still at work"
            time.sleep(0.1)
    finally:
        hook.remove()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(open_page, scheme):
    page = open_page(width=390, height=844, color_scheme=scheme)
    page.select_option("#other", "greedy")
    ask(page, PROMPT + " supercalifragilisticexpialidocious" * 3)
    wait_for(page, "Done.")
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(WEAK) == []


def test_a_selected_character_takes_all_of_its_tokens(open_page):
    page = open_page()
    found = page.evaluate(
        """async () => {
            const page = document.querySelector("script[type=module]").src;
            const { selectedTokens } = await import(page.replace(/[^/]*$/, "view.js"));
            const answer = document.createElement("p");
            answer.textContent = "Hi \\u{1f600} a";
            document.body.append(answer);
            document.getSelection().setBaseAndExtent(answer.firstChild, 3, answer.firstChild, 5);
            return selectedTokens(answer, ["Hi", " ", "", "", "\\u{1f600}", " a"]);
        }"""
    )
    assert found == [2, 5]


def test_the_first_screen_says_what_the_page_does_until_there_is_a_result(open_page):
    page = open_page(width=390, height=844)
    assert "made the model say this" in page.inner_text("h1")
    assert "press Explain the answer" in page.inner_text("#intro")
    assert page.evaluate(WEAK) == []
    ask(page)
    wait_for(page, "Done.")
    assert page.is_hidden("#intro")


def test_twelve_units_and_their_sum_are_seen_without_scrolling(open_page):
    page = open_page()
    page.fill("#k", "12")
    ask(page, f"{PROMPT} the rain and story", budget=14)
    wait_for(page, "Done.")
    assert page.locator("#effects tbody tr").count() == 12
    assert page.evaluate(
        "(({ scrollHeight, clientHeight }) => scrollHeight <= clientHeight)(document.querySelector('.sums'))"
    )


def test_a_curve_of_one_prompt_speaks_of_one(open_page):
    page = open_page()
    drawn = page.evaluate(
        """async () => {
            const { Curve } = await import("./curve.js");
            const box = document.createElement("div");
            const curve = new Curve(box);
            curve.clear(["joint"]);
            curve.add({ units: [], method: 0, evaluations: 1, log_prob: -2 });
            return [...box.querySelectorAll(".axis span")].map((one) => one.textContent);
        }"""
    )
    assert drawn == ["−2.00", "", "0", "1 prompt tried"]
