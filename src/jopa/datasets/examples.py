"""The paper's data sets, and any JSONL file, as prompts with their control texts.

Rows of the hub are first turned into the records that a JSONL file of the same set has (`sources`), so both take one
way:

    record → checked fields → Example → length filter, repeats dropped → seeded slice

Whatever is read is either kept or counted under the reason it was left out.

Knows no model and no tokenizer: lengths are counted in white-space separated words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import Any

from jopa.datasets.fields import MalformedError, SourceRow, identity, optional_text, text_field
from jopa.datasets.sources import DATASETS, Source, load_from_hub
from jopa.errors import InputFileError, SettingError, reason_of
from jopa.json_lines import json_lines
from jopa.json_values import parse_json


@dataclass(frozen=True)
class Example:
    """One prompt of a data set, with what `build_prompt` needs around it.

    Attributes:
        id: unique within its data set.
        prompt: the attributable text.
        system: a system message, template.
        prefix: a fixed instruction before the prompt, template.
        prefill: the beginning of the answer, template.
        reference: what the set gives as right: a headline, the letter of the correct choice.
        extra: the record's other fields, as they were read.
    """

    id: str
    prompt: str
    system: str | None = None
    prefix: str | None = None
    prefill: str | None = None
    reference: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Dataset:
    """The prompts of a data set that are used, and an account of the others.

    Attributes:
        name: the name it was asked for by.
        source: hub id, configuration and split, or the path of the file.
        examples: what is used. Without a limit in the order of the source, with one in the order of the seeded slice.
        read: the number of records read; blank lines are none.
        left_out: the number of records left out under each reason; with the examples they add up to `read`.
        problems: one line for each malformed record, "FILE:LINE: what is wrong with it", in order.
    """

    name: str
    source: str
    examples: tuple[Example, ...]
    read: int
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)
    problems: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: how many records were kept, how many left out, and why."""
        kept = f"{self.name}: kept {len(self.examples)} of {self.read} records of {self.source}"
        reasons = ", ".join(f"{count} ({reason})" for reason, count in self.left_out.items())
        return f"{kept}; left out {reasons}" if reasons else kept


def load_dataset(name: str, *, path: str | Path | None = None, limit: int | None = None, seed: int = 0) -> Dataset:
    """Load a named data set, from the hub or another package, or any data set from a JSONL file.

    Args:
        name: one of `DATASETS`; with a path any name.
        path: a JSONL file, one object a line with `prompt` and perhaps `id`: a text or a number, by default the line's
            number, and "3-2" in place of 3 where another record has the id 3. Under one of the names in `DATASETS` it
            replaces the hub and keeps that set's control texts and filters (for `aqua` it has `question`, `options` and
            `correct`). Under any other name nothing is filtered, and the optional fields `system`, `prefix`, `prefill`
            and `reference` are taken from each line.
        limit: use this many examples, drawn by `seed`; by default all. A smaller limit gives the beginning of a larger
            one, and whether a record comes before another depends on their ids and the seed alone.
        seed: of the draw.

    Raises:
        SettingError: the name is unknown and there is no path, the limit is below 1, or the package that talks to the
            hub is not installed.
        InputFileError: the file or the hub's data set cannot be read, or has no record that can be used.
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit must be at least 1 example, got {limit}")
    spec = DATASETS.get(name)
    if path is not None:
        return _assemble(name, str(path), spec, _file_rows(Path(path)), limit, seed)
    if spec is None:
        raise SettingError(
            f"unknown data set '{name}': choose one of {', '.join(DATASETS)}, or give a JSONL file: --data {name}=path"
        )
    rows = _hub_rows(spec) if spec.rows is None else _given_rows(spec)
    return _assemble(name, str(spec), spec, rows, limit, seed)


# From rows to examples ------------------------------------------------------------------------------------------------

_Row = tuple[str, Callable[[], SourceRow]]
"""Where a record stands, and a function that reads it or raises `MalformedError`."""


def _assemble(
    name: str, source: str, spec: Source | None, rows: Iterator[_Row], limit: int | None, seed: int
) -> Dataset:
    """Check and filter every row, account for it, and cut the slice."""
    examples: list[Example] = []
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    ids: dict[str, str] = {}
    unnamed: list[int] = []
    prompts: set[str] = set()
    read = 0
    for where, read_record in rows:
        read += 1
        try:
            record = read_record()
            example = _example(record, where.rpartition(":")[2], spec)
            is_named = record.get("id") is not None
            if is_named and example.id in ids:
                raise MalformedError("repeated id", f" {example.id!r:.80}, first seen at {ids[example.id]}")
            reason = _filtered(example, record, spec, prompts)
        except MalformedError as error:
            left_out[error.reason] += 1
            problems.append(f"{where}: {error}")
            continue
        if is_named:
            ids[example.id] = where
        if reason:
            left_out[reason] += 1
            continue
        if not is_named:
            unnamed.append(len(examples))
        examples.append(example)
    taken = set(ids)
    for i in unnamed:  # after the others, whose ids stand in the records
        examples[i] = replace(examples[i], id=_free_name(examples[i].id, taken))
        taken.add(examples[i].id)
    if not examples:
        raise InputFileError(_nothing_to_use(source, read, left_out, problems))
    if limit is not None:
        examples.sort(key=lambda example: _draw(seed, example.id))
        if len(examples) > limit:
            left_out[f"beyond the limit of {limit}"] = len(examples) - limit
    return Dataset(name, source, tuple(examples[:limit]), read, dict(left_out), tuple(problems))


def _free_name(place: str, taken: Container[str]) -> str:
    """What a record without an id is called: its place, and a further number where another record is called that."""
    return next(name for number in count(1) if (name := place if number == 1 else f"{place}-{number}") not in taken)


def _draw(seed: int, example_id: str) -> bytes:
    """A record's place in the seeded order; it does not depend on the other records."""
    return hashlib.sha256(f"{seed}:{example_id}".encode()).digest()


