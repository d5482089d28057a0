"""Many prompts through `detect`: from texts, JSONL files and folders to one synced line each.

    settings.json     the model, the settings and the weights of all verdicts in the folder
    verdicts.jsonl    one line a prompt: a verdict, or an error

A prompt that cannot be read or judged gets an error line, and the work continues with the others. A prompt on record is
not judged again, unless its line is an error, its text has changed, or it lacks a number that the weights need. Order
and score are always computed from the recorded numbers, by the present weights. Where an id occurs twice, the last line
counts. A killed run continues where it stopped (see `jopa.storage`).

Knows files and `detect`, not the content of a verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from jopa.datasets.fields import MalformedError, identity
from jopa.detection.answer_kinds import Kind
from jopa.detection.calibration import RATE, Calibration, require_enough, set_threshold
from jopa.detection.hostility import detect
from jopa.detection.scoring import TUNED_FOR, WEIGHTS, fitted_on, order, score, weights_digest
from jopa.detection.settings import DetectionConfig
from jopa.detection.verdict import SCHEMA, Verdict
from jopa.errors import InputFileError, JopaError
from jopa.json_lines import json_lines
from jopa.json_values import Record, converted, parse_json, read_json
from jopa.preparation import loaded
from jopa.prompt.records import Cost, Count, Nats
from jopa.scoring.protocols import Model
from jopa.storage import Journal, locked, numbered_lines, write_text

VERDICTS = "verdicts.jsonl"
SETTINGS = "settings.json"


class _RecordedVerdict(Struct, tag_field="status", tag="done"):
    """What is read again of a verdict on record: all that is computed from it and that the command shows.

    A record of schema 1 has neither `order`, `flagged` nor `calibration`; all three are set anew.
    """

    id: str
    sha256: str
    score: Annotated[float, Meta(ge=0, le=1)] | None
    calibrated: bool
    tuned_for: str
    beginning: str
    answer: _RecordedAnswer
    units: list[_RecordedUnit]
    joint: Nats
    synergy: Nats
    probability_ratio: Cost
    span: _RecordedSpan
    without_span: _RecordedRemoval
    numbers: dict[str, Nats]
    model: _RecordedModel

    @property
    def is_complete(self) -> bool:
        """Whether it holds all numbers that the weights need and the command shows."""
        return {*WEIGHTS, "surprisal", "window"} <= self.numbers.keys()


class _RecordedModel(Struct):
    id: str | None


class _RecordedAnswer(Struct):
    kind: Kind
    tokens: Count
    log_prob: Nats


class _RecordedUnit(Struct):
    text: str
    effect: Nats


class _RecordedSpan(Struct):
    text: str
    start: Count
    end: Count


class _RecordedRemoval(Struct):
    """The answer without the suspicious span."""

    kind: Kind
    probability_ratio: Cost


class _RecordedFailure(Struct, tag_field="status", tag="failed"):
    """What is read again of an error on record."""

    id: str
    sha256: str
    error: str


@dataclass(frozen=True)
class ScreeningPrompt:
    """A prompt to judge.

    Attributes:
        id: unique among those asked for together.
        text: the prompt; None where it could not be read.
        problem: why not.
    """

    id: str
    text: str | None
    problem: str = ""

    @property
    def digest(self) -> str:
        """A checksum of the text, so that a changed prompt is noticed."""
        return hashlib.sha256((self.text or "").encode("utf-8", "surrogatepass")).hexdigest()


def read_prompts(path: Path) -> list[ScreeningPrompt]:
    """The prompts of a file or a folder.

    A `.jsonl` or `.jsonl.gz` file has one JSON object a line, or one list of them, with a text `prompt` and perhaps an
    `id` (else NAME:LINE). Of a folder every file is read, whatever its name, hidden ones left out; these as such. Any
    other file is one prompt, without its last line break, its name the id.

    Raises:
        InputFileError: the path cannot be read at all, or there is no prompt in it.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
        asked = [one for file in files for one in _of_file(file, file.relative_to(path).as_posix())]
    else:
        try:
            path.open("rb").close()
        except OSError as error:
            raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
        asked = list(_of_file(path, path.name))
    if not asked:
        raise InputFileError(f"'{path}' holds no prompt; give a text file, a JSONL file or a folder of them")
    return asked


