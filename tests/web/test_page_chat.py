"""Conversations, documents, diagnoses, two prompts and kept runs in a real browser."""

import json
import re

import pytest
from page_browser import NO_CHROMIUM, PATIENCE, PROMPT, WEAK, ask, json_of, taken_out, wait_for
from page_client import serving
from tiny_server import language_model_with_context

from jopa.web.limits import RequestLimits

pytestmark = NO_CHROMIUM
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

TURNS = [("user", "tell me about birds"), ("assistant", "one day two people met")] * 5
TEXTS = [f"green birds met two people in rain on day {i}" for i in range(20)]
QUESTION = "who said that green birds met"
LIMITS = RequestLimits(characters=4000, documents=24, turns=12, tokens=900)


@pytest.fixture(scope="module")
def url():
    return serving(language_model_with_context(1024), limits=LIMITS)


def fill_chat(page, texts=TEXTS, turns=TURNS[:2]):
    page.click("#context > summary")
    page.fill("#system", "think of the patient")
    for number, (role, text) in enumerate(turns):
        page.click("#add-turn")
        page.select_option(f"#turns li:nth-child({number + 1}) select", role)
        page.keyboard.insert_text(text)
    files = [{"name": f"{i}.txt", "mimeType": "text/plain", "buffer": t.encode()} for i, t in enumerate(texts[:-2])]
    lines = [json.dumps({"id": "x", "title": "A title", "text": texts[-2]}), json.dumps(texts[-1])]
    files.append({"name": "last.jsonl", "mimeType": "text/plain", "buffer": "\n".join(lines).encode()})
    page.set_input_files("#files", files)
    playwright.expect(page.locator("#documents > li")).to_have_count(len(texts))


def explained(page, prompt=QUESTION, length=4, budget: int | None = 12):
    ask(page, prompt, length, budget)
    wait_for(page, "Done.")


def test_ten_turns_and_twenty_documents(open_page):
    page = open_page()
    fill_chat(page, turns=TURNS)
    assert page.inner_text("#context-count") == "a system message, 10 turns, 20 documents"
    page.select_option("#unit", "document")
    explained(page, budget=None)
    assert page.locator("#context").get_attribute("open") is None  # what was found stands below it
    assert page.locator("#units button").count() == 20
    assert page.locator("#units .origin").all_inner_texts()[-2:] == ["Document x: A title", "Document 20"]
    record = json_of(page)
    assert [unit["document"] for unit in record["prompt"]["units"]][-2:] == ["x", "20"]
    pressed = page.locator("#units [aria-pressed=true]").first
    assert pressed.evaluate(
        "b => { const [unit, pane] = [b, b.parentElement].map((one) => one.getBoundingClientRect());"
        " return unit.top >= pane.top - 1 && unit.bottom <= pane.bottom + 1; }"
    )
    page.click("#in-place > details > summary")
    assert "think of the patient" in page.inner_text("#in-place")
    for text in (QUESTION, "one day two people met"):
        assert text in page.inner_text("#in-place")
    page.click("#context > summary")
    page.select_option("#attribute", "all")
    page.select_option("#unit", "message")
    page.click("#go")
    wait_for(page, "Done.")
    headings = page.locator("#units .origin").all_inner_texts()
    assert headings[:3] == ["System message", "User", "Assistant"]
    assert len(headings) == 1 + 10 + 20 + 1
    assert json_of(page)["output"]["ids"] == record["output"]["ids"]  # the answer is the same, so it is not made anew
    page.click("#units button >> nth=0")
    wait_for(page, "Done. Press more units")
    assert 0 in taken_out(page)


