"""`cite` on a tiny model: every number redone with plain removals, its JSON, and what is refused."""

import json
import math
from dataclasses import replace

import pytest

import jopa
import tiny_models
from jopa.citation.result import Citations

DOCUMENTS = [
    {"id": "a", "title": "birds", "text": "the doctor met green birds. please write a story."},
    {"id": "b", "text": "two people think in rain. once there was a man. tell me what you think."},
    "once upon a time there was rain.",
]
QUESTION = "tell me about the doctor"
ANSWER = "the doctor met birds. there was rain upon a time."


@pytest.fixture(scope="module")
def model():
    """A tiny random model whose tokens spell full stops, so that answers have sentences."""
    return tiny_models.sentence_model()


@pytest.fixture(scope="module")
def found(model):
    return jopa.cite(QUESTION, DOCUMENTS, model=model, output=ANSWER, below=0.97)


def test_every_number_can_be_redone(model, found):
    assert [citation.part.text for citation in found.citations] == [
        "the doctor met birds.",
        "there was rain upon a time.",
    ]
    assert any(citation.sources for citation in found.citations)
    options = jopa.PromptOptions(documents=DOCUMENTS)
    prompt = jopa.build_prompt(model.tokenizer, QUESTION, options, unit="sentence")
    assert prompt.units == found.units
    output = jopa.Output(found.output_ids, found.output, found.target)

    def log_prob(removed, part):
        problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, removal="delete"))
        return float(problem.token_log_probs([removed])[0, part.start : part.end].sum())

    everything = set(range(len(found.units)))
    for citation in found.citations:
        chosen = set(citation.sources)
        for value, removed in [
            (citation.log_prob, set()),
            (citation.log_prob_dropped, chosen),
            (citation.log_prob_kept, everything - chosen),
            (citation.log_prob_none, everything),
            *zip(citation.alone_dropped, ({unit} for unit in citation.sources), strict=True),
            *zip(citation.alone_kept, (everything - {unit} for unit in citation.sources), strict=True),
        ]:
            assert value == pytest.approx(log_prob(removed, citation.part), abs=1e-4)
        n = citation.part.end - citation.part.start
        assert citation.necessity == pytest.approx(math.exp((citation.log_prob_dropped - citation.log_prob) / n))
        assert citation.sufficiency == pytest.approx(math.exp((citation.log_prob_kept - citation.log_prob) / n))
        assert (citation.status == "cited") == (citation.necessity < found.below)


def test_json_gives_the_same_value_back(found):
    record = json.loads(found.to_json())
    assert record["kind"] == "citations" and record["schema"] == 1
    assert [source["document"] for source in record["prompt"]["sources"]] == ["a", "b", "3"]
    assert record["citations"][0]["necessity"] == found.citations[0].necessity
    assert Citations.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: r["citations"][0]["sources"].append(99), "citation 0"),
        (lambda r: r["citations"][1].update(proof="maybe"), "maybe"),
        (lambda r: r["citations"][0].update(log_prob="x"), "log_prob"),
        (lambda r: r["citations"][0]["part"].update(end=10**6), "outside the output"),
        (lambda r: r["citations"][0]["alone_kept"].append(0.0), "a number for each|numbers"),
        (lambda r: r.update(below=3), "below"),
        (lambda r: r.pop("removal"), "removal"),
        (lambda r: r.update(kind="diagnosis"), "diagnosis|kind"),
        (lambda r: r.update(schema=7), "schema"),
    ],
)
def test_a_damaged_record_is_refused(found, damage, said):
    record = json.loads(found.to_json())
    damage(record)
    with pytest.raises(jopa.InputFileError, match=said):
        Citations.from_dict(record)


def test_other_units_and_removals_can_be_asked_for(model):
    found = jopa.cite(
        QUESTION, DOCUMENTS, model=model, output=ANSWER, unit="document", removal="hide", below=0.99, max_sources=1
    )
    assert len(found.units) == 3 and found.removal == "hide"
    assert all(len(citation.sources) <= 1 for citation in found.citations)


def test_the_answer_is_generated_where_none_is_given(model):
    told = []
    callbacks = jopa.Callbacks(progress=lambda stage, done, total: told.append(stage))
    found = jopa.cite(
        QUESTION, DOCUMENTS[:2], model=model, output=jopa.Generation(max_new_tokens=4), callbacks=callbacks
    )
    assert len(found.output_ids) <= 4 and "citing" in told


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"documents": None}, "there are none"),
        ({"below": 0.0}, "above 0"),
        ({"below": 1.5}, "at most at 1"),
        ({"max_sources": 0}, "at least 1"),
        ({"removal": "burn"}, "unknown removal"),
        ({"options": jopa.PromptOptions(attribute="all")}, "documents alone"),
    ],
)
def test_what_cannot_be_cited_is_refused_before_any_work(model, settings, said):
    arguments = {"documents": DOCUMENTS, "model": model, "output": ANSWER} | settings
    with pytest.raises(jopa.SettingError, match=said):
        jopa.cite(QUESTION, **arguments)


def test_nothing_is_changed_by_how_it_is_shown(found):
    assert "sentences" in repr(found)
    assert replace(found, seconds=1.0) != found


def test_a_data_frame_has_a_row_a_source_unit(found):
    frame = jopa.to_frame(found)
    assert list(frame.columns) == ["unit", "text", "start", "end", "document", "cited_by"]
    assert list(frame.text) == [unit.text for unit in found.units]
    assert [unit for unit, sentences in enumerate(frame.cited_by) if sentences] == list(found.cited)
