"""Citations as a page, as a fragment and on a terminal: nothing is loaded, nothing is read as markup."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from jopa.citation.result import Citation, Citations
from jopa.prompt.answer_parts import Part
from jopa.prompt.building import Source, Unit
from jopa.reports.citations_html import answer_pieces, citations_html, citations_verdict
from jopa.reports.terminal import citations_view

FIRST, SECOND, THIRD = "The bridge is green. ", "It opened in 1931.", "A <b>green</b> bridge \x1b[31mstands here."


@pytest.fixture
def citations():
    text = f"{FIRST}{SECOND}\n\n{THIRD}\n\nBread."
    units, start = [], 0
    for i, (piece, document) in enumerate([(FIRST, "a"), (SECOND, "a"), (THIRD, "b"), ("Bread.", "c")]):
        start = text.index(piece, start)
        units.append(Unit(piece, start, start + len(piece), (i,), 0, document))
    documents = [Source(0, 39, 0, "user", "a", "The bridge", 2), Source(41, 41 + len(THIRD), 0, "user", "b", None, 1)]
    documents.append(Source(len(text) - 6, len(text), 0, "user", "c", None, 1))
    parts = [Part("It is <i>green</i>.", 0, 4), Part("It was built in 1931.", 4, 8), Part("Nice.", 8, 9)]
    return Citations(
        model={"id": "table", "revision": None, "dtype": "float32", "device": "cpu"},
        prompt=text,
        input_ids=(1, 2, 3, 4),
        units=tuple(units),
        documents=tuple(documents),
        output="It is <i>green</i>. It was built in 1931. Nice.",
        output_ids=tuple(range(9)),
        target=(0, 9),
        citations=(
            Citation(parts[0], (0, 2), "smallest", -4.0, -8.0, -4.1, -8.2, (-4.1, -4.2), (-4.2, -4.3)),
            Citation(parts[1], (1,), "smallest", -4.0, -6.0, -4.1, -6.1, (-6.0,), (-4.1,)),
            Citation(parts[2], (), "none", -1.0, -1.0, -1.0, -1.05, (), ()),
        ),
        removal="delete",
        below=0.8,
        max_sources=5,
        seed=0,
        evaluations=12,
        ffe=10.0,
        seconds=1.0,
        versions={"jopa": "0"},
        details={"unit": "sentence", "documents_through": "frame"},
    )


def test_the_verdict_counts_sentences_and_documents(citations):
    said = "".join(piece.text for piece in citations_verdict(citations))
    assert said == (
        "Of the 3 sentences of the answer 2 are cited from 2 of the 3 documents, 1 is not from the documents."
    )
    one = "".join(piece.text for piece in citations_verdict(replace(citations, citations=citations.citations[2:])))
    assert one == "The answer is not from the documents."


def test_the_pieces_of_the_answer_are_the_answer(citations):
    assert "".join(text for text, _ in answer_pieces(citations)) == citations.output
    assert [i for _, i in answer_pieces(citations) if i >= 0] == [0, 1, 2]


@pytest.mark.parametrize("standalone", [True, False])
def test_sentences_and_sources_know_each_other_without_a_script(citations, standalone):
    page = citations_html(citations, standalone=standalone)
    assert "<script" not in page and "//" not in page
    assert page.startswith("<!DOCTYPE html>") == standalone
    assert "<b>" not in page and "<i>" not in page and "\x1b" not in page
    focusable = re.findall(r'class="claim (\w+)" tabindex="0" data-sentence="(\d)"', page)
    assert focusable == [("cited", "1"), ("cited", "2"), ("elsewhere", "3")]
    numbers = re.findall(r'class="source" tabindex="0" data-source="(\d)"', page)
    assert numbers == ["1", "2", "3"]
    rule = next(line for line in page.splitlines() if line.startswith('.jopa-citations:has([data-sentence="1"]'))
    assert '[data-source="1"], [data-source="3"]' in rule
    assert "1 document with nothing cited" in page


def test_a_fragment_for_a_page_that_has_the_style_brings_only_its_own(citations):
    whole = citations_html(citations, standalone=False)
    part = citations_html(citations, standalone=False, styled=False)
    assert len(part) < len(whole) - 3000 and ".jopa-citations" in part


def test_the_terminal_says_the_same(citations):
    written = io.StringIO()
    Console(file=written, width=80).print(citations_view(citations))
    said = " ".join(written.getvalue().split())
    assert "\x1b" not in said
    for words in ("necessity 0.37", "not from the documents", "the sources are redundant", "[3] b: A <b>green</b>"):
        assert words in said


def test_citations_of_no_sentence_are_a_page_too(citations):
    assert "0.00 nats with the documents" in citations_html(replace(citations, citations=()))


def test_how_it_was_found_is_open_in_a_report_and_closed_below_the_page(citations):
    titled = re.compile(r"<details class=\"more\"( open)?>\s*<summary><h\d class=\"title\">How this was found")
    assert titled.search(citations_html(citations)).group(1)
    assert not titled.search(citations_html(citations, standalone=False)).group(1)