def _nothing_to_use(source: str, read: int, left_out: Mapping[str, int], problems: list[str]) -> str:
    if not read:
        return f"'{source}' is empty; give one JSON object a line with 'prompt' and perhaps 'id'"
    reasons = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
    first = f"; the first: {problems[0]}" if problems else ""
    return f"'{source}' has no record that can be used: of {read} left out {reasons}{first}"


def _example(record: SourceRow, place: str, spec: Source | None) -> Example:
    """One checked example.

    Raises:
        MalformedError: a field is missing, empty or of the wrong type.
    """
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise MalformedError("half a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise MalformedError("nested too deep") from error
    except Exception as error:  # of whatever kind: a record of another package may hold anything
        raise MalformedError("no record that JSON could hold", f": {reason_of(error)}") from error
    name = identity(record, place)
    if spec and spec.questions:
        taken = {"id", "question", "options", "correct"}
        prompt, reference = _question(record)
    else:
        reference_field = spec.reference_field if spec else "reference"
        taken = {"id", "prompt", reference_field}
        prompt, reference = text_field(record, "prompt"), optional_text(record, reference_field)
    if spec and spec.rows is None:
        controls = {"prefix": _instruction(record, spec), "prefill": spec.prefill}
    else:
        controls = {key: optional_text(record, key) for key in ("system", "prefix", "prefill")}
        taken |= controls.keys()
        if spec:
            controls = {key: value or getattr(spec, key, None) for key, value in controls.items()}
    extra = {key: value for key, value in record.items() if key not in taken}
    return Example(name, prompt, **controls, reference=reference, extra=extra)


def _instruction(record: SourceRow, spec: Source) -> str | None:
    """The fixed instruction, and the record's own question where its set has such a field."""
    if not spec.question_field:
        return spec.prefix
    return f"{spec.prefix}\nQuestion: {text_field(record, spec.question_field).strip()}\n"


def _filtered(example: Example, record: SourceRow, spec: Source | None, prompts: set[str]) -> str | None:
    """Why a sound example of a named set is not used, or None; remembers its prompt.

    Raises:
        MalformedError: the record's own number of words is none.
    """
    if spec is None:
        return None
    if spec.words:
        words = record.get(spec.words_field, len(example.prompt.split()))
        if not isinstance(words, Integral) or isinstance(words, bool):
            raise MalformedError(f"'{spec.words_field}' is not a whole number", f" but {words!r:.40}")
        fewest, most = spec.words
        if not fewest <= int(words) <= most:
            return f"not of {fewest} to {most} words"
    folded = " ".join(example.prompt.split()).casefold()
    if folded in prompts:
        return "repeated prompt"
    prompts.add(folded)
    return None


_OPTION = re.compile(r"\s*([A-Z])\)\s*(.*)", re.DOTALL)


def _question(record: SourceRow) -> tuple[str, str | None]:
    """An AQuA question with its choices, written as in the demonstrations, and the correct choice as "(a)"."""
    question, options, correct = text_field(record, "question"), record.get("options"), optional_text(record, "correct")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise MalformedError("'options' is not a list of texts")
    choices = []
    for i, option in enumerate(options):
        match = _OPTION.fullmatch(option)
        letter, text = match.groups() if match else (chr(ord("A") + i), option)
        choices.append((f"({letter.lower()})", text.strip()))
    reference = f"({correct.strip().lower()})" if correct else None
    if reference and reference not in dict(choices):
        raise MalformedError("'correct' names none of the options", f": {correct!r:.40}")
    listed = " ".join(f"{letter} {text}" for letter, text in choices)
    return f"{question.strip()}\nAnswer Choices: {listed}", reference


# Files ----------------------------------------------------------------------------------------------------------------


def _file_rows(path: Path) -> Iterator[_Row]:
    """Every line of a JSONL file that is not blank."""
    for number, line in json_lines(path):
        yield f"{path.name}:{number}", lambda line=line: _parsed(line)


def _parsed(line: bytes) -> SourceRow:
    try:
        record = parse_json(line)
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8", f": byte {error.start + 1} of the line cannot be read") from error
    except ValueError as error:
        raise MalformedError("not JSON", f": {error}") from error
    if not isinstance(record, dict):
        raise MalformedError("not a JSON object")
    return record


# Other packages -------------------------------------------------------------------------------------------------------


def _given_rows(spec: Source) -> Iterator[_Row]:
    """Every record of another package's data set; by default its id is its number."""
    assert spec.rows is not None
    try:
        for number, record in enumerate(spec.rows(), start=1):
            yield f"{spec.name}:{number}", lambda record=record: _checked_row(record)
    except (Exception, SystemExit) as error:  # of whatever kind: the code is somebody else's
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputFileError(f"data set '{spec.name}' cannot give its records ({spec}): {reason}") from error


def _checked_row(record: Any) -> SourceRow:
    if not isinstance(record, Mapping):
        raise MalformedError("not a mapping of fields", f" but {record!r:.60}")
    return record


# The hub --------------------------------------------------------------------------------------------------------------


def _hub_rows(spec: Source) -> Iterator[_Row]:
    """Every row of a data set of the hub, as a record of a JSONL file; the id is the row's number."""
    for number, row in enumerate(load_from_hub(spec)):

        def read(number: int = number, row: SourceRow = row) -> SourceRow:
            return {"id": f"{spec.name}-{number:05d}", **spec.from_hub(row)}

        yield f"{spec.hub_id} row {number}", read
