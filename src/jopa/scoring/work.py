"""What a scorer has done so far: forwards, tokens and seconds. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Work:
    """What has been done so far. Rows that shared a forward with others' count as if they had been alone in it.

    Attributes:
        evaluations: masks scored.
        forwards: forwards of the model, of however many rows; those that a backward follows included.
        backwards: backwards.
        tokens: tokens that entered the model, padding included; a backward counts as two more forwards.
        padding: those of them (in forwards) that only filled up shorter rows.
        reused: tokens that rows did not carry, because the cache of an earlier forward stood for them.
        in_model: wall-clock seconds inside the model's own forwards and backwards; on a GPU, which is asynchronous,
            the seconds that starting them took.
        seconds: wall-clock time by phase: "prefix", "planning", "scores", "gradients", "attention",
            "approximation"; waiting for other searches included.
    """

    evaluations: int = 0
    forwards: int = 0
    backwards: int = 0
    tokens: int = 0
    padding: int = 0
    reused: int = 0
    in_model: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Work) -> Work:
        """Both together."""
        counted = [item.name for item in fields(self) if item.name != "seconds"]
        counts = {name: getattr(self, name) + getattr(other, name) for name in counted}
        phases = {*self.seconds, *other.seconds}
        return Work(
            **counts, seconds={name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in phases}
        )
