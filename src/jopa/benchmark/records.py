"""The files of a benchmark run's folder as typed records; only this file defines how they are written and read.

    experiment.json    the experiment, normalised
    sessions.jsonl     one line a start of the command: when, where, with which versions, on which data
    examples.jsonl     one line a (model, data set, example): prompt, units and the model's own output
    selections.jsonl   one line a finished search, so that none is repeated
    cells.jsonl        one line a cell: the result

A line is on the disk before the work continues (`jopa.storage.Journal`), so a record's existence means done. Where a
key occurs twice (a failed cell that was done again), the last line counts. Everything that is read is checked: types,
ranges, schema, and indices. Unknown fields are ignored.

Knows files, nothing of models and methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from msgspec import Meta, Struct, field

from jopa.choices import Certificate, Removal
from jopa.errors import InputFileError
from jopa.json_values import Record, converted, encoded, parse_json, read_json, require_schema
from jopa.prompt.records import Cost, Count, OutputRecord, Positive, PromptRecord
from jopa.storage import numbered_lines

SCHEMA = 1

LogProb = Annotated[float, Meta(le=1.0)]
"""In nats; by rounding, the log-probability of a certain output can be slightly above zero."""
Name = Annotated[str, Meta(min_length=1)]
TraceRow = tuple[Count, float, Count, Cost]
"""Step, log p without the current set in nats, evaluations and FFE so far."""
S = TypeVar("S", bound=Struct)


class CellKey(NamedTuple):
    """Identifies a cell: model, data set, example, method, k and seed."""

    model: str
    data: str
    example: str
    method: str
    k: int
    seed: int


class KeyRecord(Struct, frozen=True):
    """A cell's key as JSON has it."""

    model: str
    data: str
    example: str
    method: str
    k: Positive
    seed: int


class ExampleRecord(Struct, frozen=True, kw_only=True):
    """An example for a model, with the model's own output."""

    model: str
    data: str
    example: str
    prompt: PromptRecord
    output: OutputRecord
    language_model: dict[str, str | None]
    versions: dict[str, str]
    status: Literal["done"] = "done"

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, data set and example."""
        return self.model, self.data, self.example


class AnswerRecord(Struct, frozen=True, kw_only=True):
    """What a search found for one k."""

    k: Positive
    removed: tuple[Count, ...]
    search_log_prob_removed: LogProb
    stop: str
    certificate: Certificate
    trace: tuple[TraceRow, ...]
    scores: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None


class SearchRecord(Struct, frozen=True, kw_only=True):
    """A finished search; its cost is that of all its answers together."""

    model: str
    data: str
    example: str
    method: str
    seed: int
    settings: dict[str, Any]
    search_removal: Removal
    ks: tuple[Positive, ...]
    evaluations: Count
    ffe: Cost
    seconds: Cost
    answers: tuple[AnswerRecord, ...]

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, data set and example."""
        return self.model, self.data, self.example


class FinishedCell(Struct, frozen=True, kw_only=True, tag_field="status", tag="done"):
    """A cell that has a result. Log-probabilities and effects are in nats; costs are those of the search."""

    schema: int
    key_record: KeyRecord = field(name="key")
    method: dict[str, Any]
    search_removal: Removal
    removal: Removal
    removed: tuple[Count, ...]
    removed_texts: tuple[str, ...]
    units: Positive
    output_tokens: Positive
    output: str
    counterfactual_output: str
    log_prob: LogProb
    log_prob_removed: LogProb
    individual: tuple[float, ...]
    synergy: float
    search_log_prob_removed: LogProb
    metrics: dict[str, float | None]
    evaluations: Count
    ffe: Cost
    seconds: Cost
    ks: tuple[Positive, ...]
    stop: str
    certificate: Certificate
    trace: tuple[TraceRow, ...]
    scores: tuple[float, ...] | None = None
    details: dict[str, Any] | None = None
    date: str
    worker: str

    def __post_init__(self) -> None:
        if len(set(self.removed)) < len(self.removed) or any(i >= self.units for i in self.removed):
            raise ValueError(f"'removed' must be different units below {self.units}, got {list(self.removed)}")
        if len(self.removed) != self.key_record.k:
            raise ValueError(f"'removed' must name k = {self.key_record.k} units, got {list(self.removed)}")
        if len(self.individual) != len(self.removed):
            raise ValueError(f"'individual' must have {len(self.removed)} numbers, got {len(self.individual)}")

    @property
    def key(self) -> CellKey:
        """The key of the cell."""
        return _key(self.key_record)

    @property
    def joint(self) -> float:
        """L(S) of the chosen units together, in nats."""
        return self.log_prob - self.log_prob_removed


class FailedCell(Struct, frozen=True, kw_only=True, tag_field="status", tag="failed"):
    """A cell that ended in an error."""

    schema: int
    key_record: KeyRecord = field(name="key")
    error: str
    date: str
    worker: str

    @property
    def key(self) -> CellKey:
        """The key of the cell."""
        return _key(self.key_record)


CellRecord = FinishedCell | FailedCell


class ModelEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model of an experiment; "retired" where the experiment no longer names it."""

    name: Name
    id: str | None = None
    retired: bool = False

    @property
    def label(self) -> str:
        """As tables call it."""
        return self.name


class DataEntry(Struct, frozen=True, kw_only=True):
    """A data set of an experiment."""

    name: Name
    path: str | None = None
    retired: bool = False

    @property
    def label(self) -> str:
        """As tables call it."""
        return self.name


class MethodEntry(Struct, frozen=True, kw_only=True):
    """A method of an experiment."""

    label: Name
    name: Name
    removal: str
    settings: dict[str, Any]
    ks: Annotated[tuple[Positive, ...], Meta(min_length=1)] | None = None
    """The k that it answers, where they differ from the experiment's."""
    retired: bool = False


