"""The score of a prompt, and what it was tuned for."""

from __future__ import annotations

import math
from collections.abc import Mapping

BIAS = -6.950
WEIGHTS = {
    **{"surprisal": 0.022, "window": 0.671, "span_surprisal": -0.213, "spread": 0.188},
    **{"confidence": -2.996, "flip": 3.054},
}
"""Of the score, for the bundled model; the development half of benchmarks/detection.py gave them."""
FITTED_ON = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose reactions the weights were fitted on."""
TUNED_FOR = "optimised suffixes and jailbreak templates; it was not shown to find attacks in fluent language"
"""What the score finds, and what it was not shown to find."""


def is_calibrated(model_id: str | None) -> bool:
    """Whether the weights were fitted on this model."""
    return model_id == FITTED_ON


def score(self) -> float:
        """Between 0 and 1; see docs/detection.md for how to read it."""
        return score(numbers(self.evidence))

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
        looking: how closely to look.

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
    prompt = build_prompt(model.tokenizer, text, unit="token")
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
        looking: how closely to look.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    import torch

    started = time.perf_counter()
    surprisals, refusal, forwards = _read(model, prompt)
    refused = ModelScorer(model, prompt, _output(model, model.encode_continuation(REFUSAL)), "delete")
    said = model.generate(
        {"input_ids": torch.tensor([prompt.ids], device=model.device)}, max_new_tokens=config.max_new_tokens
    )
    # A model that stops at once has said its stop token, and that can be attributed as any other.
    scorer = ModelScorer(model, prompt, _output(model, said or tuple(sorted(model.stop_ids))[:1]), "delete")
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
    said_without = model.generate(scorer.removed_inputs(kept), max_new_tokens=config.max_new_tokens)
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


def score(numbers: Mapping[str, float]) -> float:
    """The logistic function of a weighted sum, between 0 and 1."""
    total = BIAS + math.fsum(weight * numbers[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))
