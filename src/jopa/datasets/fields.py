"""Fields of records: texts and ids, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

SourceRow = Mapping[str, Any]


class MalformedError(Exception):
    """A record cannot be used; `reason` is what it is counted under, the text says more."""

    def __init__(self, reason: str, more: str = "") -> None:
        super().__init__(reason + more)
        self.reason = reason


def text_field(record: SourceRow, key: str) -> str:
    """A field that must be a text with something in it."""
    value = optional_text(record, key)
    if value is None:
        raise MalformedError(f"'{key}' is missing")
    if not value.strip():
        raise MalformedError(f"'{key}' is empty")
    return value


def identity(record: SourceRow, place: str) -> str:
    """A record's id as text: numbers become text, and a record without one is called after its place."""
    value = record.get("id")
    if value is None:
        return place
    if isinstance(value, Number) and not isinstance(value, bool):  # also one of NumPy
        return str(value)
    if not isinstance(value, str):
        raise MalformedError("'id' is neither text nor a number", f" but {_json_type(value)}")
    return text_field(record, "id")


def optional_text(record: SourceRow, key: str) -> str | None:
    """A field that may be absent or null, but otherwise is a text."""
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise MalformedError(f"'{key}' is not text", f" but {_json_type(value)}")
    return value


def _json_type(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
