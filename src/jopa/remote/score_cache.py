"""Scores that a server was paid for, kept on disk: one SQLite file for all servers and models.

Each entry is one row of token ids and the log-probabilities of its target. Entries are found by a checksum of server,
model and ids, so the file holds no text. Several processes may use it at once.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

from jopa.errors import InputFileError

_WAIT_SECONDS = 30.0


class ScoreCache:
    """Log-probabilities by server, model and ids.

    Args:
        path: the SQLite file; made when it is not there.

    Raises:
        InputFileError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, log_probs BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: bytes) -> list[float] | None:
        """The log-probabilities kept under a key."""
        try:
            with self._lock:
                found = self._database.execute("SELECT log_probs FROM scores WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if found is None else array("d", found[0]).tolist()

    def put(self, entries: Sequence[tuple[bytes, Sequence[float]]]) -> None:
        """Keep log-probabilities, safely on disk when this returns."""
        rows = [(key, array("d", log_probs).tobytes()) for key, log_probs in entries]
        try:
            with self._lock:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
                self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _unusable(self, error: Exception) -> InputFileError:
        return InputFileError(
            f"cannot use the cache of scores '{self.path}': {error}; set JOPA_CACHE, or switch it off"
        )


def cache_key(served: str, ids: Sequence[int], n_scored: int) -> bytes:
    """The key of one row.

    Args:
        served: names server and model.
        ids: the whole row, at most 2³² ids.
        n_scored: how many ids at its end are scored.
    """
    return hashlib.sha256(f"{served}\n{n_scored}\n".encode() + array("I", ids).tobytes()).digest()
