"""The paper's data sets, and any JSONL file, as prompts with their control texts.

A named set is a source header (`DATASETS`), a small reader, a length filter and a seeded slice; rows of the hub are
first turned into the records that a JSONL file of the same set has, so both take one way:

    record → checked fields → Example → length filter, repeats dropped → seeded slice

Sources and filters: section 5.1, Appendix A.2 and Table 3 of the paper, and for the fixed instructions and the
prefilled answer its published code. Whatever is read is either kept or counted under the reason it was left out.

Knows no model and no tokenizer: lengths are counted in white-space separated words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jopa.errors import InputFileError, SettingError

Record = Mapping[str, Any]

PREFILL = "Of course! I'd be happy to help you with that."
"""The beginning of the answer that the paper's experiments put into the assistant's mouth."""

_PARQUET = "refs/convert/parquet"
"""The branch where the hub keeps its own conversion of data sets whose repository holds a loading script."""

# The four AQuA exemplars of Wei et al. 2022 (arXiv 2201.11903), also printed in Wang et al. 2022 (arXiv 2203.11171,
# Table 14); text by way of langchain `chains/self_consistency/prompts/aqua_rat_prompt.py` (MIT licence).
AQUA_DEMONSTRATIONS = (
    "Q: John found that the average of 15 numbers is 40. "
    "If 10 is added to each number then the mean of the numbers is?\n"
    "Answer Choices: (a) 50 (b) 45 (c) 65 (d) 78 (e) 64\n"
    "A: If 10 is added to each number, then the mean of the numbers also increases by 10. So the new mean would be 50. "
    "The answer is (a).\n\n"
    "Q: If a / b = 3/4 and 8a + 5b = 22,then find the value of a.\n"
    "Answer Choices: (a) 1/2 (b) 3/2 (c) 5/2 (d) 4/2 (e) 7/2\n"
    "A: If a / b = 3/4, then b = 4a / 3. So 8a + 5(4a / 3) = 22. This simplifies to 8a + 20a / 3 = 22, which means "
    "44a / 3 = 22. So a is equal to 3/2. The answer is (b).\n\n"
    "Q: A person is traveling at 20 km/hr and reached his destiny in 2.5 hr then find the distance?\n"
    "Answer Choices: (a) 53 km (b) 55 km (c) 52 km (d) 60 km (e) 50 km\n"
    "A: The distance that the person traveled would have been 20 km/hr * 2.5 hrs = 50 km. The answer is (e).\n\n"
    "Q: How many keystrokes are needed to type the numbers from 1 to 500?\n"
    "Answer Choices: (a) 1156 (b) 1392 (c) 1480 (d) 1562 (e) 1788\n"
    "A: There are 9 one-digit numbers from 1 to 9. There are 90 two-digit numbers from 10 to 99. There are 401 "
    "three-digit numbers from 100 to 500. 9 + 90(2) + 401(3) = 1392. The answer is (b).\n\n"
)


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


@dataclass(frozen=True)
class Source:
    """Where a named data set comes from, how its rows are read, and the control texts around its prompts.

    Attributes:
        name: what it is asked for by.
        summary: what it is, in a line.
        hub_id: its id on the Hugging Face hub.
        split: the rows of it that are read.
        from_hub: turns a row of the hub into a record of a JSONL file, without an id.
        config: its configuration on the hub, if it has several.
        words: the fewest and the most words of a prompt that is used.
        words_field: the field of a record that has the number of words that counts, where it has one.
        reference_field: the field of a record that has the reference.
        prefix: the fixed instruction, template.
        prefill: the prefilled answer, template.
        questions: its records hold a question with choices instead of a prompt.
    """

    name: str
    summary: str
    hub_id: str
    split: str
    from_hub: Callable[[Record], dict[str, Any]]
    config: str | None = None
    words: tuple[int, int] | None = None
    words_field: str = ""
    reference_field: str = "reference"
    prefix: str | None = None
    prefill: str | None = None
    questions: bool = False

    def __str__(self) -> str:
        return ", ".join(part for part in (self.hub_id, self.config, self.split) if part)


class _MalformedError(Exception):
    """A record cannot be used; `reason` is what it is counted under, the text says more."""

    def __init__(self, reason: str, more: str = "") -> None:
        super().__init__(reason + more)
        self.reason = reason


def load_dataset(name: str, *, path: str | Path | None = None, limit: int | None = None, seed: int = 0) -> Dataset:
    """Load a named data set from the hub, or any data set from a JSONL file.

    Args:
        name: one of `DATASETS`; with a path any name.
        path: a JSONL file, one object a line with `id` and `prompt`. Under one of the names in `DATASETS` it stands in
            for the hub and keeps that set's control texts and filters (for `aqua` it has `id`, `question`, `options`
            and `correct`). Under any other name nothing is filtered, and the optional fields `system`, `prefix`,
            `prefill` and `reference` are taken from each line.
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
    return _assemble(name, str(spec), spec, _hub_rows(spec), limit, seed)


