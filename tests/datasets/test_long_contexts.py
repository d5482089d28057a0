"""Long contexts are made by a seed, and say where the answer stands."""

import json
import random

import pytest

import jopa
from jopa.datasets.long_contexts import ContextDocument, LongContext, make_long_contexts, read_texts
from jopa.datasets.planted_facts import KINDS, draw_facts


def texts(n=40):
    return [
        ContextDocument(
            f"t{i}", f"Item {i} says this. It goes on for a while about thing {i}. It ends here.", f"Title {i}"
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_the_planted_fact_stands_where_the_context_says(copies):
    for context in make_long_contexts(texts(), 5, tokens=400, copies=copies, seed=1):
        spans = context.sentence_spans()
        units = context.source_units(spans)
        assert len(units) == len(context.sources) == copies
        documents = {document.id: document for document in context.documents}
        for name, (start, end) in context.sources:
            statement = documents[name].text[start:end]
            assert any(statement == context.text[a:b].strip() for a, b in spans)
        value = context.answer.split()[-1].rstrip(".")
        assert all(value in context.text[slice(*spans[unit])] for unit in units)
        assert len({context.text[slice(*spans[unit])] for unit in units}) == copies  # in other words each time


def test_sentences_tile_the_documents_and_nothing_else():
    (context,) = make_long_contexts(texts(), 1, tokens=400)
    pieces = [context.text[a:b] for a, b in context.sentence_spans()]
    assert "".join(pieces) == "".join(document.text for document in context.documents)
    assert context.text.endswith(context.question)


def test_the_seed_decides_and_a_larger_n_goes_on():
    three = make_long_contexts(texts(), 3, tokens=300, seed=4)
    assert three[:2] == make_long_contexts(texts(), 2, tokens=300, seed=4)
    assert three != make_long_contexts(texts(), 3, tokens=300, seed=5)
    assert len({context.id for context in three}) == 3


def test_the_length_is_counted_as_the_caller_counts():
    for tokens in (300, 900):
        (context,) = make_long_contexts(texts(200), 1, tokens=tokens, count=len)
        assert tokens <= len(context.text) < tokens + 450


def test_distractors_have_other_names_and_values():
    facts = draw_facts(random.Random(0), 4)
    assert len({fact.question for fact in facts}) == len({fact.answer for fact in facts}) == 4


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.question)
def test_every_wording_of_a_fact_is_one_sentence_with_its_value(kind):
    from jopa.prompt.segmentation import sentences

    assert len(set(kind.statements)) >= 3
    for statement in kind.statements:
        assert "{name}" in statement and "{value}" in statement
        text = statement.format(name="Dunmoor", value=kind.draw(random.Random(1)))
        assert len(sentences(f"{text} Another one.", "en")) == 2
    assert "{value}" in kind.answer and "{name}" in kind.question


def test_a_natural_question_names_one_document():
    (context,) = make_long_contexts([*texts(), ContextDocument("x", "A b.", "Title 1")], 1, tokens=400, kind="natural")
    ((name, (start, end)),) = context.sources
    asked = next(document for document in context.documents if document.id == name)
    assert f'"{asked.title}"' in context.question and (start, end) == (0, len(asked.text))
    assert [document.title for document in context.documents].count(asked.title) == 1
    assert context.answer is None


def test_texts_are_read_from_jsonl_each_once(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [
        {"id": "a", "prompt": "One  text.", "headline": "H"},
        {"prompt": "One text."},
        {"prompt": "Two.", "topic": "T"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_texts(path) == [ContextDocument("a", "One text.", "H"), ContextDocument("3", "Two.", "T")]


def test_a_text_without_an_id_is_called_after_its_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [{"id": None, "prompt": "One."}, {"prompt": "Two."}, {"id": 7, "prompt": "Three."}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [text.id for text in read_texts(path)] == ["1", "2", "7"]


def test_two_texts_of_one_id_are_refused(tmp_path):
    path = tmp_path / "texts.jsonl"
    one, other = {"id": "a", "prompt": "One."}, {"id": "a", "prompt": "Two."}
    path.write_text("".join(json.dumps(line) + "\n" for line in (one, one)))
    assert len(read_texts(path)) == 1  # the same text again is no other
    path.write_text("".join(json.dumps(line) + "\n" for line in (one, other)))
    with pytest.raises(jopa.InputFileError, match=r"texts\.jsonl:2: a text before it has the id 'a', too"):
        read_texts(path)
    for kind in ("planted", "natural"):
        with pytest.raises(jopa.SettingError, match="2 texts have the id 't3'"):
            make_long_contexts([*texts(), ContextDocument("t3", "Of a second file.")], 1, tokens=300, kind=kind)


def test_fewer_documents_than_copies_are_refused():
    long = [ContextDocument(str(i), "A sentence of filler. " * 200, f"t{i}") for i in range(5)]
    assert len(make_long_contexts(long, 1, tokens=200, copies=1)[0].documents) == 1
    with pytest.raises(jopa.SettingError, match="copies must be at most 1, the documents of a context of 200 tokens"):
        make_long_contexts(long, 1, tokens=200, copies=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "not a JSON object"),
        ("{}", "'prompt' is missing"),
        ("{", "texts.jsonl:1"),
        ('{"prompt": "a", "id": [1]}', "'id' is neither text nor a number"),
        ('{"prompt": "a", "id": ""}', "'id' is empty"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, line, message):
    path = tmp_path / "texts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(jopa.InputFileError, match=message):
        read_texts(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 10}, "tokens must be at least 200, got 10"),
        ({"tokens": 300, "copies": 4}, "copies must be between 1 and 3, got 4"),
        ({"tokens": 300, "kind": "odd"}, "unknown kind 'odd'"),
        ({"tokens": 90_000}, "fewer than 90000; give more, or ask for less"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(jopa.SettingError, match=message):
        make_long_contexts(texts(), 1, **settings)


def test_texts_without_titles_have_no_natural_questions():
    untitled = [ContextDocument(str(i), "Some words are here. More are there.") for i in range(60)]
    with pytest.raises(jopa.SettingError, match="need texts with a title of their own"):
        make_long_contexts(untitled, 1, tokens=300, kind="natural")


def test_units_of_a_source_in_another_cut():
    context = LongContext("c", (ContextDocument("d", "One. Two. Three."),), "What?", "Two.", (("d", (5, 9)),))
    begin = context.text.index("Two.")
    assert context.source_units([(0, begin), (begin, begin + 2), (begin + 2, begin + 9)]) == [1, 2]
