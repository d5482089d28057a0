"""How hostile a prompt looks, and where: evidence from one model's own reaction to it.

    answer       the first tokens of the model's answer y, and their kind; nothing of its text is kept
    surprisal    −log p of each token of the prompt given what stands before it; in the same forward, the
                 log-probability of a fixed refusal
    units        the k units S that jointly cause y (method `jopa`, small budget): L(S) = log p(y|x) − log p(y|x without
                 S), and L of each alone
    span         the most surprising stretch: the one with the largest sum of surprisal above the prompt's mean. It is
                 removed as a whole: L(span), the refusal's log-probability, and the model answers again
    score        a logistic function of numbers made of these, between 0 and 1

Which numbers help, and how the coefficients were found, is in docs/detection.md; benchmarks/detection.py redoes it.
Nothing is learnt from the words of a prompt: a model that reacts alike to two prompts gives them the same score.

Knows the way of an explanation up to its output; reads no files.
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
from jopa.model.generation import require_room
from jopa.model.language_model import LanguageModel, versions
from jopa.model.loading import load
from jopa.ordering import NAT, ranked
from jopa.problem import Problem
from jopa.prompt.building import Prompt, build_prompt
from jopa.prompt.output import Output
from jopa.scoring.forward import TargetForward
from jopa.scoring.model_scorer import ModelScorer

SCHEMA = 1
BEGINNING = 120
"""Characters of the prompt that a record begins with."""
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
    forward = TargetForward(model, ids[: first - 1], targets, len(targets), batch_size=1)
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
