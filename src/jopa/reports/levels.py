"""A search from coarse to fine as a tree: the chosen units of each level, below the unit that they lie in.

Sees Attributions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jopa.reports.wording import nats, ratio_text, unit_name

if TYPE_CHECKING:
    from jopa.explanation.level import Level
    from jopa.results.attribution import Attribution

_WIDTH = 90
CERTIFICATES = {
    "none": "another set of these may do more",
    "one-swap-optimal": "no set of these that differs in one unit does more",
    "optimal": "no other set of these does more",
}
"""What a level's certificate says of the units that it could remove."""


class Branch(NamedTuple):
    """A line of the tree.

    Attributes:
        depth: of its level, from 0.
        name: the unit; of a whole document its id.
        note: what removing it alone does, or that it is a runner-up.
        chosen: whether its level chose it.
    """

    depth: int
    name: str
    note: str
    chosen: bool


def tree(attribution: Attribution) -> list[Branch]:
    """The tree line by line, each unit followed by what lies in it; nothing where there was one level."""
    levels = attribution.levels
    return _branches(levels, 0, None) if levels else []


def _branches(levels: tuple[Level, ...], depth: int, parent: int | None) -> list[Branch]:
    """The lines of one level inside one unit of the level before."""
    if depth == len(levels):
        return []
    level, found = levels[depth], []
    for i in sorted({*level.removed, *level.opened}):
        if parent is not None and level.inside[i] != parent:
            continue
        chosen = i in level.removed
        note = f"alone {nats(level.individual[level.removed.index(i)], signed=True)} nats" if chosen else "runner-up"
        unit = level.units[i]
        name = f"{unit.document}: " if unit.document is not None and level.unit in ("document", "message") else ""
        inner = _branches(levels, depth + 1, i) if i in level.opened else []
        found += [Branch(depth, name + unit_name(unit.text, _WIDTH), note, chosen), *inner]
    return found


def level_lines(attribution: Attribution) -> list[tuple[str, str]]:
    """Each level in a few words, with what is proved of it; nothing where there was one level."""
    return [
        (
            f"Level {number}, {level.unit}s",
            f"{len(level.removed)} of {len(level.units):,} chosen, PR {ratio_text(level.probability_ratio)}; "
            f"certificate {level.certificate}: {CERTIFICATES[level.certificate]}",
        )
        for number, level in enumerate(attribution.levels, start=1)
    ]


def level_facts(attribution: Attribution) -> list[tuple[str, str]]:
    """What each level found, as terms and plain words; nothing where there was one level."""
    facts = []
    for number, level in enumerate(attribution.levels, start=1):
        among = f"{len(level.units)} {level.unit}s"
        if number > 1:
            among += f" inside what level {number - 1} opened, of {level.n_units} in all"
        opened = len(level.opened) - len(level.removed)
        words = [
            f"{len(level.removed)} of {among} chosen (PR {ratio_text(level.probability_ratio)})",
            *([f"{opened} runners-up opened, too"] if opened > 0 else []),
            f"certificate {level.certificate}" + ("" if number == 1 else ", of these units only"),
            f"{level.evaluations:,} evaluations" + (f" and {level.shared} shared" if level.shared else ""),
            f"{level.ffe:,.1f} FFE",
        ]
        facts.append((f"Level {number}: {level.unit}", "; ".join(words)))
    default = (attribution.details or {}).get("refined_by_default")
    return [*facts, *([("From coarse to fine", f"by default: {default}")] if default else [])]
