"""What was measured of a prompt, the numbers and the score made of it, and its JSON form.

Knows values alone: no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

from msgspec import Struct, field

from jopa.detection.answer_kinds import Kind
from jopa.detection.calibration import Calibration
from jopa.detection.scoring import TUNED_FOR, fitted_on, order, score
from jopa.detection.settings import DetectionConfig
from jopa.evaluation.metrics import probability_ratio
from jopa.json_values import Record, converted, plain
from jopa.prompt.building import Prompt
from jopa.prompt.records import Cost, Count, Nats, PromptRecord
from jopa.results.result import Result, printable, require_readable

SCHEMA = 2
BEGINNING = 120  # characters of the prompt that a record holds
WINDOW = 10
"""Tokens of a window of surprisal."""


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer.

    Attributes:
        kind: "refusal", "compliance" or "other".
        tokens: how many tokens it has, of at most `max_new_tokens`.
    """

    kind: Kind
    tokens: int


@dataclass(frozen=True)
class Segment:
    """Neighbouring units and the effect of removing them together.

    Attributes:
        start: its first unit.
        end: one past its last.
        effect: L of these units, in nats.
    """

    start: int
    end: int
    effect: float

    @property
    def size(self) -> int:
        """How many units it has."""
        return self.end - self.start


@dataclass(frozen=True)
class Evidence:
    """What was measured of a prompt. Segments and `units` are indices of the prompt's units.

    Attributes:
        answer: the model's answer to the whole prompt.
        log_prob: log p of that answer, in nats.
        refusal: log p of the fixed refusal, in nats.
        surprisals: of each unit, in nats, summed over its tokens.
        units: the units that jointly cause the answer, strongest first.
        joint: L of them together.
        individual: L of each of them alone.
        span: the suspicious span: the segment with the most surprise.
        span_answer: the answer without it.
        span_refusal: log p of the fixed refusal without it.
        tokens: how many tokens the prompt has, template left out.
        ffe: model work in full-forward equivalents, generation left out.
        seconds: wall-clock time in all.
    """

    answer: Answer
    log_prob: float
    refusal: float
    surprisals: tuple[float, ...]
    units: tuple[int, ...]
    joint: float
    individual: tuple[float, ...]
    span: Segment
    span_answer: Answer
    span_refusal: float
    tokens: int
    ffe: float
    seconds: float


