"""The body of a request: bytes counted as they come, and JSON that is stricter than in files.

It may be less deep, its numbers short, and it names no field twice; finite numbers are checked as in files (`storage`).

All bodies together are bounded, too: many large ones that come at once would fill the memory.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jopa.errors import JopaError
from jopa.json_values import NotFiniteError, require_plain

MAX_BYTES = 2_000_000
"""Of a body; more than any request needs that keeps within the limits and brings a result along."""
MAX_BYTES_AT_ONCE = 40_000_000
"""Of all bodies that are held at a time."""
BODY_SECONDS = 10.0
"""Seconds within which a body must have come."""
MAX_REQUEST_DEPTH = 8
"""Lists and objects within each other; a request has three."""
MAX_DIGITS = 25
"""Characters of a number."""
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class BodyError(JopaError):
    """A body cannot be taken.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyReader:
    """Reads bodies, and counts how many bytes of them are held at a time. For one event loop."""

    def __init__(self) -> None:
        self.held = 0

    @asynccontextmanager
    async def read(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The whole body, however it is transferred; it counts as held until the block is left.

        Raises:
            BodyError: it is longer than `MAX_BYTES`, takes longer than `BODY_SECONDS`, or too many are held.
        """
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for chunk in chunks:
                        self.held += len(chunk)
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise BodyError(413, f"a request may have {MAX_BYTES:,} bytes")
                        if self.held > MAX_BYTES_AT_ONCE:
                            raise BodyError(503, "too many large requests come at once: try again in a minute")
            except TimeoutError:
                raise BodyError(408, f"the request did not arrive within {BODY_SECONDS:g} seconds") from None
            yield bytes(body)
        finally:
            self.held -= len(body)


def parse_request(body: bytes) -> Any:
    """What a body says.

    Raises:
        BodyError: it is not JSON in UTF-8, names a key twice, goes deeper or has longer numbers than allowed, or has a
            number that is not finite.
    """
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(body):
        if (first := token.group()[:1]) in b"[{":
            depth += 1
        elif first in b"]}":
            depth -= 1
        if depth > MAX_REQUEST_DEPTH:
            raise BodyError(400, f"the JSON of a request may be {MAX_REQUEST_DEPTH} lists and objects deep")
    try:
        record = json.loads(
            body.decode(),
            parse_int=lambda digits: int(_short(digits)),
            parse_float=lambda digits: float(_short(digits)),
            object_pairs_hook=_distinct,
        )
        require_plain(record)
    except UnicodeDecodeError:
        raise BodyError(400, "a request is JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise BodyError(400, f"a request is JSON: {error.msg} at character {error.pos}") from None
    except NotFiniteError as error:
        raise BodyError(400, f"a request is JSON: {error}") from None
    return record


def _short(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise BodyError(400, f"a number in a request may have {MAX_DIGITS} digits")
    return digits


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise BodyError(400, "a request names a field twice")
    return record
