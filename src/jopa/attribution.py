"""The result, with everything that is needed to judge it or to repeat it; its JSON form.

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
from jopa.prompt.fixed_parts import FixedPart
from jopa.prompt.records import Count, OutputRecord, Positive, PromptRecord, require_set, result_fields
from jopa.refinement.level import Level, require_levels
from jopa.storage import Record, converted, parse_json, plain, require_plain, require_schema

SCHEMA = 1

Cost = Annotated[float, Meta(ge=0)]

_NESTED = {"model", "prompt", "input_ids", "units", "fixed", "rendered", "output", "output_ids", "target"}
_OPTIONAL = {"effects", "scores", "details", "levels"}


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
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        require_levels(self.levels)
        n_units = len(self.prompt.units)
        require_set(self.removed, n_units, individual=self.individual, effects=self.effects, scores=self.scores)
        if not isinstance(self.method.get("name"), str):
            raise ValueError("'method' must have a text under 'name'")


class _LevelsRecord(Struct, frozen=True):
    """The levels of a search from coarse to fine, as JSON has them."""

    levels: tuple[Level, ...]


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
        seed: of the method's random choices.
        evaluations: masks the method had scored.
        ffe: its model work in full-forward equivalents.
        seconds: its wall-clock time.
        trace: the steps of its search.
        stop: why it ended.
        certificate: "none", "one-swap-optimal" or "optimal"; see `Problem.certificate`.
        versions: of jopa and its main dependencies.
        effects: L({i}) of every unit of the prompt, if asked for.
        scores: the method's own score of every unit, if it ranks units.
        details: further results of the method and the scorer.
        fixed: what stayed in place beside the prompt: system message, other turns, prefix, prefill, tools.
        rendered: the model's whole input as text; empty where it is not recorded.
        levels: of a search from coarse to fine, the last of which `units`, `removed` and `certificate` are; else none.
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
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""
    levels: tuple[Level, ...] = ()

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
            "prompt": plain(PromptRecord(self.prompt, self.input_ids, self.units, self.fixed, self.rendered)),
            "output": {"text": self.output, "ids": list(self.output_ids), "target": list(self.target)},
        }
        flat = [item.name for item in fields(self) if item.name not in _NESTED]
        record |= {name: getattr(self, name) for name in flat}
        record["trace"] = [asdict(step) for step in self.trace]
        record["levels"] = plain(_LevelsRecord(self.levels))["levels"] or None
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
        require_readable(record, SCHEMA, "this attribution")
        form = converted(record, _AttributionRecord, "this attribution")
        prompt, output = form.prompt, form.output
        flat = {name: getattr(form, name) for name in form.__struct_fields__}
        for name in ("schema", "prompt", "output"):
            del flat[name]
        return cls(**result_fields(prompt, output), **flat)

    @classmethod
    def from_json(cls, text: str) -> Attribution:
        """Rebuild an attribution from `to_json`'s text.

        Raises:
            InputFileError: the text is no JSON, or no attribution.
        """
        return cls.from_dict(json_object(text, "attribution"))

    def to_html(self, *, title: str | None = None) -> str:
        """The attribution as a web page that needs nothing but itself, with a title of the caller's."""
        from jopa.reports.attribution_html import to_html  # imported here: reports are above this layer

        return to_html(self, title=title)

    def to_frame(self) -> Any:
        """A pandas data frame with one row a unit; see `jopa.reports.frames`.

        Raises:
            SettingError: pandas is not installed.
        """
        from jopa.reports.frames import attribution_frame

        return attribution_frame(self)

    def __repr__(self) -> str:
        names = ", ".join(f"{unit.text.strip()[:24]!r}" for unit in self.chosen[:4])
        more = f" and {len(self.removed) - 4} more" if len(self.removed) > 4 else ""
        return (
            f"<Attribution by {printable(self.method.get('name'))}: without {names}{more} of {len(self.units)} units "
            f"PR {self.probability_ratio:.3g}, joint effect {self.joint:.2f} nats; {printable(self.model.get('id'))}>"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from jopa.reports.attribution_html import to_html

        return to_html(self, standalone=False)


@dataclass(frozen=True)
class PromptComparison:
    """Two prompts explained with the same options: what the change of the prompt changed.

    Attributes:
        first: the attribution of the prompt to compare with.
        second: that of the other prompt.
    """

    first: Attribution
    second: Attribution

    @property
    def same_output(self) -> bool:
        """Whether the model gave the same answer to both."""
        return self.first.output == self.second.output

    @property
    def in_both(self) -> tuple[str, ...]:
        """Texts of units that were found for both prompts, without the blanks around them."""
        return tuple(text for text in _texts(self.first) if text in _texts(self.second))

    @property
    def only_first(self) -> tuple[str, ...]:
        """Texts of units that were found for the first prompt only."""
        return tuple(text for text in _texts(self.first) if text not in _texts(self.second))

    @property
    def only_second(self) -> tuple[str, ...]:
        """Texts of units that were found for the second prompt only."""
        return tuple(text for text in _texts(self.second) if text not in _texts(self.first))

    def to_dict(self) -> Record:
        """Both attributions, and what follows from them, as JSON holds them (schema 1)."""
        return {
            "schema": SCHEMA,
            "kind": "prompts",
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "same_output": self.same_output,
            "in_both": list(self.in_both),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }

    def to_json(self) -> str:
        """Both attributions as JSON text; `from_json` gives an equal value."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PromptComparison:
        """Rebuild the comparison from `to_json`'s text.

        Raises:
            InputFileError: the text is no JSON, or no comparison of two prompts.
        """
        record = json_object(text, "comparison of two prompts")
        require_readable(record, SCHEMA, "this comparison of two prompts")
        if not isinstance(first := record.get("first"), dict) or not isinstance(second := record.get("second"), dict):
            raise InputFileError("this JSON is no comparison of two prompts: it lacks 'first' or 'second'")
        return cls(Attribution.from_dict(first), Attribution.from_dict(second))

    def to_html(self, *, title: str | None = None) -> str:
        """Both as one web page that needs nothing but itself, with a title of the caller's."""
        from jopa.reports.prompts_html import prompts_html

        return prompts_html(self, title=title)

    def to_frame(self) -> Any:
        """A pandas data frame with one row a prompt and unit: as `Attribution.to_frame`, with a column "prompt".

        Raises:
            SettingError: pandas is not installed.
        """
        from jopa.reports.frames import prompts_frame

        return prompts_frame(self)

    def __repr__(self) -> str:
        answers = "the same answer" if self.same_output else "different answers"
        return (
            f"<PromptComparison: {answers}, {len(self.in_both)} units found for both, {len(self.only_first)} only for "
            f"the first, {len(self.only_second)} only for the second>"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from jopa.reports.prompts_html import prompts_html

        return prompts_html(self, standalone=False)


def _texts(attribution: Attribution) -> tuple[str, ...]:
    """The texts of the chosen units without the blanks around them, each once."""
    return tuple(dict.fromkeys(unit.text.strip() or unit.text for unit in attribution.chosen))


def comparison_json(attributions: Sequence[Attribution]) -> str:
    """Several attributions of one prompt and output as JSON: `{"schema": 1, "comparison": [attribution, …]}`."""
    record = {"schema": SCHEMA, "comparison": [attribution.to_dict() for attribution in attributions]}
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)


def comparison_from_json(text: str) -> tuple[Attribution, ...]:
    """Rebuild the attributions from `comparison_json`'s text.

    Raises:
        InputFileError: the text is no JSON, or no comparison.
    """
    record = json_object(text, "comparison")
    require_readable(record, SCHEMA, "this comparison")
    if not isinstance(found := record.get("comparison"), list) or not all(isinstance(each, dict) for each in found):
        raise InputFileError("this JSON is no comparison: it has no list of attributions under 'comparison'")
    return tuple(Attribution.from_dict(each) for each in found)


def printable(value: object) -> str:
    """A text of a record for a `repr`, on one line: what a terminal does not print is escaped."""
    return repr(str(value))[1:-1]


def json_object(text: str, what: str) -> Record:
    """The object that a JSON text holds.

    Raises:
        InputFileError: the text is no JSON, or holds another value; the message says what it should be.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputFileError(f"this is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputFileError(f"this JSON is no {what}: it is no object")
    return record


def require_readable(record: Record, schema: int, what: str) -> None:
    """Refuse a record of another schema, nested too deep, or with numbers that are not finite.

    Raises:
        InputFileError: it is such a record.
    """
    require_schema(record, schema, what)
    try:
        require_plain(record)
    except ValueError as error:
        raise InputFileError(f"{what} cannot be read: {error}") from error
