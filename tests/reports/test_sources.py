"""Messages and documents in reports: their headings, which of them a unit is of, and what went with it."""

import pytest

import jopa
from jopa.reports.attribution_html import comparison, to_html
from jopa.reports.sources import origin, source_facts
from report_pages import Page, attribution, squeezed, terminal

TWO = ("Birds sing.\n\n", "Birds sing.")
SOURCES = [
    {
        "start": 0,
        "end": 11,
        "message": 1,
        "role": "user",
        "document": "a",
        "title": "On\nbirds",
        "removed_with": "frame",
    },
    {"start": 13, "end": 24, "message": 1, "role": "user", "document": "b.txt", "removed_with": "frame"},
]
SPOKEN = [
    {"start": 0, "message": 0, "role": "system", "removed_with": "text"},
    {"start": 13, "message": 2, "role": "tool", "removed_with": "frame"},
]


def of(sources, **details):
    return attribution(TWO, (1,), (14.5,), details={"unit": "document", "sources": sources, **details})


def test_page_and_terminal_show_which_document_a_text_is_of():
    found = of(SOURCES, documents_through="frame")
    for words in (Page(to_html(found)).words, terminal(found)):
        shown = squeezed(words)
        assert shown.index("Document a: On birds") < shown.index("Document b.txt")
        assert "Without “Birds sing.” (document b.txt), the model is" in shown
        assert "in a plain frame before the question" in shown
        assert "each with its frame, as if it had never been there" in shown
    assert comparison([found])[1][0][0][1] == "Birds sing. (document b.txt)"


def test_messages_are_named_by_who_speaks():
    found = of(SPOKEN, messages_left_out=[1])
    assert [origin(found, unit) for unit in found.units] == ["system message", "tool result"]
    facts = dict(source_facts(found))
    assert facts["Removed whole"].startswith("each with its frame, but the text alone of System message at place 0: ")
    assert facts["Left out"] == "messages at places 1, which the chat template does not show as they are"
    trace = of([SPOKEN[0], {"start": 13, "role": "trace"}])
    assert origin(trace, trace.units[1]) == "reasoning trace"
    alone = dict(source_facts(of([{**source, "removed_with": "text"} for source in SOURCES])))
    assert alone["Removed whole"].startswith("the text of each alone")


@pytest.mark.parametrize("sources", [None, "x", [{"start": -1}], [{"start": 0, "role": 5}], []])
def test_a_record_of_another_form_leaves_them_out(sources):
    found = of(sources)
    assert source_facts(found) == [] and origin(found, found.units[0]) == ""
    assert "Birds sing." in Page(to_html(found)).words


def test_one_message_has_no_heading():
    found = of(SPOKEN[:1])
    assert "System message" not in Page(to_html(found)).words
    assert "Without “Birds sing.”, the model is" in terminal(found)


def test_a_document_is_a_column():
    pandas = pytest.importorskip("pandas")
    from tiny_models import sentence_model

    documents = [{"id": "a", "text": "It rains. Take a coat."}, {"id": "b", "text": "The doctor smiled."}]
    found = jopa.explain(
        "What now?", documents=documents, model=sentence_model(), k=1, output="A coat.", unit="document"
    )
    frame = found.to_frame()
    assert list(frame.document) == ["a", "b"] and list(frame.message) == [0, 0]
    assert isinstance(frame, pandas.DataFrame)