def test_files_that_cannot_be_used_are_named(open_page):
    page = open_page()
    for name, content, words in [
        ("a.txt", b"\xff\xfe\x00", "a.txt is no text in UTF-8"),
        ("a.exe", b"x", "this page reads files .txt, .md, .jsonl and .json"),
        ("a.md", b" \n", "a.md is empty"),
        ("a.jsonl", b'"x"\n{"text": " "}', 'line 2 of a.jsonl has an empty "text"'),
        ("a.json", b"{}", "a.json holds neither a chat nor a result of jopa"),
        ("a.jsonl", b'{"text": "x"}\n{oops', "line 2 of a.jsonl is no JSON"),
        ("a.jsonl", b'{"title": "x"}', 'line 1 of a.jsonl has no "text"'),
        ("a.txt", b"x" * 40_000, "a.txt has 40,000 bytes, more than this page takes"),
        ("a.json", b'{"schema": 1}', "This result cannot be shown"),
    ]:
        page.set_input_files("#files", [{"name": name, "mimeType": "text/plain", "buffer": content}])
        wait_for(page, words)
    assert page.locator("#documents > li").count() == 0
    page.set_input_files("#files", [{"name": "b.txt", "mimeType": "text/plain", "buffer": b"green birds"}])
    wait_for(page, "Read: 1 document.")  # the last refusal is gone
    page.click("#documents .remove")
    page.click("#add-document")
    ask(page, QUESTION)
    wait_for(page, "Done.")  # a document that nobody filled in is no document


