"""A reasoning trace on the page: explained, changed by hand, a part of the answer alone, opened again."""

import pytest
from page_browser import NO_CHROMIUM, PATIENCE, ask, json_of, taken_out, wait_for
from page_client import serving

import jopa
import tiny_models
from jopa.prompt.continuation import continuation_ids
from jopa.web.limits import RequestLimits

pytestmark = NO_CHROMIUM
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

TRACE = ["The user asks.", "Rain is likely.", "A coat helps."]
ANSWER = "Take a coat. It rains."


class Reasoner(jopa.LanguageModel):
    """A tiny model that always writes the same trace and answer."""

    def generate(self, inputs, *, on_ids=None, **settings):
        """The same ids, whatever the input."""
        ids = tuple(continuation_ids(self.tokenizer, f"<think>\n{' '.join(TRACE)}\n</think>\n\n{ANSWER}"))
        if on_ids is not None:
            on_ids(ids)
        return ids


@pytest.fixture(scope="module")
def url():
    tiny = tiny_models.sentence_model()
    model = Reasoner(tiny.model, tiny.tokenizer, "reasoner")
    return serving(model, limits=RequestLimits(tokens=2000))


def explained(page):
    page.click("#context > summary")
    page.select_option("#attribute", "trace")
    assert page.is_disabled("#refine")  # one kind of unit
    page.select_option("#unit", "sentence")
    page.fill("#k", "1")
    ask(page, "What now? Say it.", length=200, budget=8)
    wait_for(page, "Done.")


def test_the_sentences_of_a_trace_are_explained_and_changed_by_hand(open_page):
    page = open_page()
    explained(page)
    units = page.locator("#units button").all_inner_texts()
    assert [text.strip().rstrip("1") for text in units] == TRACE  # the unit that was found bears its rank
    assert page.locator("#units .origin").all_inner_texts() == ["Reasoning trace"]
    record = json_of(page)
    assert record["output"]["text"].strip() == ANSWER
    assert taken_out(page) == record["removed"]
    other = next(unit for unit in range(len(TRACE)) if unit not in record["removed"])
    page.click(f"#units button >> nth={other}")
    wait_for(page, "Done. Press more units")
    by_hand = json_of(page)
    assert sorted(by_hand["removed"]) == sorted([*record["removed"], other])
    for name in ("ids", "text", "target"):
        assert by_hand["output"][name] == record["output"][name]
    assert by_hand["log_prob"] == pytest.approx(record["log_prob"], abs=1e-4)


def test_a_part_of_the_answer_after_a_trace_is_explained(open_page):
    page = open_page()
    explained(page)
    first = json_of(page)
    page.evaluate(
        """text => {
          const pane = document.querySelector("#outputs .scroll");
          const walker = document.createTreeWalker(pane, NodeFilter.SHOW_TEXT);
          let node;
          while ((node = walker.nextNode()) && !node.data.includes(text));
          const start = node.data.indexOf(text);
          const range = document.createRange();
          range.setStart(node, start);
          range.setEnd(node, start + text.length);
          const selection = getSelection();
          selection.removeAllRanges();
          selection.addRange(range);
        }""",
        "rains",
    )
    page.click("#part-go", timeout=PATIENCE)
    wait_for(page, "Done. Press any unit")
    part = json_of(page)
    assert part["output"]["ids"] == first["output"]["ids"]
    start, end = part["output"]["target"]
    said = tiny_models.sentence_model().decode(part["output"]["ids"][start:end])
    assert said.strip() == "rains" and part["log_prob"] > first["log_prob"]


def test_a_kept_result_about_a_trace_is_shown_and_not_built_on(open_page):
    page = open_page()
    explained(page)
    record = json_of(page)
    page.click("#history > summary")
    page.click("#runs .run >> nth=0")
    wait_for(page, "This is what was found then.")
    assert taken_out(page) == record["removed"]
    assert page.locator("#units .origin").all_inner_texts() == ["Reasoning trace"]
    page.click("#go")  # the answer is generated again, trace and all
    wait_for(page, "Done. Press any unit")
    assert json_of(page)["output"] == record["output"]
