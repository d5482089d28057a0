"""The output that is explained: token ids, and the part of them whose probability counts."""

from __future__ import annotations

from dataclasses import dataclass

from jopa.errors import SettingError


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
        start, end = self.target
        if not 0 <= start < end <= len(self.ids):
            raise SettingError(f"the target must lie within the output's {len(self.ids)} tokens, got {start}:{end}")