# From rows to examples ------------------------------------------------------------------------------------------------

_Row = tuple[str, Callable[[], Record]]
"""Where a record stands, and a function that reads it or raises `_MalformedError`."""


def _assemble(
    name: str, source: str, spec: Source | None, rows: Iterator[_Row], limit: int | None, seed: int
) -> Dataset:
    """Check and filter every row, account for it, and cut the slice."""
    examples: list[Example] = []
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    ids: dict[str, str] = {}
    prompts: set[str] = set()
    read = 0
    for where, read_record in rows:
        read += 1
        try:
            record = read_record()
            example = _example(record, spec)
            if example.id in ids:
                raise _MalformedError("repeated id", f" {example.id!r:.80}, first seen at {ids[example.id]}")
            reason = _filtered(example, record, spec, prompts)
        except _MalformedError as error:
            left_out[error.reason] += 1
            problems.append(f"{where}: {error}")
            continue
        ids[example.id] = where
        if reason:
            left_out[reason] += 1
        else:
            examples.append(example)
    if not examples:
        raise InputFileError(_nothing_to_use(source, read, left_out, problems))
    if limit is not None:
        examples.sort(key=lambda example: _draw(seed, example.id))
        if len(examples) > limit:
            left_out[f"beyond the limit of {limit}"] = len(examples) - limit
    return Dataset(name, source, tuple(examples[:limit]), read, dict(left_out), tuple(problems))


def _draw(seed: int, example_id: str) -> bytes:
    """A record's place in the seeded order; it does not depend on the other records."""
    return hashlib.sha256(f"{seed}:{example_id}".encode()).digest()


def _nothing_to_use(source: str, read: int, left_out: Mapping[str, int], problems: list[str]) -> str:
    if not read:
        return f"'{source}' is empty; give one JSON object a line with 'id' and 'prompt'"
    reasons = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
    first = f"; the first: {problems[0]}" if problems else ""
    return f"'{source}' has no record that can be used: of {read} left out {reasons}{first}"