@dataclass(frozen=True)
class Verdict(Result):
    """How hostile a prompt looks to a model, and what that is based on.

    Attributes:
        prompt: the prompt in the units of the evidence.
        evidence: what was measured.
        config: the settings that were used.
        model: id, revision, dtype and device of the model.
        versions: of jopa and its main dependencies.
        calibration: the threshold that the prompt is judged by; None for none.
    """

    _noun = "verdict"

    prompt: Prompt
    evidence: Evidence
    config: DetectionConfig
    model: dict[str, str | None]
    versions: dict[str, str]
    calibration: Calibration | None = None

    @property
    def order(self) -> float:
        """Any real number, larger for a reaction more like that to attacks; compare it within one model."""
        return order(numbers(self.evidence))

    @property
    def score(self) -> float | None:
        """Between 0 and 1 (docs/detection.md); None where the weights were fitted on another model."""
        return score(self.order) if self.calibrated else None

    @property
    def flagged(self) -> bool | None:
        """Whether the order lies above the calibration's threshold; None without a calibration."""
        return None if self.calibration is None else self.calibration.flags(self.order)

    @property
    def calibrated(self) -> bool:
        """Whether the score's weights were fitted on this model."""
        return fitted_on(self.model.get("id"))

    @property
    def span(self) -> tuple[int, int]:
        """The suspicious span as `[start, end)` in characters of the prompt."""
        span, units = self.evidence.span, self.prompt.units
        return units[span.start].start, units[span.end - 1].end

    @property
    def span_ratio(self) -> float:
        """PR without the suspicious span."""
        return _ratio(self.evidence.span.effect, self.evidence)

    def to_dict(self) -> Record:
        """All of the verdict as JSON holds it (schema 2): its summary, the prompt and what was measured."""
        p, e = self.prompt, self.evidence
        return {
            **self.summary(),
            "prompt": plain(PromptRecord(p.text, p.ids, p.units, p.fixed, p.rendered, p.sources)),
            "evidence": {
                "refusal": e.refusal,
                "surprisals": list(e.surprisals),
                "units": list(e.units),
                "span": [e.span.start, e.span.end],
                "span_refusal": e.span_refusal,
            },
        }

    def summary(self) -> Record:
        """What is kept of each of many verdicts: effects in nats, spans in characters; no text of any answer."""
        e, units = self.evidence, self.prompt.units
        start, end = self.span
        return {
            "schema": SCHEMA,
            "kind": "verdict",
            "score": self.score,
            "order": self.order,
            "calibrated": self.calibrated,
            "flagged": self.flagged,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "tuned_for": TUNED_FOR,
            "beginning": self.prompt.text[:BEGINNING],
            "answer": {**asdict(e.answer), "log_prob": e.log_prob},
            "units": [
                {"text": units[unit].text, "start": units[unit].start, "end": units[unit].end, "effect": effect}
                for unit, effect in zip(e.units, e.individual, strict=True)
            ],
            "joint": e.joint,
            "synergy": e.joint - math.fsum(e.individual),
            "probability_ratio": _ratio(e.joint, e),
            "span": {"start": start, "end": end, "text": self.prompt.text[start:end], "effect": e.span.effect},
            "without_span": {**asdict(e.span_answer), "probability_ratio": self.span_ratio},
            "numbers": numbers(e),
            "tokens": e.tokens,
            "looking": self.config.to_dict(),
            "model": self.model,
            "ffe": e.ffe,
            "seconds": e.seconds,
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, record: Record) -> Verdict:
        """Rebuild a verdict from `to_dict`'s form, of this schema or the one before; a summary does not hold enough.

        The order is computed from what was measured, by the present weights. A calibration of other weights is left
        out: its threshold says nothing of this order.
        """
        if record.get("schema") != 1:  # which lacks the order and the calibration; nothing of it is read otherwise
            require_readable(record, SCHEMA, "this verdict")
        form = converted(record, _VerdictRecord, "this verdict")
        measured, prompt = form.evidence, form.prompt
        evidence = Evidence(
            answer=Answer(form.answer.kind, form.answer.tokens),
            log_prob=form.answer.log_prob,
            refusal=measured.refusal,
            surprisals=measured.surprisals,
            units=measured.units,
            joint=form.joint,
            individual=tuple(unit.effect for unit in form.units),
            span=Segment(*measured.span, form.span.effect),
            span_answer=form.without_span,
            span_refusal=measured.span_refusal,
            tokens=form.tokens,
            ffe=form.ffe,
            seconds=form.seconds,
        )
        built = Prompt(prompt.text, prompt.ids, prompt.units, "token", prompt.fixed, prompt.rendered, prompt.sources)
        calibration = None if form.calibration is None else Calibration.from_dict(form.calibration, "this verdict")
        if calibration is not None and not calibration.has_present_weights:
            calibration = None
        return cls(built, evidence, form.config, form.model, form.versions, calibration)

    def __repr__(self) -> str:
        start, end = self.span
        how = f"order {self.order:.2f}, no probability" if self.score is None else f"score {self.score:.2f} from 0 to 1"
        flagged = {None: "", True: ", flagged", False: ", not flagged"}[self.flagged]
        return (
            f"<Verdict: {how}{flagged}, answer {self.evidence.answer.kind}, most "
            f"surprising text {self.prompt.text[start:end][:24]!r}; {printable(self.model.get('id'))}>"
        )


