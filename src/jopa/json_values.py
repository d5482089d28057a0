"""JSON that is checked as it is read, and values as JSON can hold them.

    parse_json    JSON text → values: finite numbers, limited depth
    read_json     the same of a file
    converted     values → a typed structure: types and ranges checked
    plain         a typed structure → values
    json_value    numbers and arrays of NumPy or torch → values
    encoded       values → one line of JSON text

The lowest layer: knows JSON, nothing of what it holds.
"""

from __future__ import annotations

import json
import math
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from jopa.errors import InputFileError

Record = dict[str, Any]
"""An object of JSON."""

MAX_DEPTH = 64
"""Lists and objects inside one another that JSON may have."""

T = TypeVar("T")


class NotFiniteError(ValueError):
    """JSON text that holds NaN, infinity, or a number too large for a float."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, as strict as the standard: no NaN, no infinity, no nesting deeper than `MAX_DEPTH`.

    Raises:
        ValueError: the text is not UTF-8 (a `UnicodeDecodeError`), no JSON, nested too deep, or holds a number that
            is not finite (`NotFiniteError`).
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(decoded, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"nested too deep: more than {MAX_DEPTH} lists and objects inside one another") from None
    # A text of few brackets cannot be deep; only the others are walked through.
    if decoded.count("[") + decoded.count("{") > MAX_DEPTH:
        require_shallow(value)
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        InputFileError: the file cannot be read or is no JSON; the message names it.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise InputFileError(f"'{path}' is no JSON: {error}") from error


def converted(value: Any, kind: type[T] | UnionType, what: str) -> T:
    """A JSON value as a typed structure, with all types and ranges checked.

    Args:
        value: lists, objects, texts and numbers, as `parse_json` gives them or `require_plain` lets them pass.
        kind: a `msgspec.Struct`, dataclass or union of them.
        what: how a message names the value, such as "'cells.jsonl', line 3".

    Raises:
        InputFileError: something is missing, of the wrong type, or out of range; the message says where.
    """
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except (ValueError, OverflowError, RecursionError, msgspec.ValidationError) as error:
        raise InputFileError(f"{what}: {str(error).replace('`', chr(39))}") from error


def require_schema(record: Record, known: int, what: str) -> None:
    """Refuse a record of a schema that this version of jopa does not read.

    Raises:
        InputFileError: the schema is missing, no whole number, or another one.
    """
    schema = record.get("schema")
    if type(schema) is not int or schema != known:
        raise InputFileError(
            f"{what}: the schema must be {known}, got {schema!r:.40}; read it with the version of jopa that wrote it"
        )


def require_shallow(value: Any) -> None:
    """Refuse lists and objects that are nested deeper than `MAX_DEPTH`.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
        if not level:
            return
    raise ValueError(f"nested too deep: more than {MAX_DEPTH} lists and objects inside one another")


def require_plain(value: Any) -> None:
    """Refuse values that are nested too deep, and numbers that are not finite.

    Raises:
        ValueError: there is one.
    """
    require_shallow(value)
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, float) and not math.isfinite(item):
            raise NotFiniteError(f"the number {item} is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotFiniteError(f"the number {text:.40} is not finite")
    return number


def encoded(record: Any) -> bytes:
    """A record as one line of JSON, without the line's end; half a surrogate pair is escaped.

    Raises:
        ValueError: it holds NaN or infinity, which JSON does not allow.
        TypeError: it holds a value of another kind than JSON's.
    """
    line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_builtin)
    return line.encode("utf-8", "backslashreplace")


def plain(record: Any) -> Any:
    """A typed structure as the lists and objects of JSON; other values as they are."""
    import msgspec

    return msgspec.to_builtins(record, enc_hook=_builtin) if isinstance(record, msgspec.Struct) else record


def json_value(value: Any) -> Any:
    """A value as JSON can hold it: numbers and arrays of NumPy or torch as Python's own, sets as lists.

    Raises:
        ValueError: it is nested too deep, or a number in it is not finite.
        TypeError: there is a value of another kind in it.
    """
    import msgspec

    try:
        own = msgspec.to_builtins(value, enc_hook=_builtin)
    except RecursionError:
        raise ValueError("nested too deep") from None
    require_plain(own)
    return own


def _builtin(value: Any) -> Any:
    """A number that is no int or float itself, and an array, as Python's own."""
    for kind, own in ((Integral, int), (Real, float), (str, str)):
        if issubclass(type(value), kind):
            return own(value)
    if hasattr(value, "tolist"):  # of NumPy or torch
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} is no JSON")
