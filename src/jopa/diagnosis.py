"""What the answer makes of each request of a prompt: which has no measurable influence, and what each one drives.

Every unit (a request, by default a sentence) is removed alone, and all of them together; one evaluation gives the
log-probability of every token of the answer, so one evaluation a unit fills its row of the table.

    L({i})             log p(y|x) − log p(y|x without i): the individual effect, in nats, over all target tokens
    L(all)             the same with every unit removed: the joint effect of the whole prompt
    share of i         L({i}) / L(all). The shares and that of the synergy, (L(all) − Σ L({i})) / L(all), make 1.
                       A share is negative where removal makes the answer likelier. There are no shares where the
                       prompt as a whole does nothing that could be shared: PR(all) not below the band.
    PR of i            exp(−L({i}) / tokens)
    no influence       PR(i) lies in the band around 1, its ends included: none was measured, on this answer
    together           L of all units without influence, removed at once, against the sum of their single effects.
                       Only where the difference by itself leaves the band (`interaction`) do they stand in for one
                       another (more than the sum) or counteract (less); otherwise small effects add up.
    table[i][j]        the fall of the log-probability of sentence j of the answer when i is removed, in nats, summed
                       over the sentence's target tokens; divided by their number, nats per token
    i drives j         without i, j falls by `DRIVE_NATS` per token or more, and by `DRIVE_SHARE` or more of what it
                       falls without the unit that it needs most; ranked within each sentence

(Appendix A.4, "Benefit on Model Diagnosis", asks which request an answer overlooks; it gives no procedure.)

Prepares prompt and output as an explanation does; searches nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jopa.choices import Removal, checked_removal
from jopa.errors import SettingError
from jopa.evaluation.metrics import probability_ratio
from jopa.model.generation import Generation
from jopa.model.language_model import versions
from jopa.ordering import ranked
from jopa.preparation import Callbacks, loaded, prepare
from jopa.problem import Problem
from jopa.prompt.answer_parts import Part, sentences_of
from jopa.prompt.building import Message, Unit
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.request_guess import marked_requests
from jopa.prompt.segmentation import Span
from jopa.scoring.protocols import Model

SCHEMA = 2
BAND = (0.95, 1.05)
"""The PR within which a removal counts as having changed nothing, unless told otherwise."""
DRIVE_NATS = 0.2
"""The least fall of a sentence, in nats per token, for a unit to drive it: it is a fifth less likely per token."""
DRIVE_SHARE = 0.25
"""The least part of the largest fall of the same sentence for a further unit to drive it, too."""
ROUNDING = 1e-4
"""What log-probabilities are exact to, in nats per token."""


@dataclass(frozen=True)
class Diagnosis:
    """The effect of each unit of a prompt on each sentence of the answer, in nats; see the module's docstring.

    Attributes:
        model: id, revision, dtype and device of the model.
        prompt: the attributable text.
        input_ids: the model's whole input, template included.
        units: the requests: the removable parts of the prompt.
        output: the explained output's text.
        output_ids: its token ids.
        target: `[start, end)` of `output_ids`, the tokens whose probability counts.
        parts: the output's sentences that hold target tokens, in reading order; every target token is in one.
        removal: how units were removed: "delete", "zero" or "hide".
        band: the PR that counts as unchanged, from and to.
        log_prob: log p(y|x).
        log_prob_removed: log p(y|x without all units).
        table: for each unit the fall of log p of each part when the unit alone is removed, summed over its tokens.
        together: L with all units without influence removed at once; None unless there are two or more.
        requests: the units that are requests.
        requests_given: whether the caller said which; otherwise they are guessed.
        cut_off: whether the answer ended at its token limit.
        seed: of the generation.
        evaluations: masks scored.
        ffe: model work in full-forward equivalents.
        seconds: wall-clock time of the scoring.
        versions: of jopa and its main dependencies.
    """

    model: dict[str, str | None]
    prompt: str
    input_ids: tuple[int, ...]
    units: tuple[Unit, ...]
    output: str
    output_ids: tuple[int, ...]
    target: tuple[int, int]
    parts: tuple[Part, ...]
    removal: Removal
    band: tuple[float, float]
    log_prob: float
    log_prob_removed: float
    table: tuple[tuple[float, ...], ...]
    together: float | None
    requests: tuple[int, ...]
    requests_given: bool
    cut_off: bool
    seed: int
    evaluations: int
    ffe: float
    seconds: float
    versions: dict[str, str]

    @property
    def n_tokens(self) -> int:
        """How many tokens count."""
        return self.target[1] - self.target[0]

    @property
    def joint(self) -> float:
        """L(all): the effect of removing every unit together."""
        return self.log_prob - self.log_prob_removed

    @property
    def individual(self) -> tuple[float, ...]:
        """L({i}) of each unit."""
        return tuple(map(math.fsum, self.table))

    @property
    def synergy(self) -> float:
        """L(all) − Σ L({i}): what the units do together beyond what each does alone."""
        return self.joint - math.fsum(self.individual)

    @property
    def joint_ratio(self) -> float:
        """PR with every unit removed."""
        return _ratio(self.joint, self.n_tokens)

    @property
    def ratios(self) -> tuple[float, ...]:
        """PR of each unit removed alone."""
        return tuple(_ratio(effect, self.n_tokens) for effect in self.individual)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """L({i}) / L(all) of each unit; None unless removing all brings PR below the band."""
        return tuple(effect / self.joint for effect in self.individual) if self.joint_ratio < self.band[0] else None

    @property
    def without_influence(self) -> tuple[int, ...]:
        """The units whose removal leaves PR within the band."""
        return units_without_influence(self.table, self.n_tokens, self.band)

    @property
    def together_ratio(self) -> float | None:
        """PR with all units without influence removed at once."""
        return None if self.together is None else _ratio(self.together, self.n_tokens)

    @property
    def interaction(self) -> int:
        """1 if these units do more at once than their single effects add up to, −1 if less, 0 if neither is shown.

        The difference must leave the band by itself and be larger than rounding.
        """
        if self.together is None:
            return 0
        excess = self.together - math.fsum(self.individual[i] for i in self.without_influence)
        ratio = _ratio(excess, self.n_tokens)
        if abs(excess) <= ROUNDING * self.n_tokens or self.band[0] <= ratio <= self.band[1]:
            return 0
        return 1 if excess > 0 else -1

    @property
    def per_token(self) -> tuple[tuple[float, ...], ...]:
        """The table in nats per token of each part."""
        return tuple(
            tuple(effect / (part.end - part.start) for effect, part in zip(row, self.parts, strict=True))
            for row in self.table
        )

    @property
    def drive_threshold(self) -> tuple[float, float]:
        """The least fall that drives a sentence, in nats per token, and the least part of its largest fall."""
        return DRIVE_NATS, DRIVE_SHARE

    @property
    def drivers(self) -> tuple[tuple[int, ...], ...]:
        """For each part the units that drive it, the strongest first."""
        columns = zip(*self.per_token, strict=True)
        return tuple(
            tuple(i for i in ranked(column) if column[i] >= max(DRIVE_NATS, DRIVE_SHARE * max(column)))
            for column in columns
        )

    @property
    def drives(self) -> tuple[tuple[int, ...], ...]:
        """For each unit the parts that it drives, the one that falls most per token first."""
        return tuple(
            tuple(part for part in ranked(row) if i in self.drivers[part]) for i, row in enumerate(self.per_token)
        )

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON holds it (schema 2); indices are those of `units` and `parts`."""
        return {
            "schema": SCHEMA,
            "kind": "diagnosis",
            "model": self.model,
            "prompt": {
                "text": self.prompt,
                "ids": list(self.input_ids),
                "units": [{**asdict(unit), "positions": list(unit.positions)} for unit in self.units],
            },
            "output": {
                "text": self.output,
                "ids": list(self.output_ids),
                "target": list(self.target),
                "parts": [asdict(part) for part in self.parts],
            },
            "removal": self.removal,
            "band": list(self.band),
            "log_prob": self.log_prob,
            "log_prob_removed": self.log_prob_removed,
            "joint": self.joint,
            "joint_ratio": self.joint_ratio,
            "synergy": self.synergy,
            "individual": list(self.individual),
            "ratios": list(self.ratios),
            "shares": None if self.shares is None else list(self.shares),
            "requests": list(self.requests),
            "requests_given": self.requests_given,
            "cut_off": self.cut_off,
            "without_influence": list(self.without_influence),
            "together": self.together,
            "together_ratio": self.together_ratio,
            "interaction": self.interaction,
            "drives": [list(parts) for parts in self.drives],
            "drivers": [
                [{"unit": i, "nats_per_token": self.per_token[i][part]} for i in units]
                for part, units in enumerate(self.drivers)
            ],
            "table": [list(row) for row in self.table],
            "per_token": [list(row) for row in self.per_token],
            "seed": self.seed,
            "evaluations": self.evaluations,
            "ffe": self.ffe,
            "seconds": self.seconds,
            "versions": self.versions,
        }

    def to_json(self) -> str:
        """The diagnosis as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows."""
        from jopa.reports.diagnosis_html import diagnosis_html  # imported here: reports are above this layer

        return diagnosis_html(self, standalone=False)


