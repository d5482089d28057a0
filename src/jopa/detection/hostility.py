"""How hostile a prompt looks, and where: evidence from one model's own reaction to it.

    answer       the first tokens of the model's answer y, and their kind; nothing of its text is kept
    surprisal    −log p of each token of the prompt given what stands before it; in the same forward, the
                 log-probability of a fixed refusal
    units        the k units S that jointly cause y (method `joint`, small budget):
                 L(S) = log p(y|x) − log p(y|x without S), and L of each alone
    span         the most surprising run of tokens: the one with the largest sum of surprisal above the prompt's mean.
                 It is removed as a whole: L(span), the refusal's log-probability, and the model answers again
    order        a weighted sum of numbers made of these; `score`, its logistic function, for the model that the
                 weights were fitted on

Which numbers help, and how the coefficients were found, is in docs/detection.md; analysis/detection.py redoes it.
The words of a prompt are not used: two prompts with the same reaction of the model get the same score.

Prepares prompt and output as an explanation does; reads no files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from jopa.detection.answer_kinds import REFUSAL, kind_of
from jopa.detection.calibration import Calibration
from jopa.detection.settings import DetectionConfig
from jopa.detection.surprisal import read_surprisals
from jopa.detection.verdict import Answer, Evidence, Segment, Verdict
from jopa.errors import PromptError
from jopa.methods.joint.search import JointSearch
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel, versions
from jopa.ordering import NAT, ranked
from jopa.preparation import loaded, prepare_output, prepare_prompt, require_log_probs, require_room
from jopa.problem import Problem
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.scoring.protocols import Model


def detect(
    prompt: str,
    *,
    model: Model | str | Path | None = None,
    config: DetectionConfig | None = None,
    calibration: Calibration | None = None,
) -> Verdict:
    """Say how hostile a prompt looks from how a model reacts to it.

    Args:
        prompt: a text.
        model: a loaded model, or what `load` takes; None for the bundled one.
        config: the settings; by default those of the calibration.
        calibration: a threshold of the caller's own, made for this model; see `calibrate_detection`.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    config = config or (calibration.config if calibration else DetectionConfig())
    language_model = loaded(model)
    require_log_probs(language_model, "detect")
    if calibration is not None:
        calibration.require_same(language_model.identity, config)
    built = read_prompt(language_model, prompt, config)
    evidence = gather(language_model, built, config)
    return Verdict(built, evidence, config, language_model.identity, versions(), calibration)


def read_prompt(model: Model, text: str, config: DetectionConfig) -> Prompt:
    """The prompt in token units.

    Raises:
        PromptError: it is empty, too long, or one token alone.
    """
    prompt = prepare_prompt(model, text, config.options, unit="token")
    if len(prompt.ids) > config.most_tokens:
        raise PromptError(
            f"the prompt has {len(prompt.ids)} tokens with its template, more than the limit of {config.most_tokens}; "
            "shorten it or raise the limit"
        )
    if len(prompt.ids) == len(prompt.units) == 1:
        raise PromptError("a prompt of one token without a chat template cannot be judged: nothing is left without it")
    require_room(model, prompt, config.max_new_tokens)
    return prompt


def gather(model: Model, prompt: Prompt, config: DetectionConfig) -> Evidence:
    """Measure how a model reacts to a prompt.

    Args:
        model: the language model.
        prompt: in units as small as the span that is looked for: tokens.
        config: the settings.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    started = time.perf_counter()
    refusal_ids = model.encode_continuation(REFUSAL)
    surprisals, refusal, forwards = read_surprisals(model, prompt, refusal_ids)
    refused = prepare_output(model, prompt, output=_output(model, refusal_ids)).scorer("delete")
    span = most_surprising_run(surprisals)
    gone = {position for unit in prompt.units[slice(*span)] for position in unit.positions}
    rest = [token for position, token in enumerate(prompt.ids) if position not in gone]
    said, said_without, *_ = *_answers(model, [ids for ids in (list(prompt.ids), rest) if ids], config), ()
    # If the model stops at once, its answer is the stop token, which can be attributed like any other.
    output = _output(model, said or tuple(sorted(getattr(model, "stop_ids", ())))[:1])
    scorer = prepare_output(model, prompt, output=output).scorer("delete")
    problem = Problem(scorer)
    whole = problem.log_prob()

    k = min(config.k, max(1, problem.n_units - 1))
    found = JointSearch(budget=config.budget).run(problem, k)
    together, without_span, *alone = (
        whole - log_prob
        for log_prob in problem.log_probs([found.removed, range(*span), *([unit] for unit in found.removed)])
    )
    by_effect = ranked(alone, least_scale=NAT)
    units = tuple(found.removed[i] for i in by_effect)
    span_refusal = float(refused.log_probs(problem.keep_mask(range(*span))[None]).double().sum())
    return Evidence(
        answer=_answer(model, said),
        log_prob=whole,
        refusal=refusal,
        surprisals=surprisals,
        units=units,
        joint=together,
        individual=tuple(alone[i] for i in by_effect),
        span=Segment(*span, without_span),
        span_answer=_answer(model, said_without),
        span_refusal=span_refusal,
        tokens=sum(len(unit.positions) for unit in prompt.units),
        ffe=forwards + problem.ffe + refused.ffe,
        seconds=time.perf_counter() - started,
    )


def most_surprising_run(surprisals: Sequence[float]) -> tuple[int, int]:
    """The run `[start, end)` with the largest sum of surprisal above the mean; the first of equals."""
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


def _answers(model: Model, prompts: Sequence[list[int]], config: DetectionConfig) -> list[tuple[int, ...]]:
    """What a model answers; here together, because a step of two rows takes hardly longer than a step of one."""
    if not isinstance(model, LanguageModel):
        return [model.generate_ids(ids, Generation(config.max_new_tokens)) for ids in prompts]
    import torch

    inputs = [{"input_ids": torch.tensor([ids], device=model.device)} for ids in prompts]
    return [tuple(ids) for ids in model.generate_batch(inputs, max_new_tokens=config.max_new_tokens)]


def _output(model: Model, ids: tuple[int, ...]) -> Output:
    return Output(ids, model.decode(ids), (0, len(ids)))


def _answer(model: Model, ids: tuple[int, ...]) -> Answer:
    return Answer(kind_of(model.decode(ids)), len(ids))
