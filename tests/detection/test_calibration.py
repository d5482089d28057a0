"""A threshold from harmless prompts: its rate and interval against scipy, and what is refused."""

import math
import random
from functools import partial

import pytest

import jopa
import tiny_models
from jopa.detection import scoring, screening
from jopa.detection.calibration import Calibration, clopper_pearson, set_threshold
from jopa.detection.screening import ScreeningPrompt, calibrate_detection, screen
from jopa.detection.settings import DetectionConfig

MODEL: dict[str, str | None] = {"id": "some/model", "revision": "1", "dtype": "float32", "device": "cpu"}
CONFIG = DetectionConfig()
QUICK = DetectionConfig(budget=4, max_new_tokens=3)
PROMPTS = [
    f"write a story about {a} and {b}"
    for a in ("rain", "birds", "time", "people", "doctor")
    for b in tiny_models.WORDS[:4]
]


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (3, 37), (19, 20), (20, 20), (40, 1000)])
def test_the_interval_is_scipys(k, n):
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = scipy_stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_threshold_keeps_its_rate_on_further_prompts():
    drawn, alarms, draws = random.Random(1), 0, 4000
    for _ in range(draws):
        orders = [drawn.gauss(0, 1) for _ in range(39)]
        alarms += set_threshold(orders, rate=0.1, model=MODEL, config=CONFIG).flags(drawn.gauss(0, 1))
    assert alarms / draws == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / draws))  # (39 + 1) · 0.1 is whole: exactly 0.1


def test_what_lies_above_the_threshold_is_counted():
    found = set_threshold([float(i) for i in range(40)], rate=0.1, model=MODEL, config=CONFIG)
    assert found.threshold == 36.0
    assert found.flagged == 3
    assert found.interval == clopper_pearson(3, 40)
    assert not found.flags(36.0) and found.flags(36.1)
    assert "40 harmless prompts" in found.statement and "interval 1.6 % to 20.4 %" in found.statement
    assert "at most 10 % of harmless prompts are flagged; 3 of these 40 are" in found.statement


def test_equal_orders_are_never_flagged():
    found = set_threshold([1.0] * 30, rate=0.05, model=MODEL, config=CONFIG)
    assert found.flagged == 0
    assert not found.flags(1.0)


@pytest.mark.parametrize(
    ("n", "rate", "message"),
    [
        (19, 0.2, "needs at least 20 different harmless prompts that can be judged, got 19"),
        (98, 0.01, "0.01 needs at least 99 different harmless"),
        (50, 0.0, "must be above 0 and below 1, got 0"),
        (50, 1.5, "must be above 0 and below 1"),
    ],
)
def test_too_few_prompts_and_impossible_rates_are_refused(n, rate, message):
    with pytest.raises(jopa.SettingError, match=message):
        set_threshold([0.0] * n, rate=rate, model=MODEL, config=CONFIG)


def test_a_file_gives_the_calibration_back(tmp_path):
    found = set_threshold([float(i) for i in range(25)], rate=0.05, model=MODEL, config=CONFIG)
    found.save(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == found
    (tmp_path / "other.json").write_text('{"kind": "verdict"}')
    with pytest.raises(jopa.InputFileError, match="is no calibration"):
        Calibration.read(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text((tmp_path / "c.json").read_text().replace('"rate": 0.05', '"rate": "x"'))
    with pytest.raises(jopa.InputFileError, match="rate"):
        Calibration.read(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (MODEL | {"id": "other"}, CONFIG, "id some/model, now other"),
        (MODEL | {"dtype": "bfloat16"}, CONFIG, "dtype float32, now bfloat16"),
        (MODEL, DetectionConfig(budget=9), "budget 8, now 9"),
    ],
)
def test_another_model_or_other_settings_are_refused(model, config, message):
    found = set_threshold([0.0] * 25, model=MODEL, config=CONFIG)
    found.require_same(MODEL | {"device": "cuda"}, CONFIG)
    with pytest.raises(jopa.SettingError, match=message):
        found.require_same(model, config)


def test_a_calibration_that_goes_on_after_the_weights_changed_is_that_of_the_new_ones(tmp_path, monkeypatch):
    llama = tiny_models.language_model("llama")
    old = calibrate_detection(PROMPTS, model=llama, rate=0.2, config=QUICK, folder=tmp_path)
    monkeypatch.setattr(scoring, "BIAS", scoring.BIAS + 50.0)
    monkeypatch.setattr(screening, "detect", None)  # the model's reactions are on record
    new = calibrate_detection(PROMPTS, model=llama, rate=0.2, config=QUICK, folder=tmp_path)
    assert new.threshold == pytest.approx(old.threshold + 50.0)
    assert new.weights == scoring.weights_digest() != old.weights
    with pytest.raises(jopa.SettingError, match="the weights of the score"):
        old.require_same(llama.identity, QUICK)


def test_prompts_are_judged_by_the_threshold_of_harmless_ones(tmp_path):
    llama = tiny_models.language_model("llama")
    found = calibrate_detection(PROMPTS, model=llama, rate=0.2, config=QUICK, folder=tmp_path)
    orders = sorted(
        record["order"]
        for record in screen(
            llama, [ScreeningPrompt(f"prompt {i}", p) for i, p in enumerate(PROMPTS, 1)], tmp_path, config=QUICK
        )
    )
    assert found.threshold == orders[math.ceil(21 * 0.8) - 1]
    verdict = jopa.detect(PROMPTS[0], model=llama, calibration=found)  # looks as closely as the calibration's prompts
    assert verdict.config == QUICK
    assert verdict.score is None  # the weights were fitted on another model
    assert verdict.flagged == (verdict.order > found.threshold)
    assert jopa.Verdict.from_json(verdict.to_json()) == verdict
    asked = [ScreeningPrompt("prompt 1", PROMPTS[0])]
    known = []
    judge = partial(screen, llama, asked, tmp_path, config=QUICK)
    (record,) = judge(calibration=found, on_record=lambda _, there: known.append(there))
    assert known == [True]  # judged anew, without the model
    assert record["flagged"] == verdict.flagged
    assert judge(calibration=found) == [record]
    assert judge()[0]["flagged"] is None


def test_a_prompt_that_is_repeated_does_not_make_up_for_others(monkeypatch):
    """A file copied behind itself would otherwise promise a rate that half of its prompts cannot show."""
    monkeypatch.setattr(screening, "detect", None)  # refused before any work
    with pytest.raises(jopa.SettingError, match=r"needs at least 20 different harmless prompts .* got 10"):
        calibrate_detection(PROMPTS[:10] * 2, model=tiny_models.language_model("llama"), rate=0.2, config=QUICK)
