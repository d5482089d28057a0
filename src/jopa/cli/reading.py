"""What the user wrote as values: prompts from files, units, spans, bands, settings.

Whatever cannot be read is refused here, naming it and the form it should have.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jopa.errors import InputFileError, PromptError, SettingError
from jopa.json_values import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jopa.prompt.building import Message
    from jopa.prompt.segmentation import Span


def prompt_from(
    prompt: str | None, file: Path | None, messages: Path | None
) -> tuple[str | list[Message], list[Mapping[str, Any]] | None]:
    """The prompt from the one place where the user put it, and the tools that stand beside messages."""
    if sum(source is not None for source in (prompt, file, messages)) != 1:
        raise typer.BadParameter("give exactly one of PROMPT, --file and --messages")
    if prompt is not None:
        return prompt, None
    if file is not None:
        return read_text(file).removesuffix("\n").removesuffix("\r"), None
    assert messages is not None
    from jopa.prompt.messages import chat_of

    try:
        return chat_of(parse_json(read_text(messages)))
    except PromptError as error:
        raise InputFileError(f"'{messages}' cannot be used: {error}") from error
    except ValueError as error:
        raise InputFileError(f"'{messages}' is no JSON: {error}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends untouched; '-' is stdin."""
    if str(path) == "-" and sys.stdin is None:
        raise InputFileError("cannot read '-': there is no standard input")
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputFileError(f"'{path}' is not UTF-8: byte {error.start} cannot be read; save it as UTF-8") from error


def unit_from(unit: str) -> str | list[Span]:
    """A unit's name, or the character spans START-END,START-END."""
    if not unit[:1].isdigit():
        return unit
    try:
        return [_span(part, "-") for part in unit.split(",")]
    except ValueError:
        raise SettingError(f"cannot read the spans '{unit}': write them as 0-10,12-20") from None


def target_from(target: str | None) -> Span | str | None:
    """A target as a range of output tokens START:END, or a text that occurs in the output."""
    if target is None:
        return None
    try:
        return _span(target, ":")
    except ValueError:
        return target


def _span(text: str, separator: str) -> Span:
    start, end = text.split(separator)
    return int(start), int(end)


def parts_from(attribute: str | None) -> list[str | int] | None:
    """Parts of the input, NAME,NAME,…; whole numbers are places of messages."""
    if attribute is None:
        return None
    names = [name.strip() for name in attribute.split(",")]
    return [int(name) if name.removeprefix("-").isdecimal() else name for name in names]


def band_of(text: str) -> tuple[float, float]:
    """A band LOW:HIGH."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise SettingError(f"cannot read the band '{text}': write it as 0.95:1.05") from None
    return low, high


def unit_numbers(text: str) -> list[int]:
    """The indices of units that are written as numbers from 1, N,N,…"""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise SettingError(f"cannot read the units '{text}': write their numbers, counted from 1, as 2,4")
    return [number - 1 for number in numbers]


def setting(assignment: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON (numbers, true, false), else as text."""
    name, equals, value = assignment.partition("=")
    if not equals:
        raise SettingError(f"cannot read the setting '{assignment}': write NAME=VALUE")
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value
