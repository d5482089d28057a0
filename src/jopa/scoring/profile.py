"""The cost of an explanation as a short table: model work, and seconds by phase.

The numbers come from `Work`, which scorers count, and from the callers' clocks. Knows counters and seconds; runs
nothing.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jopa.scoring.work import Work

# Names to show for phases of `Work`; other phases are shown under their own names.
_PHASES = {"prefix": "scoring", "scores": "scoring"}


@dataclass(frozen=True)
class Profile:
    """The cost of an explanation.

    Attributes:
        work: what the scorer counted.
        ffe: its model work in full-forward equivalents.
        repeats: masks that were asked for again and were not scored again.
        seconds: wall-clock time of everything, loading and generation included.
        loading: of them, for loading the model.
        generating: of them, for the answers with and without the removed units; not in `work`.
        products: how the model's linear layers were computed, if it is known.
        slow_paths: one line for each fast path that this model could not take.
    """

    work: Work
    ffe: float
    repeats: int
    seconds: float
    loading: float = 0.0
    generating: float = 0.0
    products: str = ""
    slow_paths: tuple[str, ...] = ()

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, "other" last; they sum to `seconds`."""
        found = {"loading": self.loading, "generating": self.generating, "scoring": 0.0, "gradients": 0.0}
        for phase, seconds in self.work.seconds.items():
            name = _PHASES.get(phase, phase)
            found[name] = found.get(name, 0.0) + seconds
        return found | {"other": max(0.0, self.seconds - sum(found.values()))}

    @property
    def padding(self) -> float:
        """Share of the processed tokens that were padding; between 0 and 1."""
        return _share(self.work.padding, self.work.tokens)

    @property
    def saved(self) -> float:
        """Share of the needed tokens that were not processed, because caches had them; between 0 and 1."""
        return _share(self.work.reused, self.work.tokens + self.work.reused)

    @property
    def in_model(self) -> float:
        """Share of the time that was neither loading nor generating and was spent inside the model; between 0 and 1."""
        return min(1.0, _share(self.work.in_model, self.seconds - self.loading - self.generating))


def profile_table(profile: Profile) -> str:
    """A profile as lines of plain text, at most 80 columns wide."""
    work = profile.work
    counts = [
        ("evaluations", f"{work.evaluations:,}", f"{profile.repeats:,} repeats were free"),
        ("forwards", f"{work.forwards:,}", f"and {work.backwards:,} backwards"),
        ("tokens processed", f"{work.tokens:,}", f"{profile.ffe:.1f} full forwards (FFE)"),
        ("tokens saved", f"{work.reused:,}", f"{profile.saved:.1%} of those needed, by shared beginnings"),
        ("padding", f"{work.padding:,}", f"{profile.padding:.1%} of those processed"),
    ]
    times = [
        (phase, f"{seconds:,.2f} s", f"{_share(seconds, profile.seconds):.1%}")
        for phase, seconds in profile.phases.items()
    ]
    inside = f"{profile.in_model:.1%} of search and evidence inside the model"
    times.append(("all", f"{profile.seconds:,.2f} s", inside))
    lines = [f"{name:<16}  {number:>12}  {remark}" for name, number, remark in counts + times]
    if profile.products:
        lines.append(f"{'linear layers by':<16}  {profile.products}")
    for line in profile.slow_paths:
        lines += textwrap.wrap(f"slow path: {line}", 80, subsequent_indent="    ")
    return "\n".join(lines)


def _share(part: int | float, whole: int | float) -> float:
    return part / whole if whole > 0 else 0.0
