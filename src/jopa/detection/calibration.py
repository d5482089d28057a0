"""A threshold for `detect`, set from harmless prompts of the user's own, and the false-alarm rate that it gives.

    order        the weighted sum behind the score; it puts prompts in an order under any model
    threshold    of n harmless orders the ⌈(n + 1)(1 − rate)⌉-th smallest; a prompt above it is flagged. A further
                 harmless prompt of the same kind is flagged with a probability of at most the rate (split conformal
                 prediction: Vovk, Gammerman & Shafer 2005)
    interval     Clopper & Pearson 1934, 95 %, of the share of harmless prompts that are flagged, from the n prompts

The guarantee holds for prompts like those given: of the same kind, in the same language, to the same model. It says
nothing of the attacks that are found.

Sees orders and settings; runs no model and reads no prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from jopa.detection.scoring import weights_digest
from jopa.detection.settings import DetectionConfig
from jopa.errors import InputFileError, SettingError
from jopa.json_values import Record, converted, read_json
from jopa.storage import write_text

SCHEMA = 1
RATE = 0.05
"""The false-alarm rate unless told otherwise."""
MIN_HARMLESS = 20
"""Fewer harmless prompts say too little about any rate."""


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it is based on.

    Attributes:
        threshold: a prompt whose order lies above it is flagged.
        rate: the false-alarm rate that was asked for.
        prompts: how many harmless prompts were used.
        flagged: how many of these lie above the threshold.
        interval: 95 % Clopper–Pearson interval of the share of harmless prompts above the threshold.
        model: id, revision, dtype and device of the model.
        config: the settings that the prompts were judged with.
        weights: a checksum of the weights behind the order.
    """

    threshold: float
    rate: float
    prompts: int
    flagged: int
    interval: tuple[float, float]
    model: dict[str, str | None]
    config: DetectionConfig
    weights: str = field(default_factory=weights_digest)

    def flags(self, order: float) -> bool:
        """Whether a prompt of this order is flagged."""
        return order > self.threshold

    @property
    def statement(self) -> str:
        """What the threshold is set from and the false-alarm rate, in words."""
        low, high = (100 * end for end in self.interval)
        return (
            f"set from {self.prompts} harmless prompts of yours: at most {100 * self.rate:.3g} % of harmless prompts "
            f"are flagged; {self.flagged} of these {self.prompts} are, 95 % interval {low:.1f} % to {high:.1f} %"
        )

    @property
    def has_present_weights(self) -> bool:
        """Whether the threshold is one of orders by the weights that this version of jopa has."""
        return self.weights == weights_digest()

    def require_same(self, model: dict[str, str | None], config: DetectionConfig) -> None:
        """Refuse to judge another model's prompts, or prompts judged with other settings, by this threshold.

        Raises:
            SettingError: something differs; the message names it.
        """
        differing = [
            f"{name} {self.model.get(name)}, now {model.get(name)}"
            for name in ("id", "revision", "dtype")
            if self.model.get(name) != model.get(name)
        ]
        before, now = asdict(self.config), asdict(config)
        differing += [f"{name} {before[name]}, now {now[name]}" for name in now if before[name] != now[name]]
        if not self.has_present_weights:
            differing.append("the weights of the score, which this version of jopa changed")
        if differing:
            raise SettingError(
                f"the calibration was made with other settings ({'; '.join(differing)}); make it again with --calibrate"
            )

    def to_dict(self) -> Record:
        """The calibration as JSON holds it (schema 1)."""
        record = asdict(self) | {"interval": list(self.interval)}
        record["looking"] = record.pop("config")
        return {"schema": SCHEMA, "kind": "calibration", **record}

    def save(self, path: Path) -> Path:
        """Write it as a small JSON file.

        Raises:
            InputFileError: the file cannot be written.
        """
        return write_text(path, json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputFileError: the file cannot be read, or is no calibration.
        """
        return cls.from_dict(read_json(path), f"'{path}'")

    @classmethod
    def from_dict(cls, record: Any, what: str) -> Calibration:
        """Read `to_dict`'s form; `what` is what a message calls it.

        Raises:
            InputFileError: it is no calibration.
        """
        if not isinstance(record, dict) or record.get("kind") != "calibration":
            raise InputFileError(f"{what} is no calibration; make one with jopa detect --calibrate HARMLESS.jsonl")
        if record.get("schema") != SCHEMA:
            raise InputFileError(f"{what}: the schema must be {SCHEMA}, got {record.get('schema')!r}")
        form = converted(record, _CalibrationRecord, what)
        return cls(**{name: getattr(form, name) for name in form.__struct_fields__})


class _CalibrationRecord(msgspec.Struct, frozen=True):
    """What is read of the file, with the types that are checked."""

    threshold: float
    rate: float
    prompts: int
    flagged: int
    interval: tuple[float, float]
    model: dict[str, str | None]
    config: DetectionConfig = msgspec.field(name="looking")
    weights: str


def set_threshold(
    orders: Sequence[float], *, rate: float = RATE, model: dict[str, str | None], config: DetectionConfig
) -> Calibration:
    """Set the threshold from the orders of harmless prompts.

    Args:
        orders: of each harmless prompt, `Verdict.order`.
        rate: the false-alarm rate that is wanted.
        model: the model's identity.
        config: the settings that the prompts were judged with.

    Raises:
        SettingError: the rate is out of range, or there are too few prompts for it.
    """
    n = len(orders)
    require_enough(n, rate)
    threshold = sorted(orders)[math.ceil((n + 1) * (1 - rate) - 1e-9) - 1]
    flagged = sum(order > threshold for order in orders)
    return Calibration(threshold, rate, n, flagged, clopper_pearson(flagged, n), model, config)


def require_enough(n_prompts: int, rate: float) -> None:
    """Refuse a false-alarm rate that `n_prompts` different harmless prompts cannot show.

    Raises:
        SettingError: the rate is not between 0 and 1, or there are too few prompts.
    """
    if not 0 < rate < 1:
        raise SettingError(f"the false-alarm rate must be above 0 and below 1, got {rate}")
    needed = max(MIN_HARMLESS, math.ceil(1 / rate - 1e-9) - 1)
    if n_prompts < needed:
        raise SettingError(
            f"a false-alarm rate of {rate:.3g} needs at least {needed} different harmless prompts that can be judged, "
            f"got {n_prompts}; give more, or a higher rate (--false-alarm-rate)"
        )


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share from k of n: the binomial tails at its ends are 0.025 each."""
    tail = 0.025
    low = 0.0 if k == 0 else _root(lambda p: 1 - _at_most(k - 1, n, p), tail)
    high = 1.0 if k == n else _root(lambda p: 1 - _at_most(k, n, p), 1 - tail)
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """The probability of at most k successes of n, summed in logarithms."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or k >= n else 0.0
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def _root(rising: Any, value: float) -> float:
    """Where a rising function of a probability takes a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
