"""How many tokens may be sent to a server, how many were, and how many are kept for what follows a search.

Several searches may share one allowance. Knows numbers alone.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from jopa.errors import LimitError, SettingError


class Allowance:
    """The tokens that one model may be sent.

    Args:
        limit: the most tokens; None for no limit.

    Raises:
        SettingError: the limit is below 1.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise SettingError(f"max_tokens_sent must be at least 1, got {limit}")
        self.limit = limit
        self.sent = 0
        """Tokens sent so far, or about to be sent."""
        self._kept = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """How many tokens may still be sent; infinite without a limit."""
        return math.inf if self.limit is None else float(max(0, self.limit - self.sent - self._kept))

    def take(self, tokens: int) -> None:
        """Count tokens that are about to be sent.

        Raises:
            LimitError: that would be more than the limit leaves; nothing is counted.
        """
        with self._lock:
            if tokens > self.left:
                kept = f", {self._kept:,} are kept for what follows the search" if self._kept else ""
                raise LimitError(
                    f"stopped before sending more than {self.limit:,} tokens (max_tokens_sent): {self.sent:,} were "
                    f"sent{kept} and {tokens:,} more are needed; raise the limit or lower the budget, and run the same "
                    "again: what was scored is not asked for twice (unless the cache is off)"
                )
            self.sent += tokens

    def give_back(self, tokens: int) -> None:
        """Tokens that were taken and not sent; negative, if more were sent than taken."""
        with self._lock:
            self.sent -= tokens

    def keep(self, tokens: int) -> None:
        """Keep tokens for later; a negative number releases them."""
        with self._lock:
            self._kept += tokens


@dataclass(frozen=True)
class CostAtMost:
    """What a run may take at most; requests that are tried again are left out.

    Attributes:
        requests: how many are sent.
        tokens: how many they carry; with a chat API those of the answers, too, and an estimate.
    """

    requests: int
    tokens: int
