"""How hostile a prompt looks, and where: evidence from one model's own reaction to it.

    answer       the first tokens of the model's answer y, and their kind; nothing of its text is kept
    surprisal    −log p of each token of the prompt given what stands before it; in the same forward, the
                 log-probability of a fixed refusal
    units        the k units S that jointly cause y (method `jopa`, small budget): L(S) = log p(y|x) − log p(y|x without
                 S), and L of each alone
    span         the most surprising stretch: the one with the largest sum of surprisal above the prompt's mean. It is
                 removed as a whole: L(span), the refusal's log-probability, and the model answers again
    score        a logistic function of numbers made of these, between 0 and 1

Which numbers help, and how the coefficients were found, is in docs/detection.md; analysis/detection.py redoes it.
Nothing is learnt from the words of a prompt: a model that reacts alike to two prompts gives them the same score.

Prepares prompt and output as an explanation does; reads no files.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from jopa.detection.answer_kinds import REFUSAL, Kind, kind_of
from jopa.detection.scoring import TUNED_FOR, is_calibrated, score
from jopa.errors import PromptError, ScoringError, SettingError
from jopa.evaluation.metrics import probability_ratio
from jopa.methods.joint.search import JointSearch
from jopa.model.language_model import LanguageModel, versions
from jopa.model.loading import load
from jopa.ordering import NAT, ranked
from jopa.preparation import prepare_output, prepare_prompt, require_room
from jopa.problem import Problem
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.scoring.forward import TargetForward

SCHEMA = 1
BEGINNING = 120  # characters of the prompt that a record holds
WINDOW = 10
"""Tokens of a window of surprisal."""
MOST_TOKENS = 1024
"""The longest prompt, in tokens with its template, unless told otherwise: a prompt costs some twelve forwards."""


@dataclass(frozen=True)
class DetectionConfig:
    """How closely to look at a prompt.

    Attributes:
        k: how many units to attribute the answer to; fewer where the prompt has fewer.
        budget: what the search for them may spend, in full-forward equivalents.
        max_new_tokens: the most tokens of an answer.
        most_tokens: a longer prompt (tokens, template included) is refused.
    """

    k: int = 3
    budget: int = 8
    max_new_tokens: int = 16
    most_tokens: int = MOST_TOKENS

    def __post_init__(self) -> None:
        for name in ("k", "budget", "max_new_tokens", "most_tokens"):
            if (value := getattr(self, name)) < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")


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
class Stretch:
    """A run of neighbouring units and the effect of removing it.

    Attributes:
        start: its first unit.
        end: one past its last.
        effect: L of it, in nats.
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
    """What was measured of a prompt. Stretches and `units` index the prompt's units.

    Attributes:
        answer: the model's answer to the whole prompt.
        log_prob: log p of that answer, in nats.
        refusal: log p of the fixed refusal, in nats.
        surprisals: of each unit, in nats, summed over its tokens.
        units: the units that jointly cause the answer, strongest first.
        joint: L of them together.
        individual: L of each of them alone.
        span: the suspicious span: the most surprising stretch.
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
    span: Stretch
    span_answer: Answer
    span_refusal: float
    tokens: int
    ffe: float
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """How hostile a prompt looks to a model, and what that rests on.

    Attributes:
        prompt: the prompt in the units that the evidence speaks of.
        evidence: what was measured.
        looking: how closely.
        model: id, revision, dtype and device of the model.
        versions: of jopa and what it stands on.
    """

    prompt: Prompt
    evidence: Evidence
    config: DetectionConfig
    model: dict[str, str | None]
    versions: dict[str, str]

    @property
    def score(self) -> float:
        """Between 0 and 1; see docs/detection.md for how to read it."""
        return score(numbers(self.evidence))

    @property
    def calibrated(self) -> bool:
        """Whether the score's weights were fitted on this model."""
        return is_calibrated(self.model.get("id"))

    @property
    def span(self) -> tuple[int, int]:
        """The suspicious span as `[start, end)` in characters of the prompt."""
        span, units = self.evidence.span, self.prompt.units
        return units[span.start].start, units[span.end - 1].end

    @property
    def span_ratio(self) -> float:
        """PR without the suspicious span."""
        return _ratio(self.evidence.span.effect, self.evidence)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON holds it (schema 1): effects in nats, spans in characters; no text of any answer."""
        e, units = self.evidence, self.prompt.units
        start, end = self.span
        return {
            "schema": SCHEMA,
            "kind": "verdict",
            "score": self.score,
            "calibrated": self.calibrated,
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
            "looking": asdict(self.config),
            "model": self.model,
            "ffe": e.ffe,
            "seconds": e.seconds,
            "versions": self.versions,
        }

    def to_json(self) -> str:
        """The verdict as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)