class ExperimentRecord(Struct, frozen=True, kw_only=True):
    """An experiment as its folder has it: what reports need of it."""

    schema: int
    title: str
    models: Annotated[tuple[ModelEntry, ...], Meta(min_length=1)]
    data: Annotated[tuple[DataEntry, ...], Meta(min_length=1)]
    methods: Annotated[tuple[MethodEntry, ...], Meta(min_length=1)]
    ks: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    seeds: Annotated[tuple[int, ...], Meta(min_length=1)]
    unit: str
    removal: str
    baseline: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)


class SessionData(Struct, frozen=True, kw_only=True):
    """A data set as a start of the command read it; `ids` are those of the kept prompts, where they are on record."""

    name: str
    source: str
    read: Count = 0
    kept: Count
    left_out: dict[str, Count]
    ids: tuple[str, ...] | None = None


class SessionRecord(Struct, frozen=True, kw_only=True):
    """A start of the command."""

    date: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    data: tuple[SessionData, ...]


@dataclass(frozen=True)
class Run:
    """A benchmark run, as read from its folder.

    Attributes:
        experiment: the experiment, normalised.
        sessions: one a start of the command, in order.
        examples: by (model, data set, example).
        cells: one a cell, done or failed, in the order in which they were first written.
        plan: the experiment as JSON has it, with all of its fields.
        not_shown: seeds, k and prompts whose cells a report leaves out, in words.
    """

    experiment: ExperimentRecord
    sessions: tuple[SessionRecord, ...]
    examples: dict[tuple[str, str, str], ExampleRecord]
    cells: tuple[CellRecord, ...]
    plan: Record
    not_shown: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[FinishedCell, ...]:
        """The cells that have a result."""
        return tuple(cell for cell in self.cells if isinstance(cell, FinishedCell))

    @property
    def failed(self) -> tuple[FailedCell, ...]:
        """The cells that ended in an error."""
        return tuple(cell for cell in self.cells if isinstance(cell, FailedCell))


def read_run(folder: Path) -> Run:
    """Read a run's folder; safe while the run is in progress.

    Raises:
        InputFileError: there is no run, or a line is damaged or has another form; an incomplete last line is ignored.
    """
    path = folder / "experiment.json"
    if not path.is_file():
        raise InputFileError(
            f"'{folder}' holds no benchmark run: cannot read '{path.name}' (there is no such file); "
            "make one with 'jopa bench EXPERIMENT.toml --out DIR'"
        )
    plan = read_json(path)
    if not isinstance(plan, dict):
        raise InputFileError(f"'{path}' is no experiment: it holds no JSON object")
    experiment = experiment_record(plan, f"'{path}'")
    examples = {example.names: example for _, example in _typed_lines(folder / "examples.jsonl", ExampleRecord)}
    cells: dict[CellKey, CellRecord] = {}
    path = folder / "cells.jsonl"
    for line in numbered_lines(path):
        what = f"'{path}', line {line.number}"
        require_schema(line.record, SCHEMA, what)
        cell: CellRecord = converted(line.record, CellRecord, what)
        if isinstance(cell, FinishedCell) and (example := examples.get(cell.key[:3])):
            _require_same_units(cell, example, what)
        cells[cell.key] = cell
    sessions = tuple(session for _, session in _typed_lines(folder / "sessions.jsonl", SessionRecord))
    return Run(experiment, sessions, examples, tuple(cells.values()), plan)


def experiment_record(plan: Record, what: str = "the experiment") -> ExperimentRecord:
    """The checked form of an experiment as JSON has it.

    Raises:
        InputFileError: something is missing, of the wrong type, or of another schema.
    """
    require_schema(plan, SCHEMA, what)
    return converted(plan, ExperimentRecord, what)


def read_searches(folder: Path) -> list[SearchRecord]:
    """The finished searches of a run.

    Raises:
        InputFileError: a line is damaged or has another form; an incomplete last line is ignored.
    """
    return [search for _, search in _typed_lines(folder / "selections.jsonl", SearchRecord)]


def is_sound(answer: AnswerRecord, n_units: int) -> bool:
    """Whether an answer names k different units of a prompt, and a score for each unit if it has any."""
    units = set(answer.removed)
    n_scores = n_units if answer.scores is None else len(answer.scores)
    return len(units) == len(answer.removed) == answer.k and max(units) < n_units and n_scores == n_units


def require_recordable(record: SearchRecord | FinishedCell) -> None:
    """Refuse a record that could be written and not be read again.

    Raises:
        ValueError: a number is not finite, or values are nested too deep.
        TypeError: there is a value that JSON cannot hold.
        InputFileError: a value is of the wrong type or out of range.
    """
    converted(parse_json(encoded(record)), type(record), "the record")


def cell_key(cell: CellRecord) -> CellKey:
    """The key of a cell's record."""
    return cell.key


def _key(record: KeyRecord) -> CellKey:
    return CellKey(record.model, record.data, record.example, record.method, record.k, record.seed)


def _typed_lines(path: Path, kind: type[S]) -> Iterator[tuple[int, S]]:
    for line in numbered_lines(path):
        yield line.number, converted(line.record, kind, f"'{path}', line {line.number}")


def _require_same_units(cell: FinishedCell, example: ExampleRecord, what: str) -> None:
    """Refuse a cell whose units are not those of its example."""
    n_units = len(example.prompt.units)
    if any(i >= n_units for i in cell.removed):
        raise InputFileError(f"{what}: 'removed' names units that its prompt of {n_units} units has not")
    if cell.scores is not None and len(cell.scores) != n_units:
        raise InputFileError(f"{what}: 'scores' must have {n_units} numbers, got {len(cell.scores)}")
