"""The output that is explained: token ids, and the part of them whose probability counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jopa.choices import whole_number
from jopa.errors import SettingError


def checked_target(target: Any) -> tuple[int, int]:
    """A target as `(start, end)`.

    Raises:
        SettingError: it is no pair of whole numbers.
    """
    try:
        start, end = target
    except (TypeError, ValueError) as error:
        raise SettingError(f"a target is (start, end) in output tokens, or a text, got {target!r:.60}") from error
    return whole_number("the target's start", start), whole_number("the target's end", end)


@dataclass(frozen=True)
class Output:
    """The token ids to explain.

    Attributes:
        ids: what the model generated, or the caller's own text.
        text: the same as text.
        target: `[start, end)`, the tokens of `ids` whose probability counts.
    """

    ids: tuple[int, ...]
    text: str
    target: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(whole_number("a token id", token) for token in self.ids))
        start, end = checked_target(self.target)
        object.__setattr__(self, "target", (start, end))
        if not 0 <= start < end <= len(self.ids):
            raise SettingError(f"the target must lie within the output's {len(self.ids)} tokens, got {start}:{end}")