class _AnswerRecord(Struct, frozen=True):
    """The answer as JSON has it."""

    kind: Kind
    tokens: Count
    log_prob: Nats


class _EffectRecord(Struct, frozen=True):
    """What is read of a unit or span: its effect in nats."""

    effect: Nats


class _EvidenceRecord(Struct, frozen=True):
    """What was measured, beside what the summary holds."""

    refusal: Nats
    surprisals: tuple[Nats, ...]
    units: tuple[Count, ...]
    span: tuple[Count, Count]
    span_refusal: Nats


class _VerdictRecord(Struct, frozen=True):
    """What is read of a verdict's JSON form, with the types and ranges that are checked."""

    kind: Literal["verdict"]
    prompt: PromptRecord
    evidence: _EvidenceRecord
    answer: _AnswerRecord
    units: tuple[_EffectRecord, ...]
    span: _EffectRecord
    without_span: Answer
    joint: Nats
    tokens: Count
    config: DetectionConfig = field(name="looking")
    model: dict[str, str | None]
    ffe: Cost
    seconds: Cost
    versions: dict[str, str]
    calibration: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        n_units, (start, end) = len(self.prompt.units), self.evidence.span
        if len(self.evidence.surprisals) != n_units:
            raise ValueError(f"'surprisals' must have {n_units} numbers, got {len(self.evidence.surprisals)}")
        if len(self.units) != len(self.evidence.units) or any(i >= n_units for i in self.evidence.units):
            raise ValueError(f"'units' must be {len(self.units)} units below {n_units}")
        if not start < end <= n_units:
            raise ValueError(f"the span {start}:{end} lies outside the prompt's {n_units} units")


def numbers(evidence: Evidence) -> dict[str, float]:
    """What a score can be made of, one number each; docs/detection.md says which of them help.

    Surprisals are in nats a unit (nearly always a token), effects in nats for each token of the answer.
    """
    e = evidence
    n_units, n_answer = len(e.surprisals), max(1, e.answer.tokens)
    total = math.fsum(e.surprisals)
    inside = math.fsum(e.surprisals[e.span.start : e.span.end])
    outside = (total - inside) / max(1, n_units - e.span.size)
    return {
        "tokens": float(e.tokens),
        "surprisal": total / n_units,
        "window": max(window_means(e.surprisals)),
        "spread": math.sqrt(math.fsum((value - total / n_units) ** 2 for value in e.surprisals) / n_units),
        "span_surprisal": inside / e.span.size - outside,
        "span_effect": e.span.effect / n_answer,
        "contiguity": contiguity(e.units, n_units),
        "unit_effect": e.joint / n_answer,
        "unit_synergy": (e.joint - math.fsum(e.individual)) / n_answer,
        "confidence": e.log_prob / n_answer,
        "refusal": e.refusal,
        "refusal_without_span": e.span_refusal - e.refusal,
        "flip": float(e.answer.kind != e.span_answer.kind),
    }


def window_means(surprisals: Sequence[float], width: int = WINDOW) -> list[float]:
    """The mean over each run of `width` neighbours; over all of a shorter prompt."""
    width = min(width, len(surprisals))
    sums = [0.0, *accumulate(surprisals)]
    return [(sums[i + width] - sums[i]) / width for i in range(len(surprisals) - width + 1)]


def contiguity(units: Sequence[int], n_units: int) -> float:
    """1 − the distance from the first to the last unit over what it is on average for units drawn at random.

    k of n units drawn without replacement are (n + 1)(k − 1)/(k + 1) apart on average. 0 as at random, below 0 further
    apart; 0 for a single unit.
    """
    k = len(units)
    expected = (n_units + 1) * (k - 1) / (k + 1)
    return 1 - (max(units) - min(units)) / expected if expected else 0.0


def _ratio(effect: float, evidence: Evidence) -> float:
    return probability_ratio(0.0, -effect, max(1, evidence.answer.tokens))
