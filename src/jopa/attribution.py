"""The answer, and all that is needed to judge it or to do it again; its JSON form.

    L(S) = log p(y|x) − log p(y|x without S)        the joint effect of S, in nats, summed over the target
    synergy = L(S) − Σ_i L({i})                     what the units do together beyond what each does alone
    PR = exp(−L(S) / len(y))                        probability ratio; 1 = nothing changed (paper, section 5.2)

Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from msgspec import Meta, Struct

from jopa.choices import Certificate, Removal
from jopa.errors import InputFileError
from jopa.method import TraceStep
from jopa.prompt.building import Unit
from jopa.storage import converted, parse_json, require_plain, require_schema

SCHEMA = 1

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Cost = Annotated[float, Meta(ge=0)]

_NESTED = {"model", "prompt", "input_ids", "units", "output", "output_ids", "target"}
_OPTIONAL = {"effects", "scores", "details"}


class PromptRecord(Struct, frozen=True):
    """A prompt as JSON has it: its text, the model's whole input, and the units."""

    text: str
    ids: tuple[Count, ...]
    units: tuple[Unit, ...]

    def __post_init__(self) -> None:
        for i, unit in enumerate(self.units):
            if not 0 <= unit.start <= unit.end <= len(self.text):
                raise ValueError(f"unit {i} lies outside the prompt's {len(self.text)} characters")
            if not all(0 <= position < len(self.ids) for position in unit.positions):
                raise ValueError(f"unit {i} lies outside the prompt's {len(self.ids)} tokens")


class OutputRecord(Struct, frozen=True):
    """An output as JSON has it: its text, ids, and `[start, end)` of the ids whose probability counts."""

    text: str
    ids: tuple[Count, ...]
    target: tuple[Count, Positive]

    def __post_init__(self) -> None:
        if not self.target[0] < self.target[1] <= len(self.ids):
            raise ValueError(f"the target {list(self.target)} lies outside the output's {len(self.ids)} tokens")


class _AttributionRecord(Struct, frozen=True, kw_only=True):
    """The JSON form of an `Attribution`, with the types and ranges that are checked when it is read."""

    schema: int
    model: dict[str, str | None]
    prompt: PromptRecord
    output: OutputRecord
    removal: Removal
    k: Positive
    removed: tuple[Count, ...]
    log_prob: float
    log_prob_removed: float
    probability_ratio: Cost
    individual: tuple[float, ...]
    synergy: float
    counterfactual_output: str
    method: dict[str, Any]
    seed: int
    evaluations: Count
    ffe: Cost
    seconds: Cost
    trace: tuple[TraceStep, ...]
    stop: str
    certificate: Certificate
    versions: dict[str, str]
    effects: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        n_units = len(self.prompt.units)
        if len(set(self.removed)) < len(self.removed) or any(i >= n_units for i in self.removed):
            raise ValueError(f"'removed' must be different units below {n_units}, got {list(self.removed)}")
        for name, n in (("individual", len(self.removed)), ("effects", n_units), ("scores", n_units)):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"'{name}' must have {n} numbers, got {len(values)}")
        if not isinstance(self.method.get("name"), str):
            raise ValueError("'method' must have a text under 'name'")


