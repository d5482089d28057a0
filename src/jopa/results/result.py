"""What every result offers: its JSON form, a page of its own, a data frame, and how a notebook shows it.

Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from jopa.errors import InputFileError
from jopa.json_values import Record, parse_json, require_plain, require_schema

R = TypeVar("R", bound="Result")
"""Any kind of result. `typing.Self` would do, if what checks types while the tests run understood it."""


class Result(ABC):
    """A value that holds a result."""

    _noun: ClassVar[str]
    """What messages call it: "attribution"."""

    @abstractmethod
    def to_dict(self) -> Record:
        """The result as JSON holds it, its schema number included; `from_dict` gives an equal value."""

    @classmethod
    @abstractmethod
    def from_dict(cls: type[R], record: Record) -> R:
        """Rebuild a result from `to_dict`'s form; what follows from the other fields is computed again.

        Raises:
            InputFileError: the record has another schema, lacks something, or holds a value of the wrong type or range.
        """

    def to_json(self) -> str:
        """The result as JSON text; `from_json` gives an equal value."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls: type[R], text: str) -> R:
        """Rebuild a result from `to_json`'s text.

        Raises:
            InputFileError: the text is no JSON, or no result of this kind.
        """
        return cls.from_dict(json_object(text, cls._noun))

    def to_html(self, *, title: str | None = None) -> str:
        """The result as a web page that needs nothing but itself, with a title of the caller's."""
        from jopa.reports.views import result_html  # imported here: reports are above this layer

        return result_html(self, title=title)

    def to_frame(self) -> Any:
        """A pandas data frame with one row a unit; `jopa.reports.frames` lists its columns.

        Raises:
            SettingError: pandas is not installed.
        """
        from jopa.reports.views import result_frame

        return result_frame(self)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from jopa.reports.views import result_html

        return result_html(self, standalone=False)


def json_text(record: Record) -> str:
    """A record as the JSON text of a result.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)


def json_object(text: str, noun: str) -> Record:
    """The object that a JSON text holds.

    Raises:
        InputFileError: the text is no JSON, or holds another value; the message says what it should be.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputFileError(f"this is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputFileError(f"this JSON is no {noun}: it is no object")
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


def printable(value: object) -> str:
    """A text of a record for a `repr`, on one line: what a terminal does not print is escaped."""
    return repr(str(value))[1:-1]
