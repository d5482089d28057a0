"""What was measured of an answer's requests, what follows from it, and its JSON form.

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

Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from msgspec import Struct

from jopa.choices import Removal
from jopa.evaluation.metrics import probability_ratio
from jopa.json_values import Record, converted, plain
from jopa.ordering import ranked
from jopa.prompt.answer_parts import Part
from jopa.prompt.building import Unit
from jopa.prompt.fixed_parts import FixedPart
from jopa.prompt.records import Cost, Count, Nats, OutputRecord, PromptRecord, result_fields
from jopa.results.result import Result, printable, require_readable

SCHEMA = 2
DRIVE_NATS = 0.2
"""The least fall of a sentence, in nats per token, for a unit to drive it: it is a fifth less likely per token."""
DRIVE_SHARE = 0.25
"""The least part of the largest fall of the same sentence for a further unit to drive it, too."""
ROUNDING = 1e-4
"""What log-probabilities are exact to, in nats per token."""


@dataclass(frozen=True)
class Diagnosis(Result):
    """The effect of each unit of a prompt on each sentence of the answer, in nats; see the module's docstring.

    What follows from the table is computed once: a page asks for it in every cell.

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
        fixed: what stayed in place beside the prompt: system message, other turns, prefix, prefill, tools.
        rendered: the model's whole input as text; empty where it is not recorded.
        details: further facts of the scorer; under "slow_paths" what made it slower than it could be.
    """

    _noun = "diagnosis"

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
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """How many tokens count."""
        return self.target[1] - self.target[0]

    @property
    def joint(self) -> float:
        """L(all): the effect of removing every unit together."""
        return self.log_prob - self.log_prob_removed

    @cached_property
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

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """PR of each unit removed alone."""
        return tuple(_ratio(effect, self.n_tokens) for effect in self.individual)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """L({i}) / L(all) of each unit; None unless removing all brings PR below the band."""
        return tuple(effect / self.joint for effect in self.individual) if self.joint_ratio < self.band[0] else None

    @cached_property
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

    @cached_property
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

    @cached_property
    def drivers(self) -> tuple[tuple[int, ...], ...]:
        """For each part the units that drive it, the strongest first."""
        columns = zip(*self.per_token, strict=True)
        return tuple(
            tuple(i for i in ranked(column) if column[i] >= max(DRIVE_NATS, DRIVE_SHARE * max(column)))
            for column in columns
        )

    @cached_property
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
            "prompt": plain(PromptRecord(self.prompt, self.input_ids, self.units, self.fixed, self.rendered)),
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
            "details": self.details,
        }

    @classmethod
    def from_dict(cls, record: Record) -> Diagnosis:
        """Rebuild a diagnosis from `to_dict`'s form; what follows from the other fields is computed again."""
        require_readable(record, SCHEMA, "this diagnosis")
        form = converted(record, _DiagnosisRecord, "this diagnosis")
        flat = {name: getattr(form, name) for name in form.__struct_fields__}
        prompt, output = flat.pop("prompt"), flat.pop("output")
        del flat["kind"]
        return cls(**result_fields(prompt, output), parts=output.parts, **flat)

    def __repr__(self) -> str:
        silent = sum(i in self.without_influence for i in self.requests)
        return (
            f"<Diagnosis: {silent} of {len(self.requests)} requests without measurable influence, {len(self.units)} "
            f"units by {len(self.parts)} sentences, PR {self.joint_ratio:.3g} without all; "
            f"{printable(self.model.get('id'))}>"
        )


class _AnswerRecord(OutputRecord, frozen=True):
    """The diagnosed answer as JSON has it: as any output, with its sentences."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= part.start < part.end <= len(self.ids) for part in self.parts):
            raise ValueError(f"'parts' must lie within the output's {len(self.ids)} tokens")


class _DiagnosisRecord(Struct, frozen=True, kw_only=True):
    """What is read of a diagnosis' JSON form, with the types and ranges that are checked."""

    kind: Literal["diagnosis"]
    model: dict[str, str | None]
    prompt: PromptRecord
    output: _AnswerRecord
    removal: Removal
    band: tuple[float, float]
    log_prob: Nats
    log_prob_removed: Nats
    requests: tuple[Count, ...]
    requests_given: bool
    cut_off: bool
    together: Nats | None
    table: tuple[tuple[Nats, ...], ...]
    seed: int
    evaluations: Count
    ffe: Cost
    seconds: Cost
    versions: dict[str, str]
    details: dict[str, Any] = {}

    def __post_init__(self) -> None:
        n_units, n_parts = len(self.prompt.units), len(self.output.parts)
        if len(self.table) != n_units or any(len(row) != n_parts for row in self.table):
            raise ValueError(f"'table' must have {n_units} rows of {n_parts} numbers")
        if any(i >= n_units for i in self.requests):
            raise ValueError(f"'requests' must be units below {n_units}, got {list(self.requests)}")


def units_without_influence(
    table: Sequence[Sequence[float]], n_tokens: int, band: tuple[float, float]
) -> tuple[int, ...]:
    """The units whose removal leaves PR within the band, its ends included."""
    return tuple(i for i, row in enumerate(table) if band[0] <= _ratio(math.fsum(row), n_tokens) <= band[1])


def _ratio(effect: float, n_tokens: int) -> float:
    """PR of an effect in nats."""
    return probability_ratio(0.0, -effect, n_tokens)
