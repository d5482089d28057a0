"""What a visitor of the page may ask: one JSON object, checked here once, with limits that say their value.

Nothing of it ever becomes a path, markup or code. Whatever the visitor leaves out has a default. The texts of a
conversation and its documents are checked in `web.conversation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from jopa.choices import REMOVALS
from jopa.errors import SettingError
from jopa.explanation.level import require_finer
from jopa.method import Method, Selection
from jopa.methods import make_method
from jopa.problem import Problem
from jopa.prompt.building import AUTO, UNIT_KINDS, Message
from jopa.prompt.options import PromptOptions
from jopa.prompt.segmentation import Span
from jopa.prompt.units import WHOLE_KINDS
from jopa.results.attribution import Attribution
from jopa.web.conversation import read_conversation
from jopa.web.limits import RequestLimits

TEXT_FIELDS = ("prompt", "system", "turns", "messages", "documents")
FIELDS = (
    *(*TEXT_FIELDS, "attribute", "task", "methods", "k", "until_pr", "unit", "refine", "removal", "budget"),
    *("max_new_tokens", "output_ids", "target", "units", "requests", "first"),
)
Task = Literal["explain", "diagnose", "cite"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class ChosenUnits(Method):
    """Units that a person chose, scored like any method's answer.

    Attributes:
        units: their indices.
    """

    units: tuple[int, ...]

    name: ClassVar[str] = "by-hand"
    summary: ClassVar[str] = "units that a person chose"
    cost: ClassVar[str] = "1"

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """The units themselves; see `Method.run`.

        Raises:
            SettingError: one of them is no unit of the prompt.
        """
        if not set(self.units) <= set(range(problem.n_units)):
            raise SettingError(f"the prompt has the units 0 to {problem.n_units - 1}, got {list(self.units)}")
        self.validate(problem.shape, k)
        return Selection(self.units, "units chosen by hand")


@dataclass(frozen=True)
class PageRequest:
    """One request of a visitor.

    Attributes:
        prompt: the text to explain, or the chat messages.
        methods: one, or two to compare; none for the one that fits the length of the prompt.
        k: how many units to find; None for what fits the prompt.
        unit: a kind of unit, "auto" for what fits the prompt, or character spans.
        refine: finer kinds of units, searched inside the chosen ones; none for one level, None for what fits.
        removal: "delete", "zero" or "hide"; None for the method's own preset.
        max_new_tokens: the most tokens of an answer.
        output_ids: the answer that was given before, None to generate one.
        target: `[start, end)` of the answer's tokens, None for all.
        options: what stands around the prompt, its documents among it.
        budget: of a search whose method is not named.
        until_pr: the PR below which the smallest set is to bring the answer, or each sentence of it for citations; None
            to find k units, or for the usual value of citations.
        task: "explain" to search; "diagnose" to remove each unit; "cite" to find the sources of each sentence.
        requests: which units are requests, for a diagnosis; None to guess.
        first: the result of another prompt, to show this one's beside; None for none.
    """

    prompt: str | tuple[Message, ...]
    methods: tuple[Method, ...]
    k: int | None
    unit: str | tuple[Span, ...]
    removal: str | None
    max_new_tokens: int
    output_ids: tuple[int, ...] | None
    target: Span | None
    options: PromptOptions = field(default_factory=PromptOptions)
    budget: int | None = None
    until_pr: float | None = None
    task: Task = "explain"
    requests: tuple[int, ...] | None = None
    first: Attribution | None = None
    refine: tuple[str, ...] | None = None


def read_request(
    record: Any, limits: RequestLimits, vocabulary: int, options: PromptOptions | None = None
) -> PageRequest:
    """Check a request.

    Args:
        record: what came as JSON.
        limits: the most it may ask for.
        vocabulary: how many token ids the model knows.
        options: how the page puts every prompt before its model.

    Raises:
        PromptError: there is nothing to explain, or more text than the limit.
        SettingError: a setting has the wrong type, or lies outside its range.
        InputFileError: the result to compare with is none.
    """
    if not isinstance(record, dict):
        raise SettingError(f"a request is a JSON object, got {type(record).__name__}")
    if unknown := record.keys() - FIELDS:
        raise SettingError(
            f"a request has no field {', '.join(repr(name)[:40] for name in sorted(unknown)[:3])}; its fields are "
            f"{', '.join(FIELDS)}"
        )
    prompt, options = read_conversation(record, limits, options or PromptOptions())
    ids = _ids(record.get("output_ids"), vocabulary, limits.max_new_tokens)
    chosen = _whole_numbers("units", record.get("units"))
    budget = _within(record, "budget", None, limits.budget)
    if chosen is not None:
        methods: tuple[Method, ...] = (ChosenUnits(tuple(sorted(set(chosen)))),)
        k = len(set(chosen))
        if not k:
            raise SettingError("no unit is taken out: the answer without them is the answer itself")
    else:
        methods = _methods(record, budget)
        k = _within(record, "k", None, limits.k)
    task = _one_of(record, "task", TASKS, TASKS[0])
    unit = _unit(record)
    refine = _refine(record.get("refine"), unit)
    if refine and options.attribute == "trace":
        raise SettingError("the reasoning trace is explained in one kind of unit: leave out refine")
    if refine and (len(methods) > 1 or chosen is not None or task != "explain"):
        raise SettingError("refine searches from coarse to fine with one method: leave out the second, or refine")
    until_pr = _ratio(record.get("until_pr"))
    first = _first(record.get("first"))
    if first is not None and (len(methods) > 1 or task != "explain" or chosen is not None):
        raise SettingError("another prompt's result is compared with one explanation by one method")
    return PageRequest(
        prompt=prompt,
        methods=methods,
        k=k,
        unit=unit,
        removal=_one_of(record, "removal", REMOVALS, None),
        max_new_tokens=_within(record, "max_new_tokens", 60, limits.max_new_tokens),
        output_ids=ids,
        target=_target(record.get("target")),
        options=options,
        budget=budget,
        until_pr=None if chosen is not None else until_pr,
        task=task,
        requests=_whole_numbers("requests", record.get("requests")),
        first=first,
        refine=refine,
    )


def takes_budget(method: type[Method]) -> bool:
    """Whether a method's cost can be bounded with `with_budget`."""
    return method.with_budget is not Method.with_budget