def require_unique_ids(asked: Sequence[ScreeningPrompt]) -> None:
    """Refuse two prompts of one id, which could not be told apart on record."""
    seen: set[str] = set()
    for one in asked:
        if one.id in seen:
            raise InputFileError(f"two prompts have the id '{one.id}'; give each an id of its own")
        seen.add(one.id)


def screen(
    model: Model,
    asked: Sequence[ScreeningPrompt],
    folder: Path | None = None,
    *,
    config: DetectionConfig | None = None,
    calibration: Calibration | None = None,
    on_record: Callable[[Record, bool], None] | None = None,
) -> list[Record]:
    """Judge prompts one after the other, each on record before the next.

    Args:
        model: the language model.
        asked: the prompts, their ids distinct.
        folder: where the records are kept and looked up; None to keep none.
        config: the settings; by default those of the calibration.
        calibration: the threshold to judge by. A verdict on record is judged by it anew, without running the model.
        on_record: called with each record and whether it was there already.

    Returns:
        One record a prompt, in the order asked; `status` is "done" or "failed". Records that are not kept in a folder
        hold the whole verdict, the others its summary.

    Raises:
        InputFileError: the folder is in use, cannot be written, or holds verdicts of another kind.
        SettingError: the calibration was made for another model or other settings.
    """
    require_unique_ids(asked)
    config = config or (calibration.config if calibration else DetectionConfig())
    if calibration is not None:
        calibration.require_same(model.identity, config)
    found: list[Record] = []
    with ExitStack() as stack:
        journal, known = None, {}
        if folder is not None:
            known = stack.enter_context(_opened(folder, model, config))
            journal = stack.enter_context(Journal(folder / VERDICTS))
        for one in asked:
            record = known.get((one.id, one.digest))
            there = record is not None
            if record is None:
                record, new = judged(model, one, config, calibration, whole=folder is None), True
            else:
                record, new = _judged_again(record, calibration)
            if journal is not None and new:
                journal.append(record)
            found.append(record)
            if on_record:
                on_record(record, there)
    return found


def calibrate_detection(
    prompts: Sequence[str | ScreeningPrompt],
    *,
    model: Model | str | Path | None = None,
    rate: float = RATE,
    config: DetectionConfig | None = None,
    folder: Path | None = None,
    on_record: Callable[[Record, bool], None] | None = None,
) -> Calibration:
    """Set a threshold for `detect` from harmless prompts of one's own; see `jopa.detection.calibration`.

    Args:
        prompts: harmless prompts like those that will be judged. The threshold takes a repeated one as often as it
            occurs, but enough of them must be different.
        model: as for `detect`.
        rate: the false-alarm rate that is wanted.
        config: the settings.
        folder: where the verdicts are kept and looked up, so that stopped work continues; None to keep none.
        on_record: as for `screen`.

    Raises:
        SettingError: the rate is out of range, or there are too few different prompts for it that can be judged.
        InputFileError: as `screen`.
    """
    asked = [
        ScreeningPrompt(f"prompt {i}", one) if isinstance(one, str) else one for i, one in enumerate(prompts, start=1)
    ]
    require_enough(len({one.text for one in asked}), rate)
    config = config or DetectionConfig()
    language_model = loaded(model)
    records = screen(language_model, asked, folder, config=config, on_record=on_record)
    done = [record for record in records if record["status"] == "done"]
    require_enough(len({record["sha256"] for record in done}), rate)
    orders = [record["order"] for record in done]
    return set_threshold(orders, rate=rate, model=language_model.identity, config=config)


def judged(
    model: Model,
    asked: ScreeningPrompt,
    config: DetectionConfig,
    calibration: Calibration | None = None,
    *,
    whole: bool = False,
) -> Record:
    """One prompt's record: its verdict, or the error that stands in its place.

    Args:
        model: the language model.
        asked: the prompt.
        config: the settings.
        calibration: the threshold to judge by.
        whole: with the prompt and all that was measured, so that the record can be read back as a `Verdict`.
    """
    key = {"id": asked.id, "sha256": asked.digest}
    try:
        if asked.text is None:
            raise InputFileError(asked.problem)
        verdict: Verdict = detect(asked.text, model=model, config=config, calibration=calibration)
    except JopaError as error:
        return {**key, "status": "failed", "error": " ".join(str(error).split())}
    except Exception as error:  # a bug in jopa or the tokenizer; the other prompts are still judged
        reason = " ".join(str(error).split())
        return {**key, "status": "failed", "error": f"unexpected {type(error).__name__}: {reason:.300}"}
    return {**key, "status": "done", **(verdict.to_dict() if whole else verdict.summary())}


