"""The levels of a search from coarse to fine: which kinds of units they may have, and what is recorded of each.

Knows values alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jopa.choices import Certificate
from jopa.errors import SettingError
from jopa.prompt.building import AUTO, Unit
from jopa.prompt.segmentation import Span

GRAIN = {"message": 0, "document": 0, "paragraph": 1, "line": 2, "sentence": 3, "word": 4, "token": 5}
"""Kinds of units, the coarse ones first."""


@dataclass(frozen=True)
class Level:
    """A search among units of one kind, inside the units that the level before it opened.

    Attributes:
        unit: their kind, such as "document".
        units: what could be removed at this level; everything else stayed.
        n_units: how many units of this kind the whole prompt has.
        inside: for each unit the unit of the level before that it lies in, as an index; empty at the first level.
        removed: indices of the chosen units, the one with the largest individual effect first.
        opened: indices of the units that the next level looked into: the chosen ones, then the runners-up, the
            strongest first; empty at the last level.
        log_prob_removed: log p(y|x without the chosen units), in nats.
        probability_ratio: exp(mean log-probability difference per target token) without them.
        individual: L({i}) of each chosen unit, in nats, in the order of `removed`.
        certificate: what is proved of them among the sets of `units`; nothing is said of units that were not opened.
        evaluations: masks scored at this level.
        shared: masks that an earlier level had scored: the same tokens removed.
        ffe: model work of this level, in full-forward equivalents.
        stop: why its search ended.
    """

    unit: str
    units: tuple[Unit, ...]
    n_units: int
    inside: tuple[int, ...]
    removed: tuple[int, ...]
    opened: tuple[int, ...]
    log_prob_removed: float
    probability_ratio: float
    individual: tuple[float, ...]
    certificate: Certificate
    evaluations: int
    shared: int
    ffe: float
    stop: str


def require_finer(refine: Sequence[str], unit: str | Sequence[Span] = AUTO) -> None:
    """Refuse kinds of units that do not go from coarse to fine; needs no prompt and no model.

    Args:
        refine: of the levels after the first.
        unit: of the first level; with "auto" the further ones alone are compared.

    Raises:
        SettingError: they are no sequence, or a kind is unknown, or not finer than the one before it.
    """
    if isinstance(refine, str) or not isinstance(refine, Sequence):
        raise SettingError(f"refine is a tuple of kinds of units, such as ('sentence',), got {refine!r:.60}")
    if refine and not isinstance(unit, str):
        raise SettingError("refine goes from one kind of unit to a finer one; give unit a name, not spans")
    before = None if unit == AUTO else unit
    for finer in refine:
        if not isinstance(finer, str) or finer not in GRAIN:
            raise SettingError(f"unknown unit {finer!r:.40} to refine to: choose of {', '.join(GRAIN)}")
        if before in GRAIN and GRAIN[finer] <= GRAIN[str(before)]:
            raise SettingError(
                f"refine '{finer}' is not finer than '{before}'; from coarse to fine there are {', '.join(GRAIN)}"
            )
        before = finer


def require_levels(levels: tuple[Level, ...]) -> None:
    """Refuse levels that do not fit one another.

    Raises:
        ValueError: naming the level.
    """
    opened: tuple[int, ...] | None = None
    for number, level in enumerate(levels):
        units = range(len(level.units))
        named = {"removed": level.removed, "opened": level.opened}
        for name, chosen in named.items():
            if len(set(chosen)) < len(chosen) or not set(chosen) <= set(units):
                raise ValueError(f"'{name}' of level {number} must be different units below {len(units)}")
        if len(level.individual) != len(level.removed):
            raise ValueError(f"level {number} must have a number under 'individual' for each chosen unit")
        n_inside = 0 if opened is None else len(units)
        if len(level.inside) != n_inside or not set(level.inside) <= set(opened or ()):
            raise ValueError(f"'inside' of level {number} must name an opened unit of the level before for each unit")
        opened = level.opened