def diagnose(
    prompt: str | Sequence[Message],
    *,
    model: Model | str | Path | None = None,
    unit: str | Sequence[Span] = "sentence",
    requests: Sequence[int] | None = None,
    removal: str = "delete",
    band: tuple[float, float] = BAND,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    callbacks: Callbacks | None = None,
) -> Diagnosis:
    """Find which requests of a prompt the model's answer depends on, and which sentences each influences.

    Scores the whole prompt, each unit removed alone, all units removed, and all units without influence removed.

    Args:
        prompt: a text, or chat messages whose last user message is diagnosed.
        model: a loaded model, or what `load` takes; None for the bundled one.
        unit: what a request is: "sentence", "line", "paragraph", "word", "token", or character spans of the prompt.
        requests: which units are requests, as indices from 0; guessed from their words by default.
        removal: "delete", "zero" or "hide".
        band: the PR, from and to, within which a removal counts as having changed nothing; 1 lies in it.
        output: as for `explain`.
        target: as for `explain`.
        options: as for `explain`.
        callbacks: as for `explain`; `progress` and `on_text` are called.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    checked = checked_removal(removal)
    if not 0 < band[0] <= 1 <= band[1]:
        raise SettingError(f"the band must reach from above 0 to 1 or more and hold 1, got {band[0]:g} to {band[1]:g}")
    callbacks = callbacks or Callbacks()
    prepared = prepare(loaded(model), prompt, options, unit=unit, output=output, target=target, callbacks=callbacks)
    marked = marked_requests([unit.text for unit in prepared.prompt.units], requests)
    generated = output is None or isinstance(output, Generation)
    if callbacks.progress:
        callbacks.progress("diagnosing", 0, None)
    language_model, built, said = prepared.model, prepared.prompt, prepared.output
    return measured(
        prepared.problem(checked),
        sentences_of(said, language_model.decode),
        target=said.target,
        band=(float(band[0]), float(band[1])),
        model=language_model.identity,
        prompt=built.text,
        input_ids=built.ids,
        units=built.units,
        output=said.text,
        output_ids=said.ids,
        removal=checked,
        seed=prepared.generation.seed,
        versions=versions(),
        requests=marked,
        requests_given=requests is not None,
        cut_off=generated and len(said.ids) >= prepared.generation.max_new_tokens,
    )


def measured(
    problem: Problem, parts: tuple[Part, ...], *, target: tuple[int, int], band: tuple[float, float], **known: Any
) -> Diagnosis:
    """Score everything that a diagnosis needs.

    Args:
        problem: gives the log-probability of each target token.
        parts: tile the target.
        target: `[start, end)`, the tokens whose probability counts.
        band: the PR that counts as unchanged.
        known: the fields of the `Diagnosis` that need no score.
    """
    started = time.perf_counter()
    lengths, n_tokens = [part.end - part.start for part in parts], target[1] - target[0]
    each = ([unit] for unit in range(problem.n_units))
    whole, without_all, *alone = problem.token_log_probs([(), range(problem.n_units), *each]).double()
    table = tuple(tuple(float(part.sum()) for part in (whole - row).split(lengths)) for row in alone)
    log_prob = float(whole.sum())
    silent = units_without_influence(table, n_tokens, band)
    together = log_prob - problem.log_prob(silent) if len(silent) > 1 else None
    return Diagnosis(
        parts=parts,
        target=target,
        band=band,
        log_prob=log_prob,
        log_prob_removed=float(without_all.sum()),
        table=table,
        together=together,
        evaluations=problem.evaluations,
        ffe=problem.ffe,
        seconds=time.perf_counter() - started,
        **known,
    )


def units_without_influence(
    table: Sequence[Sequence[float]], n_tokens: int, band: tuple[float, float]
) -> tuple[int, ...]:
    """The units whose removal leaves PR within the band, its ends included."""
    return tuple(i for i, row in enumerate(table) if band[0] <= _ratio(math.fsum(row), n_tokens) <= band[1])


def _ratio(effect: float, n_tokens: int) -> float:
    """PR of an effect in nats."""
    return probability_ratio(0.0, -effect, n_tokens)