def _judged_again(record: Record, calibration: Calibration | None) -> tuple[Record, bool]:
    """A finished record under the present weights and threshold, and whether they changed it."""
    value, is_fitted = order(record["numbers"]), fitted_on(record["model"]["id"])
    judged_again = {
        **record,
        "schema": SCHEMA,
        "order": value,
        "score": score(value) if is_fitted else None,
        "calibrated": is_fitted,
        "tuned_for": TUNED_FOR,
        "flagged": None if calibration is None else calibration.flags(value),
        "calibration": None if calibration is None else calibration.to_dict(),
    }
    return judged_again, judged_again != record


@contextmanager
def _opened(folder: Path, model: Model, config: DetectionConfig) -> Iterator[dict[tuple[str, str], Record]]:
    """A folder of verdicts, held alone: its finished records by id and checksum."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputFileError(f"cannot make the folder '{folder}': {error.strerror}") from error
    settings = {"model": model.identity, "looking": config.to_dict(), "weights": weights_digest()}
    with locked(folder):
        earlier = _earlier_settings(folder, settings)
        found = _finished(folder / VERDICTS)
        if earlier != settings:
            found = _with_present_weights(folder, found)
            write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
        yield found


def _finished(path: Path) -> dict[tuple[str, str], Record]:
    """The finished records of a folder, by id and checksum."""
    found: dict[tuple[str, str], Record] = {}
    for number, record in numbered_lines(path):
        line = converted(record, _RecordedVerdict | _RecordedFailure, f"'{path}', line {number}")
        if isinstance(line, _RecordedVerdict) and line.is_complete:
            found[line.id, line.sha256] = record
    return found


def _earlier_settings(folder: Path, settings: Record) -> Record | None:
    """The settings of an old folder, None of a new one; refuse those of another model or other settings.

    The weights may be other ones, and earlier versions did not note them.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    earlier = read_json(path)
    if not isinstance(earlier, dict) or earlier | {"weights": settings["weights"]} != settings:
        raise InputFileError(
            f"'{folder}' holds verdicts of another model or other settings (see its {SETTINGS}); give another folder "
            "(--out)"
        )
    return earlier


def _with_present_weights(folder: Path, found: dict[tuple[str, str], Record]) -> dict[tuple[str, str], Record]:
    """The finished records with the order of the present weights, which is on record before the work continues."""
    again = {key: _judged_again(record, None) for key, record in found.items()}
    with Journal(folder / VERDICTS) as journal:
        for record, changed in again.values():
            if changed:
                journal.append(record)
    return {key: record for key, (record, _) in again.items()}


def _of_file(path: Path, name: str) -> Iterator[ScreeningPrompt]:
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from (_of_line(f"{name}:{number}", line) for number, line in json_lines(path))
        else:
            yield _decoded(name, path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except InputFileError as error:
        yield ScreeningPrompt(name, None, str(error))
    except OSError as error:
        yield ScreeningPrompt(name, None, f"cannot read '{name}': {error.strerror}")


def _decoded(name: str, data: bytes) -> ScreeningPrompt:
    try:
        return ScreeningPrompt(name, data.decode("utf-8").removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError as error:
        return ScreeningPrompt(name, None, f"not UTF-8: byte {error.start + 1} cannot be read; save it as UTF-8")


def _of_line(place: str, line: bytes) -> ScreeningPrompt:
    """One line of a JSONL file; whatever is wrong with it stands in its place."""
    try:
        record: Any = parse_json(line)
    except UnicodeDecodeError as error:
        return ScreeningPrompt(place, None, f"not UTF-8: byte {error.start + 1} of the line cannot be read")
    except ValueError as error:
        return ScreeningPrompt(place, None, f"not JSON: {error}")
    if not isinstance(record, dict):
        return ScreeningPrompt(place, None, "not a JSON object")
    try:
        name = identity(record, place)
    except MalformedError as error:
        return ScreeningPrompt(place, None, str(error))
    if not isinstance(record.get("prompt"), str):
        return ScreeningPrompt(name, None, "no text under 'prompt'")
    return ScreeningPrompt(name, record["prompt"])


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