def detect(
    prompt: str, *, model: LanguageModel | str | Path | None = None, config: DetectionConfig | None = None
) -> Verdict:
    """Say how hostile a prompt looks from how a model reacts to it.

    Args:
        prompt: a text.
        model: a loaded model, or what `load` takes; None for the bundled one.
        config: how closely to look.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    closely = config or DetectionConfig()
    language_model = model if isinstance(model, LanguageModel) else load(model)
    built = read_prompt(language_model, prompt, closely)
    evidence = gather(language_model, built, closely)
    return Verdict(built, evidence, closely, language_model.identity, versions())


def read_prompt(model: LanguageModel, text: str, config: DetectionConfig) -> Prompt:
    """The prompt in token units.

    Raises:
        PromptError: it is empty or too long.
    """
    prompt = prepare_prompt(model, text, unit="token")
    if len(prompt.ids) > config.most_tokens:
        raise PromptError(
            f"the prompt has {len(prompt.ids)} tokens with its template, more than the limit of {config.most_tokens}; "
            "shorten it or raise the limit"
        )
    require_room(model, len(prompt.ids), config.max_new_tokens)
    return prompt


def gather(model: LanguageModel, prompt: Prompt, config: DetectionConfig) -> Evidence:
    """Measure how a model reacts to a prompt.

    Args:
        model: the language model.
        prompt: in units as small as the span that is looked for: tokens.
        config: how closely to look.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    started = time.perf_counter()
    surprisals, refusal, forwards = _read(model, prompt)
    refusal_ids = model.encode_continuation(REFUSAL)
    refused = prepare_output(model, prompt, output=_output(model, refusal_ids)).scorer("delete")
    said = model.generate_ids(prompt.ids, max_new_tokens=config.max_new_tokens)
    # A model that stops at once has said its stop token, and that can be attributed as any other.
    output = _output(model, said or tuple(sorted(model.stop_ids))[:1])
    scorer = prepare_output(model, prompt, output=output).scorer("delete")
    problem = Problem(scorer)
    whole = problem.log_prob()

    k = min(config.k, max(1, problem.n_units - 1))
    found = JointSearch(budget=config.budget).run(problem, k)
    span = peak(surprisals)
    together, without_span, *alone = (
        whole - log_prob
        for log_prob in problem.log_probs([found.removed, range(*span), *([unit] for unit in found.removed)])
    )
    order = ranked(alone, least_scale=NAT)
    units = tuple(found.removed[i] for i in order)
    kept = problem.keep_mask(range(*span))
    span_refusal = float(refused.log_probs(kept[None]).double().sum())
    said_without = scorer.generate(kept, max_new_tokens=config.max_new_tokens)
    return Evidence(
        answer=_answer(model, said),
        log_prob=whole,
        refusal=refusal,
        surprisals=surprisals,
        units=units,
        joint=together,
        individual=tuple(alone[i] for i in order),
        span=Stretch(*span, without_span),
        span_answer=_answer(model, said_without),
        span_refusal=span_refusal,
        tokens=sum(len(unit.positions) for unit in prompt.units),
        ffe=forwards + problem.ffe + refused.ffe,
        seconds=time.perf_counter() - started,
    )


def peak(surprisals: Sequence[float]) -> tuple[int, int]:
    """The stretch `[start, end)` with the largest sum of surprisal above the mean; the first of equals."""
    mean = math.fsum(surprisals) / len(surprisals)
    best, span = -math.inf, (0, 1)
    total, start = 0.0, 0
    for i, value in enumerate(surprisals):
        if total <= 0:
            total, start = 0.0, i
        total += value - mean
        if total > best:
            best, span = total, (start, i + 1)
    return span


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


def _read(model: LanguageModel, prompt: Prompt) -> tuple[tuple[float, ...], float, float]:
    """Surprisal of each unit, log p of the fixed refusal, and what it cost in forwards of the prompt.

    The first token of a model without a template before it has no context: it gets the mean of the others.

    Raises:
        ScoringError: the model gives NaN or infinity for a token.
    """
    import torch

    refusal = model.encode_continuation(REFUSAL)
    ids = torch.tensor([*prompt.ids, *refusal])
    first = max(1, min(min(unit.positions) for unit in prompt.units))
    targets = ids[first:]
    forward = TargetForward(model, ids[: first - 1], targets, len(targets), longest=len(ids), batch_size=1)
    row = ids[None, forward.prefix().length : -1].to(model.device)
    with torch.no_grad():
        log_probs = forward({"input_ids": row}, [row.shape[1]])[0].double().cpu()
    if not log_probs.isfinite().all():
        raise ScoringError("the model gives NaN or infinity for a token of the prompt; try dtype float32")
    of_prompt, of_refusal = log_probs.split([len(targets) - len(refusal), len(refusal)])
    known = dict(enumerate((-of_prompt).tolist(), start=first))
    mean = -float(of_prompt.mean()) if len(of_prompt) else 0.0
    of_units = tuple(math.fsum(known.get(position, mean) for position in unit.positions) for unit in prompt.units)
    return of_units, float(of_refusal.sum()), forward.work.tokens / len(ids)


def _output(model: LanguageModel, ids: tuple[int, ...]) -> Output:
    return Output(ids, model.decode(ids), (0, len(ids)))


def _answer(model: LanguageModel, ids: tuple[int, ...]) -> Answer:
    return Answer(kind_of(model.decode(ids)), len(ids))
