"""The answer where a model gives texts alone: which units, taken together, change what it says.

    similarity        how alike the output and the model's new answer are, 0 to 1 (`measure`)
    L(S)              similarity without any removal − similarity without S: the fall of similarity
    synergy           L(S) − Σ_i L({i})
    noise             by how much the similarity differs when the unchanged prompt is asked again

The objective is called "text-similarity": it is no log-probability, and no ratio of probabilities follows from it. What
lies within the noise shows nothing. Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from jopa.choices import TEXT_SIMILARITY
from jopa.json_values import Record, converted
from jopa.prompt.records import Cost, Count, require_set
from jopa.results.result import Result, printable, require_readable

SCHEMA = 1

Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class TextUnit:
    """A removable part of the prompt.

    Attributes:
        text: its characters, `prompt[start:end]`.
        start: its first character in the prompt.
        end: one past its last.
    """

    text: str
    start: Count
    end: Count


class _Record(Struct, frozen=True, kw_only=True):
    """The JSON form, with the types and ranges that are checked when it is read."""

    schema: int
    objective: Literal["text-similarity"]
    model: dict[str, str | None]
    prompt: str
    units: tuple[TextUnit, ...]
    output: str
    removal: Literal["delete"]
    k: Annotated[int, Meta(ge=1)]
    removed: tuple[Count, ...]
    measure: str
    similarity: Share
    similarity_removed: Share
    noise: Share
    individual: tuple[float, ...]
    synergy: float
    counterfactual_output: str
    method: dict[str, Any]
    seed: int
    evaluations: Count
    ffe: Cost
    seconds: Cost
    stop: str
    certificate: Literal["none", "one-swap-optimal", "optimal"]
    versions: dict[str, str]
    effects: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        n_units = len(self.units)
        require_set(self.removed, n_units, individual=self.individual, effects=self.effects)
        if any(not unit.start <= unit.end <= len(self.prompt) for unit in self.units):
            raise ValueError(f"a unit lies outside the prompt's {len(self.prompt)} characters")
        if not isinstance(self.method.get("name"), str):
            raise ValueError("'method' must have a text under 'name'")


@dataclass(frozen=True)
class TextAttribution(Result):
    """Which units of a prompt, taken together, change what the model says, and the evidence for it.

    Attributes:
        model: id of the model, and where it is.
        prompt: the attributable text.
        units: the removable parts of the prompt.
        output: the explained answer.
        removal: "delete".
        k: how many units were asked for.
        removed: indices of the chosen units, the one with the largest individual effect first.
        measure: how texts are compared.
        similarity: of the output and the answers to the unchanged prompt, in the mean.
        similarity_removed: of the output and the answer without the chosen units.
        noise: the difference of the largest and the smallest similarity of answers to the unchanged prompt.
        individual: L({i}) of each chosen unit, in the order of `removed`.
        synergy: L(S) − Σ L({i}).
        counterfactual_output: what the model says without the chosen units.
        method: its name and settings.
        seed: what the method's random choices came from.
        evaluations: masks the method had scored.
        ffe: its model work in full-forward equivalents: tokens asked and answered over those of prompt and output.
        seconds: its wall-clock time.
        stop: why it ended.
        certificate: "none", "one-swap-optimal" or "optimal", beyond the noise; see `Problem.certificate`.
        versions: of jopa and its main dependencies.
        effects: L({i}) of every unit of the prompt, if asked for.
        details: further results of the method and the model; under "server", the requests and tokens.
    """

    _noun = "attribution"

    model: dict[str, str | None]
    prompt: str
    units: tuple[TextUnit, ...]
    output: str
    removal: str
    k: int
    removed: tuple[int, ...]
    measure: str
    similarity: float
    similarity_removed: float
    noise: float
    individual: tuple[float, ...]
    synergy: float
    counterfactual_output: str
    method: dict[str, Any]
    seed: int
    evaluations: int
    ffe: float
    seconds: float
    stop: str
    certificate: str
    versions: dict[str, str]
    effects: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None

    @property
    def objective(self) -> str:
        """What the scores are: "text-similarity"."""
        return TEXT_SIMILARITY

    @property
    def joint(self) -> float:
        """L(S) of the chosen units together: the fall of similarity."""
        return self.similarity - self.similarity_removed

    @property
    def shown(self) -> bool:
        """Whether the fall is larger than the noise; otherwise nothing is shown."""
        return self.joint > self.noise

    @property
    def chosen(self) -> tuple[TextUnit, ...]:
        """The chosen units, the one with the largest individual effect first."""
        return tuple(self.units[i] for i in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """The attribution as JSON holds it (schema 1 of this kind)."""
        record: dict[str, Any] = {"schema": SCHEMA, "objective": TEXT_SIMILARITY}
        record |= {item.name: getattr(self, item.name) for item in fields(self)}
        record["units"] = [asdict(unit) for unit in self.units]
        record |= {name: list(value) for name, value in record.items() if isinstance(value, tuple)}
        return {
            name: value for name, value in record.items() if value is not None or name not in ("effects", "details")
        }

    @classmethod
    def from_dict(cls, record: Record) -> TextAttribution:
        """Rebuild an attribution from `to_dict`'s form; see `Result.from_dict`."""
        require_readable(record, SCHEMA, "this attribution")
        form = converted(record, _Record, "this attribution")
        return cls(**{item.name: getattr(form, item.name) for item in fields(cls)})

    def __repr__(self) -> str:
        names = ", ".join(repr(unit.text.strip()[:24]) for unit in self.chosen[:4])
        more = f" and {len(self.removed) - 4} more" if len(self.removed) > 4 else ""
        return (
            f"<TextAttribution by {printable(self.method.get('name'))}: without {names}{more} of "
            f"{len(self.units)} units text-similarity falls by {self.joint:.2f}, noise {self.noise:.2f}; "
            f"{printable(self.model.get('id'))}>"
        )
