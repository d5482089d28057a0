"""The result, with everything that is needed to judge it or to repeat it; its JSON form.

    L(S) = log p(y|x) − log p(y|x without S)        the joint effect of S, in nats, summed over the target
    synergy = L(S) − Σ_i L({i})                     what the units do together beyond what each does alone
    PR = exp(−L(S) / len(y))                        probability ratio; 1 = nothing changed (paper, section 5.2)

Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from msgspec import Struct

from jopa.choices import TEXT_SIMILARITY, Certificate, Removal
from jopa.errors import InputFileError, SettingError
from jopa.explanation.level import Level, require_levels
from jopa.json_values import converted, plain
from jopa.method import TraceStep
from jopa.prompt.building import Unit
from jopa.prompt.fixed_parts import FixedPart
from jopa.prompt.records import Cost, Count, OutputRecord, Positive, PromptRecord, require_set, result_fields
from jopa.results.result import Result, json_object, json_text, printable, require_readable
from jopa.results.text_attribution import TextAttribution

SCHEMA = 1

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
class Attribution(Result):
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

    _noun = "attribution"

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

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Attribution:
        """Rebuild an attribution from `to_dict`'s form; see `Result.from_dict`."""
        require_readable(record, SCHEMA, "this attribution")
        form = converted(record, _AttributionRecord, "this attribution")
        prompt, output = form.prompt, form.output
        flat = {name: getattr(form, name) for name in form.__struct_fields__}
        for name in ("schema", "prompt", "output"):
            del flat[name]
        return cls(**result_fields(prompt, output), **flat)

    def __repr__(self) -> str:
        names = ", ".join(f"{unit.text.strip()[:24]!r}" for unit in self.chosen[:4])
        more = f" and {len(self.removed) - 4} more" if len(self.removed) > 4 else ""
        return (
            f"<Attribution by {printable(self.method.get('name'))}: without {names}{more} of {len(self.units)} units "
            f"PR {self.probability_ratio:.3g}, joint effect {self.joint:.2f} nats; {printable(self.model.get('id'))}>"
        )


def comparison_json(attributions: Sequence[Attribution] | Sequence[TextAttribution]) -> str:
    """Several attributions of one prompt and output as JSON: `{"schema": 1, "comparison": [attribution, …]}`.

    Attributions by text-similarity have `"objective": "text-similarity"` beside it, as each of them has.
    """
    texts = [each for each in attributions if isinstance(each, TextAttribution)]
    if texts and len(texts) < len(attributions):
        raise SettingError("a comparison holds attributions by log-probability or by text-similarity, not both")
    objective = {"objective": TEXT_SIMILARITY} if texts else {}
    return json_text({"schema": SCHEMA, **objective, "comparison": [each.to_dict() for each in attributions]})


def comparison_from_json(text: str) -> tuple[Attribution, ...] | tuple[TextAttribution, ...]:
    """Rebuild the attributions from `comparison_json`'s text.

    Raises:
        InputFileError: the text is no JSON, or no comparison.
    """
    record = json_object(text, "comparison")
    require_readable(record, SCHEMA, "this comparison")
    if not isinstance(found := record.get("comparison"), list) or not all(isinstance(each, dict) for each in found):
        raise InputFileError("this JSON is no comparison: it has no list of attributions under 'comparison'")
    if "objective" not in record:
        return tuple(Attribution.from_dict(each) for each in found)
    if record["objective"] != TEXT_SIMILARITY:
        raise InputFileError(f"this comparison has an unknown objective: {record['objective']!r:.40}")
    return tuple(TextAttribution.from_dict(each) for each in found)
