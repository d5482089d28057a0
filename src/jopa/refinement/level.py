"""What is recorded of one level of a search from coarse to fine. Knows values alone."""

from __future__ import annotations

from dataclasses import dataclass

from jopa.choices import Certificate
from jopa.prompt.building import Unit


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
