"""The records of a file that somebody else wrote: JSON Lines, or one JSON list; either may be compressed with gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jopa.errors import InputFileError
from jopa.json_values import parse_json

_GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number and the bytes of every line of a JSONL file that is not blank; the first has number 1.

    Lines end at a line feed and nowhere else: other separators, such as U+2028, may stand inside a JSON text. A file
    that is one JSON list gives its values as lines. Either may be compressed with gzip.

    Raises:
        InputFileError: the file cannot be read.
    """
    if path.is_dir():
        raise InputFileError(f"cannot read '{path}': it is a folder; give a JSONL file")
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputFileError(f"cannot read '{path}': it is a damaged gzip file ({error})") from error
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip().startswith(b"["):
        with suppress(ValueError):  # no list, so its lines are refused one by one
            listed = parse_json(content)
            yield from ((number, json.dumps(value).encode()) for number, value in enumerate(listed, start=1))
            return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line
