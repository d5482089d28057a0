"""What a metric is: its name, how to read it, and, for those of other packages, how it is computed from a record.

Sees finished cells of a benchmark; knows no model, prompt or file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jopa.choices import real_number
from jopa.errors import ScoringError, SettingError


@runtime_checkable
class MeasuredCell(Protocol):
    """What a metric of another package can know of a finished cell of a benchmark."""

    @property
    def output(self) -> str:
        """The original output."""
        ...

    @property
    def counterfactual_output(self) -> str:
        """What the model says without the chosen units."""
        ...

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the chosen units, the one with the largest individual effect first."""
        ...

    @property
    def removed_texts(self) -> tuple[str, ...]:
        """The texts of the chosen units, in the order of `removed`."""
        ...

    @property
    def units(self) -> int:
        """Number of units of the prompt."""
        ...

    @property
    def output_tokens(self) -> int:
        """Number of tokens of the original output."""
        ...

    @property
    def log_prob(self) -> float:
        """log p(y|x), summed over the output, in nats."""
        ...

    @property
    def log_prob_removed(self) -> float:
        """log p(y|x without the chosen units), in nats."""
        ...

    @property
    def individual(self) -> tuple[float, ...]:
        """L({i}) of each chosen unit, in the order of `removed`, in nats."""
        ...

    @property
    def synergy(self) -> float:
        """L(S) − Σ L({i}), in nats."""
        ...


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how to read it.

    Attributes:
        name: its key in records.
        title: its heading in tables.
        better: whether "lower" or "higher" values mean a more faithful explanation.
        summary: its definition in one line.
        compute: gives its value for a finished cell, or None where it has none. A metric of another package needs it:
            reports call it on the records, without a model. Our own have none, because a benchmark records their
            values.
    """

    name: str
    title: str
    better: Literal["lower", "higher"]
    summary: str
    compute: Callable[[MeasuredCell], float | None] | None = None


def checked_metric(name: str, thing: Any) -> Metric:
    """The metric that another package offers, if it can be computed from records.

    Raises:
        SettingError: it is no such metric; the message says what is wrong.
    """
    if not isinstance(thing, Metric):
        raise SettingError(f"{thing!r:.80} is no jopa.Metric")
    if thing.name != name:
        raise SettingError(f"the metric has the name '{thing.name}', not '{name}'")
    for attribute in ("title", "summary"):
        value = getattr(thing, attribute)
        if not isinstance(value, str) or not value or "\n" in value:
            raise SettingError(f"the metric needs '{attribute}', a text of one line, got {value!r:.60}")
    if thing.better not in ("lower", "higher"):
        raise SettingError(f"'better' must be lower or higher, got {thing.better!r:.60}")
    if not callable(thing.compute):
        raise SettingError("the metric needs 'compute', a function of a finished cell")
    return thing


def measured(metric: Metric, cell: MeasuredCell) -> float | None:
    """The value of another package's metric for a finished cell.

    Raises:
        ScoringError: the metric's own code fails, or gives what is no finite number.
    """
    assert metric.compute is not None
    try:
        value = metric.compute(cell)
    except (Exception, SystemExit) as error:  # of whatever kind: the code is somebody else's
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ScoringError(f"metric '{metric.name}' failed: {reason}") from error
    if value is None:
        return None
    try:
        number = real_number("it", value)
    except (SettingError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ScoringError(f"metric '{metric.name}' must give a finite number or None, got {value!r:.60}")
    return number