def _example(record: Record, spec: Source | None) -> Example:
    """One checked example.

    Raises:
        _MalformedError: a field is missing, empty or of the wrong type.
    """
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise _MalformedError("half a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise _MalformedError("nested too deep") from error
    identity = _text(record, "id")
    if spec and spec.questions:
        taken = {"id", "question", "options", "correct"}
        prompt, reference = _question(record)
    else:
        reference_field = spec.reference_field if spec else "reference"
        taken = {"id", "prompt", reference_field}
        prompt, reference = _text(record, "prompt"), _optional(record, reference_field)
    if spec:
        controls = {"prefix": spec.prefix, "prefill": spec.prefill}
    else:
        controls = {key: _optional(record, key) for key in ("system", "prefix", "prefill")}
        taken |= controls.keys()
    extra = {key: value for key, value in record.items() if key not in taken}
    return Example(identity, prompt, **controls, reference=reference, extra=extra)


def _filtered(example: Example, record: Record, spec: Source | None, prompts: set[str]) -> str | None:
    """Why a sound example of a named set is not used, or None; remembers its prompt.

    Raises:
        _MalformedError: the record's own number of words is none.
    """
    if spec is None:
        return None
    if spec.words:
        words = record.get(spec.words_field, len(example.prompt.split()))
        if not isinstance(words, int) or isinstance(words, bool):
            raise _MalformedError(f"'{spec.words_field}' is not a whole number", f" but {words!r:.40}")
        fewest, most = spec.words
        if not fewest <= words <= most:
            return f"not of {fewest} to {most} words"
    folded = " ".join(example.prompt.split()).casefold()
    if folded in prompts:
        return "repeated prompt"
    prompts.add(folded)
    return None


def _text(record: Record, key: str) -> str:
    """A field that must be a text with something in it."""
    value = _optional(record, key)
    if value is None:
        raise _MalformedError(f"'{key}' is missing")
    if not value.strip():
        raise _MalformedError(f"'{key}' is empty")
    return value


def _optional(record: Record, key: str) -> str | None:
    """A field that may be absent or null, but otherwise is a text."""
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise _MalformedError(f"'{key}' is not text", f" but {_json_type(value)}")
    return value


def _json_type(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


_OPTION = re.compile(r"\s*([A-Z])\)\s*(.*)", re.DOTALL)


def _question(record: Record) -> tuple[str, str | None]:
    """An AQuA question with its choices, written as in the demonstrations, and the correct choice as "(a)"."""
    question, options, correct = _text(record, "question"), record.get("options"), _optional(record, "correct")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise _MalformedError("'options' is not a list of texts")
    choices = []
    for i, option in enumerate(options):
        match = _OPTION.fullmatch(option)
        letter, text = match.groups() if match else (chr(ord("A") + i), option)
        choices.append((f"({letter.lower()})", text.strip()))
    reference = f"({correct.strip().lower()})" if correct else None
    if reference and reference not in dict(choices):
        raise _MalformedError("'correct' names none of the options", f": {correct!r:.40}")
    listed = " ".join(f"{letter} {text}" for letter, text in choices)
    return f"{question.strip()}\nAnswer Choices: {listed}", reference


# Files ----------------------------------------------------------------------------------------------------------------


def _file_rows(path: Path) -> Iterator[_Row]:
    """Every line of a JSONL file that is not blank.

    Lines end at a line feed and nowhere else: other separators, such as U+2028, may stand inside a JSON text.
    """
    if path.is_dir():
        raise InputFileError(f"cannot read '{path}': it is a folder; give a JSONL file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"{path.name}:{number}", lambda line=line: _parsed(line)


def _parsed(line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _MalformedError("not UTF-8", f": byte {error.start + 1} of the line cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise _MalformedError("not JSON", f": {error}") from error
    if not isinstance(record, dict):
        raise _MalformedError("not a JSON object")
    return record


# The hub --------------------------------------------------------------------------------------------------------------


def _hub_rows(spec: Source) -> Iterator[_Row]:
    """Every row of a data set of the hub, as a record of a JSONL file; the id is the row's number."""
    for number, row in enumerate(_from_hub(spec)):

        def read(number: int = number, row: Record = row) -> Record:
            return {"id": f"{spec.name}-{number:05d}", **spec.from_hub(row)}

        yield f"{spec.hub_id} row {number}", read


def _from_hub(spec: Source) -> Any:
    """The `datasets.Dataset` of a named set.

    Raises:
        SettingError: the package `datasets` is not installed.
        InputFileError: the hub cannot be reached, or the data set or its split is not there.
    """
    try:
        import datasets as hub
    except ImportError as error:
        raise SettingError(
            f"the data set '{spec.name}' needs the package datasets: pip install \"jopa[bench]\", "
            f"or give your own copy: --data {spec.name}=path"
        ) from error
    try:
        try:
            return hub.load_dataset(spec.hub_id, spec.config, split=spec.split)
        except RuntimeError as error:
            if spec.config or "scripts are no longer supported" not in str(error):
                raise
            return hub.load_dataset(spec.hub_id, split=spec.split, revision=_PARQUET)
    except Exception as error:  # the library passes on whatever the network, the hub and the file formats raise
        reason = " ".join(str(error).split())
        raise InputFileError(
            f"cannot load '{spec}' from the hub ({reason or type(error).__name__:.200}); check the network, "
            f"or give your own copy as JSONL: --data {spec.name}=path"
        ) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _alpaca(row: Record) -> dict[str, Any]:
    """Columns instruction, input, output; the model-written output is not read."""
    instruction = _text(row, "instruction")
    prompt = f"{instruction} {_optional(row, 'input') or ''}".strip()
    return {"prompt": prompt, "instruction_words": len(instruction.split())}


def _tldr_news(row: Record) -> dict[str, Any]:
    """Columns headline, content, category; in the hub's later version title, text, section and others."""
    content, headline = ("text", "title") if "content" not in row and "text" in row else ("content", "headline")
    return {"prompt": _one_line(_text(row, content)), "headline": _optional(row, headline)}


def _mhc(row: Record) -> dict[str, Any]:
    """Columns Context, Response: a question is repeated with each of its answers."""
    return {"prompt": _one_line(_text(row, "Context"))}


def _counsel_chat(row: Record) -> dict[str, Any]:
    """Columns questionText, topic and others about the answers and therapists, which are not read."""
    return {"prompt": _one_line(_text(row, "questionText")), "topic": row.get("topic")}


def _aqua(row: Record) -> dict[str, Any]:
    """Columns question, options, rationale, correct; the rationale is not read."""
    return {key: row.get(key) for key in ("question", "options", "correct")}


_ADVICE = "Please generate advice or suggestions in response to the following mental health-related question."

DATASETS: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="alpaca",
            summary="instructions, some with an input",
            hub_id="yahma/alpaca-cleaned",
            split="train[:1500]",
            from_hub=_alpaca,
            words=(16, 39),
            words_field="instruction_words",
            prefix="You are a helpful, respectful and honest assistant. "
            "Please analyze the following context and answer the question.",
            prefill=PREFILL,
        ),
        Source(
            name="tldr_news",
            summary="items of a technology newsletter, to be given a headline",
            hub_id="JulesBelveze/tldr_news",
            split="train",
            from_hub=_tldr_news,
            words=(14, 138),
            reference_field="headline",
            prefix="Please generate a headline from the following piece of context.",
            prefill=PREFILL,
        ),
        Source(
            name="mhc",
            summary="questions to mental health counsellors",
            hub_id="Amod/mental_health_counseling_conversations",
            split="train",
            from_hub=_mhc,
            words=(18, 478),
            prefix=_ADVICE,
            prefill=PREFILL,
        ),
        Source(
            name="counsel_chat",
            summary="questions to mental health counsellors, of one of the platforms in mhc",
            hub_id="nbertagnolli/counsel-chat",
            split="train",
            from_hub=_counsel_chat,
            words=(18, 478),
            prefix=_ADVICE,
            prefill=PREFILL,
        ),
        Source(
            name="aqua",
            summary="algebra questions with choices after four worked demonstrations (few-shot chain of thought)",
            hub_id="deepmind/aqua_rat",
            config="raw",
            split="test",
            from_hub=_aqua,
            prefix=AQUA_DEMONSTRATIONS + "Q: ",
            prefill="\nA:",  # a line of its own also where no chat template parts it from the prompt
            questions=True,
        ),
    )
}
"""The data sets known by name."""