def test_a_file_is_dropped_and_a_chat_is_read(open_page):
    page = open_page()
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["once upon time"], "note.md", { type: "text/markdown" }));
            const settings = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", settings));
        }"""
    )
    playwright.expect(page.locator("#documents summary")).to_have_text("Document note.md (14 characters)")
    chat = [
        {"role": "system", "content": "think"},
        {"role": "user", "content": [{"type": "text", "text": "tell me"}]},
        {"role": "assistant", "content": "what"},
        {"role": "user", "content": PROMPT},
    ]
    page.set_input_files("#files", [{"name": "chat.json", "mimeType": "", "buffer": json.dumps(chat).encode()}])
    playwright.expect(page.locator("#prompt")).to_have_value(PROMPT)
    assert page.input_value("#system") == "think"
    assert page.locator("#turns textarea").evaluate_all("all => all.map((one) => one.value)") == ["tell me", "what"]
    page.click("#clear-context")
    assert page.locator("#turns li, #documents li").count() == 0
    assert page.inner_text("#context-count") == ""


CALLING = [
    {"role": "user", "content": "who met the doctor"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "find"}}]},
    {"role": "tool", "content": "green birds met the doctor"},
]


def test_a_conversation_with_calls_of_tools_is_pasted_or_read_from_a_file(open_page):
    page = open_page()
    fill_chat(page, TEXTS[:3])
    file = {"name": "chat.json", "mimeType": "", "buffer": json.dumps({"messages": CALLING, "tools": [{}]}).encode()}
    page.set_input_files("#files", [file])
    playwright.expect(page.locator("#context-count")).to_have_text("3 messages, 1 tool, 3 documents")
    assert page.locator("#by-hand").is_hidden()  # it takes the place of system message and turns
    page.fill("#messages", "[{")
    assert page.inner_text("#pasted-count") == "no JSON yet"
    page.fill("#prompt", "")
    page.click("#go")
    wait_for(page, "This did not work: the pasted conversation is no JSON")
    page.fill("#messages", json.dumps(CALLING))
    page.select_option("#attribute", "tools")
    explained(page, "", 4)
    record = json_of(page)
    assert record["prompt"]["text"] == "green birds met the doctor"
    page.click("#in-place > details > summary")
    assert "find" in page.inner_text("#in-place")
    page.reload()
    page.click("#history > summary")
    assert page.locator("#runs .run").all_inner_texts() == ["who met the doctor"]
    page.click("#runs .run >> nth=0")
    wait_for(page, "This is what was found then.")
    assert json.loads(page.input_value("#messages")) == CALLING
    page.click("#clear-context")
    assert page.input_value("#messages") == ""
    assert page.locator("#by-hand").is_visible()


def test_requests_are_marked_by_pressing(open_page):
    page = open_page()
    page.click("#settings > summary")
    page.select_option("#task", "diagnose")
    assert page.inner_text("#go") == "Diagnose the answer"
    explained(page, "write a story. there was rain. tell me about birds.", 8)
    assert "How does each request influence the answer?" in page.inner_text("#report")
    assert taken_out(page) == [0, 2]  # guessed from their words
    assert page.locator("#outputs .scroll").count() == 1
    page.locator("#units button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#report")).to_contain_text("as given", timeout=PATIENCE)
    assert json_of(page)["requests"] == [0, 1, 2]
    page.click("#back")
    assert taken_out(page) == [0, 2]
    page.click("#explain")
    wait_for(page, "Done. Press any unit")
    assert page.locator("#verdict .verdict").count() == 1
    assert page.inner_text("#report") == ""


def test_sentences_of_the_answer_light_up_their_sources(open_page):
    page = open_page()
    fill_chat(page, TEXTS[:4])
    page.click("#settings > summary")
    page.fill("#until", "1")
    page.fill("#length", "8")
    explained(page, length=8)
    page.click("#cite")
    wait_for(page, "Done. Point at a sentence")
    assert page.locator("#outputs .scroll").count() == 0
    cited = json_of(page)
    assert cited["kind"] == "citations"
    sentence = page.locator("#report .claim:has(sup)").first
    before = source_colours(page)
    sentence.focus()
    playwright.expect(sentence).to_be_focused()
    assert source_colours(page) != before
    page.click("#explain")
    wait_for(page, "Done. Press any unit")
    assert page.inner_text("#report") == ""


def source_colours(page):
    """The background of every source in the report."""
    return page.locator("#report .source").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )


def test_the_fewest_units_that_suffice(open_page):
    page = open_page()
    page.click("#settings > summary")
    page.fill("#until", "0.9")
    assert page.is_disabled("#k")
    explained(page, PROMPT, 8)
    assert json_of(page)["details"]["until_pr"]["pr"] == 0.9
    page.click("#more > summary")
    assert "Until PR < 0.9" in page.inner_text("#found")
    assert not page.is_visible("#search")  # its steps are not told, and a flat line would say that nothing was found
    page.fill("#until", "")
    explained(page, PROMPT, 8)
    assert page.is_visible("#search")


def test_two_prompts_side_by_side(open_page):
    page = open_page()
    explained(page, PROMPT, 8)
    first = json_of(page)
    page.click("#keep")
    assert page.evaluate("document.activeElement.id") == "prompt"
    explained(page, PROMPT.replace("doctor", "birds"), 8)
    assert "The second prompt" in page.inner_text("#prompts")
    top = "id => document.getElementById(id).getBoundingClientRect().top"
    assert page.evaluate(top, "prompts") < page.evaluate(top, "verdict")  # which speaks of the second alone
    record = json_of(page)
    assert (record["kind"], record["first"]["prompt"]["text"]) == ("prompts", PROMPT)
    assert record["first"]["removed"] == first["removed"]
    page.click("#let-go")
    explained(page, PROMPT, 8)
    assert page.inner_text("#prompts") == ""


def test_the_last_runs_are_kept_in_the_browser(open_page):
    page = open_page()
    explained(page, PROMPT, 8)
    found, verdict = taken_out(page), page.inner_text("#verdict")
    fill_chat(page, TEXTS[:4])
    explained(page)
    page.reload()
    page.click("#history > summary")
    assert page.locator("#runs .run").all_inner_texts() == [QUESTION, PROMPT]
    page.click("#runs .run >> nth=0")
    wait_for(page, "This is what was found then.")
    assert page.input_value("#prompt") == QUESTION
    assert page.locator("#turns li").count() == 2
    page.click("#runs .run >> nth=1")
    playwright.expect(page.locator("#verdict")).to_have_text(verdict, timeout=PATIENCE)
    assert taken_out(page) == found
    assert page.locator("#turns li").count() == 0
    page.click(f"#units [data-unit='{found[0]}']")
    wait_for(page, "Done. Press more units")  # it can be built on
    page.click("#runs .remove >> nth=0")
    assert page.locator("#runs .run").all_inner_texts() == [PROMPT]
    page.click("#clear-history")
    assert page.evaluate("localStorage.length") == 0
    assert page.locator("#history").is_hidden()


GOOD = {"title": "good", "kind": "explanation", "at": 0, "form": {"prompt": "kept"}, "json": None}


@pytest.mark.parametrize(
    "stored",
    [
        "{",
        "null",
        "7",
        '{"0": 1}',
        json.dumps([None, 7, [], {"title": "x"}, {**GOOD, "form": []}, {**GOOD, "at": "now"}]),
    ],
)
def test_bad_contents_of_the_browsers_storage_are_left_out(open_page, stored):
    page = open_page()
    page.evaluate("text => localStorage.setItem('jopa.runs', text)", stored)
    page.reload()
    assert page.locator("#history").is_hidden()
    explained(page, PROMPT, 4)
    assert page.locator("#runs .run").count() == 1


def test_stored_runs_of_a_strange_shape_do_no_harm(open_page):
    page = open_page()
    strange = {"prompt": "kept", "turns": "x", "documents": [{"text": 7}], "unit": "<img>", "k": {"a": 1}}
    hostile = {**GOOD, "title": "<img src=x onerror=window.hacked=1>", "form": strange, "json": '{"schema": 1}'}
    page.evaluate("runs => localStorage.setItem('jopa.runs', JSON.stringify(runs))", [hostile, GOOD])
    page.reload()
    page.click("#history > summary")
    page.click("#runs .run >> nth=0")
    wait_for(page, "This result cannot be shown")
    assert page.input_value("#prompt") == "kept"
    page.click("#runs .run >> nth=1")
    wait_for(page, "too long to keep")
    assert page.evaluate("window.hacked") is None


def test_the_runs_that_are_kept_are_bounded(open_page):
    page = open_page()
    big = [{**GOOD, "title": str(i), "json": "x" * 700_000} for i in range(5)]
    page.evaluate("runs => localStorage.setItem('jopa.runs', JSON.stringify(runs))", big)
    explained(page, PROMPT, 4)
    titles = page.locator("#runs .run").all_text_contents()
    assert titles == [PROMPT, "0", "1", "2", "3"][: len(titles)]
    assert 1 < len(titles) < 6
    assert page.evaluate("localStorage.getItem('jopa.runs').length") <= 3_000_000


def test_the_time_left_is_shown(open_page):
    page = open_page()
    page.evaluate(
        """() => {
            window.clocks = [];
            const keep = () => window.clocks.push(document.getElementById("clock").textContent);
            new MutationObserver(keep).observe(document.getElementById("clock"), { childList: true });
        }"""
    )
    explained(page, PROMPT, 4)
    assert re.fullmatch(r"at most (10:00|9:5\d) left", page.evaluate("window.clocks[0]"))
    assert page.inner_text("#clock") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chat_on_a_phone_need_not_scroll_sideways(open_page, scheme):
    page = open_page(width=390, height=844, color_scheme=scheme)
    explained(page, PROMPT, 8)
    page.click("#keep")
    fill_chat(page, TEXTS[:4])
    explained(page)
    for opened in ("explain", "diagnose"):
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(HIDDEN_COLUMNS) == []
        assert page.evaluate(WEAK) == []
        if opened == "explain":
            page.click("#diagnose")
            playwright.expect(page.locator("#report table").first).to_be_visible(timeout=PATIENCE)
            wait_for(page, "Done.")


HIDDEN_COLUMNS = """
() => [...document.querySelectorAll("table, th, td, .comparison, .sums, .wide")]
  .filter((one) => one.checkVisibility() && one.clientWidth && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.outerHTML.slice(0, 90))
"""
"""What has more columns or text than it shows."""


def test_everything_in_the_form_has_a_name(open_page):
    page = open_page()
    fill_chat(page, TEXTS[:3])
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("#ask :is(button, input, select, textarea)")]
            .filter((one) => one.checkVisibility() && !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    page.focus("#clear-context")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
