"""The names that callers choose from, as types and as lists, and the checks of a name and of a number.

Knows names and numbers alone.
"""

from __future__ import annotations

from operator import index
from typing import Any, Literal, get_args

from jopa.errors import SettingError

Removal = Literal["delete", "zero", "hide"]
"""How units are removed: tokens cut out, embeddings multiplied by 0, or no token attends to them."""
UnitKind = Literal["token", "word", "sentence", "line", "paragraph"]
"""Units that a text is cut into."""
WholeKind = Literal["message", "document"]
"""Units that are whole messages or documents."""
Objective = Literal["log-probability", "text-similarity"]
"""What scores are: log p(y | x) in nats, or how alike an answer and the output are, 0 to 1."""
Certificate = Literal["none", "one-swap-optimal", "optimal"]
"""What the evaluations prove about a set; see `Problem.certificate`."""

BUNDLED = "bundled"
"""Names the bundled model where the name of a model is asked for."""
LOG_PROBABILITY: Objective = "log-probability"
TEXT_SIMILARITY: Objective = "text-similarity"
REMOVALS: tuple[Removal, ...] = get_args(Removal)
UNIT_KINDS: tuple[UnitKind, ...] = get_args(UnitKind)
WHOLE_KINDS: tuple[WholeKind, ...] = get_args(WholeKind)


def checked_removal(name: str) -> Removal:
    """The removal of this name.

    Raises:
        SettingError: there is none.
    """
    for removal in REMOVALS:
        if name == removal:
            return removal
    raise SettingError(f"unknown removal '{name}': choose one of {', '.join(REMOVALS)}")


def real_number(name: str, value: Any) -> float:
    """A number as Python's own, also where it is one of NumPy's or torch's; a text is none.

    Raises:
        SettingError: it is none.
    """
    if not isinstance(value, bool | str):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise SettingError(f"{name} must be a number, got {value!r:.60}")


def whole_number(name: str, value: Any) -> int:
    """A whole number as Python's own, also where it is one of NumPy's or torch's.

    Raises:
        SettingError: it is none.
    """
    if not isinstance(value, bool):
        try:
            return index(value)
        except TypeError:
            pass
    raise SettingError(f"{name} must be a whole number, got {value!r:.60}")