@dataclass(frozen=True)
class Attribution:
    """Which units of a prompt, taken together, made the model say this, and the evidence for it.

    Log-probabilities are in nats, summed over the target tokens. `evaluations`, `ffe` and `seconds` are what the
    method spent, the score of the whole prompt included; `individual` and `effects` are scored afterwards.

    Attributes:
        model: id, revision, dtype and device of the model.
        prompt: the attributable text.
        input_ids: the model's whole input, template included.
        units: the removable parts of the prompt.
        output: the explained output's text.
        output_ids: its token ids.
        target: `[start, end)` of `output_ids`, the tokens whose probability counts.
        removal: how units were removed: "delete", "zero" or "hide".
        k: how many units were asked for.
        removed: indices of the chosen units, the one with the largest individual effect first.
        log_prob: log p(y|x).
        log_prob_removed: log p(y|x without the chosen units).
        probability_ratio: exp(mean log-probability difference per target token).
        individual: L({i}) of each chosen unit, in the order of `removed`.
        synergy: L(S) − Σ L({i}).
        counterfactual_output: what the model says without the chosen units.
        method: its name and settings.
        seed: what the method's random choices came from.
        evaluations: masks the method had scored.
        ffe: its model work in full-forward equivalents.
        seconds: its wall-clock time.
        trace: how its search went.
        stop: why it ended.
        certificate: "none", "one-swap-optimal" or "optimal"; see `Problem.certificate`.
        versions: of jopa and what it stands on.
        effects: L({i}) of every unit of the prompt, if asked for.
        scores: the method's own score of every unit, if it ranks units.
        details: what else the method has to tell, if anything.
    """

    model: dict[str, str | None]
    prompt: str
    input_ids: tuple[int, ...]
    units: tuple[Unit, ...]
    output: str
    output_ids: tuple[int, ...]
    target: tuple[int, int]
    removal: Removal
    k: int
    removed: tuple[int, ...]
    log_prob: float
    log_prob_removed: float
    probability_ratio: float
    individual: tuple[float, ...]
    synergy: float
    counterfactual_output: str
    method: dict[str, Any]
    seed: int
    evaluations: int
    ffe: float
    seconds: float
    trace: tuple[TraceStep, ...]
    stop: str
    certificate: Certificate
    versions: dict[str, str]
    effects: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None

    @property
    def joint(self) -> float:
        """L(S) of the chosen units together, in nats."""
        return self.log_prob - self.log_prob_removed

    @property
    def chosen(self) -> tuple[Unit, ...]:
        """The chosen units, the one with the largest individual effect first."""
        return tuple(self.units[i] for i in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """The attribution as the stable JSON schema (version 1) orders it."""
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model,
            "prompt": {
                "text": self.prompt,
                "ids": list(self.input_ids),
                "units": [{**asdict(unit), "positions": list(unit.positions)} for unit in self.units],
            },
            "output": {"text": self.output, "ids": list(self.output_ids), "target": list(self.target)},
        }
        plain = [item.name for item in fields(self) if item.name not in _NESTED]
        record |= {name: getattr(self, name) for name in plain}
        record["trace"] = [asdict(step) for step in self.trace]
        record |= {name: list(value) for name, value in record.items() if isinstance(value, tuple)}
        return {name: value for name, value in record.items() if value is not None or name not in _OPTIONAL}

    def to_json(self) -> str:
        """The attribution as JSON text; `from_json` gives an equal value."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Attribution:
        """Rebuild an attribution from `to_dict`'s form.

        Raises:
            InputFileError: the record has another schema, lacks something, or holds a value of the wrong type or range.
        """
        require_schema(record, SCHEMA, "this attribution")
        try:
            require_plain(record)
        except ValueError as error:
            raise InputFileError(f"this attribution cannot be read: {error}") from error
        form = converted(record, _AttributionRecord, "this attribution")
        prompt, output = form.prompt, form.output
        plain = {name: getattr(form, name) for name in form.__struct_fields__}
        for name in ("schema", "prompt", "output"):
            del plain[name]
        return cls(
            prompt=prompt.text,
            input_ids=prompt.ids,
            units=prompt.units,
            output=output.text,
            output_ids=output.ids,
            target=output.target,
            **plain,
        )

    @classmethod
    def from_json(cls, text: str) -> Attribution:
        """Rebuild an attribution from `to_json`'s text.

        Raises:
            InputFileError: the text is no JSON, or no attribution.
        """
        try:
            record = parse_json(text)
        except ValueError as error:
            raise InputFileError(f"this is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputFileError("this JSON is no attribution: it is no object")
        return cls.from_dict(record)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from jopa.reports.attribution_html import (
            to_html,  # the one arrow that points back: a notebook asks the value itself
        )

        return to_html(self, standalone=False)


def comparison_json(attributions: Sequence[Attribution]) -> str:
    """Several attributions of one prompt and output as JSON: `{"schema": 1, "comparison": [attribution, …]}`."""
    record = {"schema": SCHEMA, "comparison": [attribution.to_dict() for attribution in attributions]}
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)