def with_budget(method: Method, budget: int | None) -> Method:
    """A method with a budget, where it takes one."""
    return method.with_budget(budget) if budget is not None and takes_budget(type(method)) else method


def _methods(record: dict[str, Any], budget: int | None) -> tuple[Method, ...]:
    names = record.get("methods") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingError("methods must be a list of names")
    if len(names) > 2 or len(set(names)) < len(names):
        raise SettingError(f"name one method, or two different ones to compare, got {', '.join(names):.80}")
    return tuple(with_budget(make_method(name), budget) for name in names)


def _first(text: Any) -> Attribution | None:
    """The result to compare with."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise SettingError("first must be the text of a result's JSON")
    return Attribution.from_json(text)


def _ratio(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 < value <= 1:
        raise SettingError(f"until_pr must be above 0 and at most 1, got {value!r:.40}")
    return float(value)


def _within(record: dict[str, Any], name: str, default: Any, most: int) -> Any:
    """A whole number from 1 to the limit, or the default where none is given."""
    value = record.get(name)
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= most:
        raise SettingError(f"{name} must be a whole number from 1 to {most}, this page's limit, got {value!r:.40}")
    return value


def _one_of(record: dict[str, Any], name: str, choices: Sequence[str], default: Any) -> Any:
    value = record.get(name)
    if value is None:
        return default
    if value not in choices:
        raise SettingError(f"{name} must be one of {', '.join(choices)}, got {value!r:.40}")
    return value


def _unit(record: dict[str, Any]) -> str | tuple[Span, ...]:
    """A kind of unit, or the spans of the units that are shown."""
    spans = record.get("unit")
    if not isinstance(spans, list):
        return _one_of(record, "unit", (AUTO, *UNIT_KINDS, *WHOLE_KINDS), AUTO)
    if not all(isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span) for span in spans):
        raise SettingError("unit must be the name of a kind of unit, or a list of character spans [start, end]")
    return tuple((start, end) for start, end in spans)


def _refine(value: Any, unit: str | tuple[Span, ...]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value):
        raise SettingError('refine must be a list of kinds of units, as ["sentence"]')
    require_finer(value, unit)
    return tuple(value)


def _whole_numbers(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise SettingError(f"{name} must be a list of whole numbers")
    return tuple(value)


def _ids(value: Any, vocabulary: int, most: int) -> tuple[int, ...] | None:
    """The tokens of an answer given before, each in the model's vocabulary."""
    ids = _whole_numbers("output_ids", value)
    if ids is not None and not (0 < len(ids) <= most and max(ids) < vocabulary):
        raise SettingError(f"output_ids must be 1 to {most} token ids below {vocabulary}")
    return ids


def _target(value: Any) -> Span | None:
    """The part of the answer to explain; whether it lies in the answer shows when there is one."""
    span = _whole_numbers("target", value)
    if span is None:
        return None
    if len(span) != 2 or span[0] >= span[1]:
        raise SettingError(f"the part of the answer must begin before it ends, got tokens {value!r:.40}")
    return span[0], span[1]
