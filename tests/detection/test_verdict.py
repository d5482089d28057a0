"""A Verdict's JSON is read back exactly, and shown with what the score was tuned for."""

from dataclasses import replace

import pytest

import jopa
import tiny_models
from jopa.detection import scoring
from jopa.detection.calibration import set_threshold
from jopa.detection.scoring import FITTED_ON, score
from jopa.detection.settings import DetectionConfig
from jopa.prompt.fixed_parts import FixedPart
from planted_evidence import EVIDENCE

PROMPT = "write a story about the doctor and his"


def verdict():
    prompt = jopa.build_prompt(tiny_models.tokenizer(True), PROMPT, unit="token", system="please tell me")
    return jopa.Verdict(prompt, EVIDENCE, DetectionConfig(k=2), {"id": "some/model"}, {"jopa": "9.9"})


def test_json_round_trip_is_exact():
    again = jopa.Verdict.from_json(verdict().to_json())
    assert again == verdict()
    assert again.to_json() == verdict().to_json()
    assert list(verdict().to_dict()["prompt"]["fixed"]) == [{"kind": "system", "text": "please tell me", "shown": True}]


def test_a_summary_holds_neither_the_prompt_nor_each_surprisal():
    record = verdict().summary()
    assert not {"prompt", "evidence"} & record.keys()
    with pytest.raises(jopa.InputFileError, match="missing required field 'prompt'"):
        jopa.Verdict.from_dict(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema must be 2, got 3"),
        ({"kind": "diagnosis"}, "kind"),
        (
            {"evidence": {"refusal": 0.0, "surprisals": [1.0], "units": [], "span": [0, 1], "span_refusal": 0.0}},
            "8 num",
        ),
        ({"units": []}, "'units' must be"),
        ({"joint": float("inf")}, "not finite"),
    ],
)
def test_a_json_that_is_no_verdict_is_refused(change, message):
    with pytest.raises(jopa.InputFileError, match=message):
        jopa.Verdict.from_dict(verdict().to_dict() | change)


def test_a_verdict_of_schema_1_is_read():
    old = verdict().to_dict() | {"schema": 1, "score": 0.4}
    for name in ("order", "flagged", "calibration"):
        del old[name]
    assert jopa.Verdict.from_dict(old) == verdict()


def test_a_threshold_of_other_weights_is_left_out(monkeypatch):
    orders = [verdict().order + 1.0] * 30
    threshold = set_threshold(orders, rate=0.05, model={"id": "some/model"}, config=DetectionConfig(k=2))
    judged = replace(verdict(), calibration=threshold)
    text = judged.to_json()
    assert judged.flagged is False and jopa.Verdict.from_json(text) == judged
    monkeypatch.setattr(scoring, "BIAS", scoring.BIAS + 50.0)
    again = jopa.Verdict.from_json(text)
    assert again.order == pytest.approx(threshold.threshold + 49.0)
    assert again.calibration is None and again.flagged is None
    assert "--calibrate" in again.to_html()


def test_the_page_shows_the_score_its_meaning_and_the_text():
    fitted = replace(verdict(), model={"id": FITTED_ON}).to_html()
    assert f"Score <strong>{score(verdict().order):.2f}</strong>, from 0 to 1." in fitted
    page = verdict().to_html(title="A strange prompt")
    assert f"Order <strong>{verdict().order:.2f}</strong>, an order and no probability." in page
    assert "Score" not in page
    assert "it was not shown to find attacks in fluent language" in page
    assert "not fitted on this model (some/model)" in page and "--calibrate" in page
    assert "<mark>about the</mark>" in page.replace("<mark> ", "<mark>")
    assert "please tell me" in page and "A strange prompt" in page
    assert "<html" not in verdict()._repr_html_()


def test_hostile_prompts_cannot_act():
    prompt = replace(verdict().prompt, fixed=(FixedPart("system", "<script>x</script>"),), rendered="<img src=x>\x1b")
    page = replace(verdict(), prompt=prompt).to_html()
    assert "<script" not in page and "<img" not in page and "\x1b" not in page


def test_the_page_and_the_fragment_say_whether_the_prompt_is_flagged():
    orders = [verdict().order - 1.0] * 30
    threshold = set_threshold(orders, rate=0.05, model={"id": "some/model"}, config=DetectionConfig(k=2))
    judged = replace(verdict(), calibration=threshold)
    for page in (judged.to_html(), judged._repr_html_()):
        assert f"Flagged: above the threshold {threshold.threshold:.2f}." in page
        assert "30 harmless prompts of yours" in page and "95 % interval 0.0 % to 11.6 %" in page
    assert "Not flagged" in replace(verdict(), calibration=replace(threshold, threshold=1e9)).to_html()


def test_one_line_and_a_row_a_unit():
    assert repr(verdict()).startswith("<Verdict: order ") and "\n" not in repr(verdict())
    pytest.importorskip("pandas")
    frame = verdict().to_frame()
    assert list(frame.surprisal) == list(EVIDENCE.surprisals)
    assert [i for i, inside in enumerate(frame.in_span) if inside] == [3, 4]
    assert frame["rank"][4] == 1


def test_numbers_that_nothing_could_be_computed_with_are_refused():
    record = verdict().to_dict()
    record["evidence"]["surprisals"][0] = 1e200
    with pytest.raises(jopa.InputFileError, match="this verdict: "):
        jopa.Verdict.from_dict(record)
