"""Methods that give what they were told to, and selections and rankings that break what a method promises."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jopa.method import Method, Ranking, RankingMethod, Selection, TraceStep

NAN = float("nan")


def made(kind, *values, **fields) -> Any:
    """A value whose fields may be of any type: tests check the types of every call."""
    value = object.__new__(kind)
    names = list(kind.__dataclass_fields__)
    defaults = {"trace": (), "scores": None, "details": {}}
    for name, content in {**defaults, **dict(zip(names, values, strict=False)), **fields}.items():
        if name in names:
            object.__setattr__(value, name, content)
    return value


@dataclass(frozen=True)
class Giving(Method):
    """Gives what `gives` makes of k and the number of units."""

    name: ClassVar[str] = "giving"
    summary: ClassVar[str] = "gives what it was told to"
    cost: ClassVar[str] = "0"
    gives: ClassVar[Any]

    def run(self, problem, k, *, seed=0):
        self.validate(problem.shape, k)
        return self.gives(k, problem.n_units)


def giving(kind: type[Method], gives: Any) -> Any:
    """A method that gives what a function makes."""
    return type("Given", (kind,), {"gives": staticmethod(gives)})()


@dataclass(frozen=True)
class Scoring(RankingMethod):
    """Ranks as `gives` makes it of the number of units."""

    name: ClassVar[str] = "scoring"
    summary: ClassVar[str] = "ranks as it was told to"
    cost: ClassVar[str] = "0"
    gives: ClassVar[Any]

    def rank(self, problem, *, seed=0):
        return self.gives(problem.n_units)


FAULTS: dict[str, tuple[Any, str]] = {
    "None": (lambda k, n: None, "gave NoneType, no Selection"),
    "a tuple": (lambda k, n: tuple(range(k)), "gave tuple, no Selection"),
    "twice the same": (
        lambda k, n: made(Selection, (0,) * k, "s"),
        "different units from 0 to 5, got [0, 0]",
    ),
    "negative": (lambda k, n: made(Selection, tuple(range(-k, 0)), "s"), "different units from 0 to 5, got [-2, -1]"),
    "beyond the last": (lambda k, n: made(Selection, tuple(range(n - k + 1, n + 1)), "s"), "got [5, 6]"),
    "too few": (lambda k, n: made(Selection, tuple(range(k - 1)), "s"), "must be 2 different units"),
    "too many": (lambda k, n: made(Selection, tuple(range(k + 1)), "s"), "must be 2 different units"),
    "floats": (lambda k, n: made(Selection, (0.0, 1.0), "s"), "each of 'removed' must be a whole number, got 0.0"),
    "truth values": (lambda k, n: made(Selection, (False, True), "s"), "must be a whole number, got False"),
    "texts": (lambda k, n: made(Selection, ("0", "1"), "s"), "must be a whole number, got '0'"),
    "no units": (lambda k, n: made(Selection, None, "s"), "not iterable"),
    "no stop": (lambda k, n: made(Selection, (0, 1), None), "'stop' must be a text"),
    "few scores": (lambda k, n: made(Selection, (0, 1), "s", scores=(1.0,)), "for each of the 6 units, got 1"),
    "NaN scores": (lambda k, n: made(Selection, (0, 1), "s", scores=(NAN,) * n), "the score of unit 0 is nan"),
    "endless scores": (lambda k, n: made(Selection, (0, 1), "s", scores=(1e999,) * n), "the score of unit 0 is inf"),
    "texts as scores": (lambda k, n: made(Selection, (0, 1), "s", scores=("1",) * n), "must be a number, got '1'"),
    "a NaN in details": (lambda k, n: made(Selection, (0, 1), "s", details={"a": [NAN]}), "'details' must hold"),
    "strange details": (lambda k, n: made(Selection, (0, 1), "s", details={"a": object()}), "type object is no JSON"),
    "no details": (lambda k, n: made(Selection, (0, 1), "s", details=None), "'details' must be a dict"),
    "no steps": (lambda k, n: made(Selection, (0, 1), "s", trace=((0, 1.0, 1, 1.0),)), "has no attribute 'step'"),
    "a NaN in steps": (lambda k, n: Selection((0, 1), "s", trace=(TraceStep(0, NAN, 1, 1.0),)), "out of range"),
    "steps below 0": (lambda k, n: Selection((0, 1), "s", trace=(TraceStep(-1, 1.0, 1, 1.0),)), "out of range"),
}
RANKING_FAULTS: dict[str, tuple[Any, str]] = {
    "None": (lambda n: None, "gave NoneType, no Ranking"),
    "few scores": (lambda n: Ranking((3.0, 2.0, 1.0), "s"), "for each of the 6 units, got 3"),
    "many scores": (lambda n: Ranking((1.0,) * (n + 1), "s"), "for each of the 6 units, got 7"),
    "NaN scores": (lambda n: Ranking((NAN,) * n, "s"), "the score of unit 0 is nan"),
}
