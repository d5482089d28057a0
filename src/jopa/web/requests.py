"""What a visitor of the page may ask: one JSON object, checked here once, with limits that say their value.

Nothing of it ever becomes a path, markup or code. Whatever the visitor leaves out has a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jopa.choices import REMOVALS
from jopa.errors import PromptError, SettingError
from jopa.method import Method, Selection
from jopa.methods import DEFAULT_METHOD, make_method
from jopa.problem import Problem
from jopa.prompt.building import AUTO, UNIT_KINDS
from jopa.prompt.segmentation import Span

FIELDS = (
    *("prompt", "methods", "k", "unit", "removal", "budget"),
    *("max_new_tokens", "output_ids", "target", "units"),
)


@dataclass(frozen=True)
class RequestLimits:
    """The most that one request may ask for.

    Attributes:
        prompt_characters: of the prompt.
        max_new_tokens: of each answer.
        gradient_tokens: of prompt and answer, for methods that need gradients or attention: their memory grows with it.
        k: units to find.
        budget: of a search, in its own measure.
        seconds: of work for one request, waiting left out.
        waiting: requests in the queue, of all visitors.
        per_visitor: unfinished requests of one visitor, waiting and at work.
    """

    prompt_characters: int = 4000
    max_new_tokens: int = 200
    gradient_tokens: int = 1200
    k: int = 12
    budget: int = 500
    seconds: float = 300.0
    waiting: int = 40
    per_visitor: int = 10


@dataclass(frozen=True)
class ByHand(Method):
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
class ExplainRequest:
    """One request.

    Attributes:
        prompt: the text to explain.
        methods: one, or two to compare.
        k: how many units to find.
        unit: "token", "word", "sentence", "line", "paragraph", or "auto" for what fits the prompt.
        removal: "delete", "zero" or "hide"; None for the method's own preset.
        max_new_tokens: the most tokens of an answer.
        output_ids: the answer that was given before, None to generate one.
        target: `[start, end)` of the answer's tokens, None for all.
    """

    prompt: str
    methods: tuple[Method, ...]
    k: int
    unit: str
    removal: str | None
    max_new_tokens: int
    output_ids: tuple[int, ...] | None
    target: Span | None


def read_request(record: Any, limits: RequestLimits, vocabulary: int) -> ExplainRequest:
    """Check a request.

    Args:
        record: what came as JSON.
        limits: the most it may ask for.
        vocabulary: how many token ids the model knows.

    Raises:
        PromptError: the prompt is empty or longer than the limit.
        SettingError: a setting has the wrong type, or lies outside its range.
    """
    if not isinstance(record, dict):
        raise SettingError(f"a request is a JSON object, got {type(record).__name__}")
    if unknown := record.keys() - FIELDS:
        raise SettingError(
            f"a request has no field {', '.join(repr(name)[:40] for name in sorted(unknown)[:3])}; its fields are "
            f"{', '.join(FIELDS)}"
        )
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError("the prompt is empty: type one, or pick an example")
    if len(prompt) > limits.prompt_characters:
        raise PromptError(
            f"the prompt has {len(prompt):,} characters and this page takes at most {limits.prompt_characters:,}: "
            "shorten it"
        )
    ids = _ids(record.get("output_ids"), vocabulary, limits.max_new_tokens)
    chosen = _whole_numbers("units", record.get("units"))
    if chosen is not None:
        methods: tuple[Method, ...] = (ByHand(tuple(sorted(set(chosen)))),)
        k = len(set(chosen))
        if not k:
            raise SettingError("no unit is taken out: the answer without them is the answer itself")
    else:
        methods = _methods(record, limits)
        k = _within(record, "k", 3, limits.k)
    return ExplainRequest(
        prompt=prompt,
        methods=methods,
        k=k,
        unit=_one_of(record, "unit", (AUTO, *UNIT_KINDS), AUTO),
        removal=_one_of(record, "removal", REMOVALS, None),
        max_new_tokens=_within(record, "max_new_tokens", 60, limits.max_new_tokens),
        output_ids=ids,
        target=_target(record.get("target")),
    )


def takes_budget(method: type[Method]) -> bool:
    """Whether a method's cost can be bounded with `with_budget`."""
    return method.with_budget is not Method.with_budget


def _methods(record: dict[str, Any], limits: RequestLimits) -> tuple[Method, ...]:
    names = record.get("methods") or [DEFAULT_METHOD.name]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingError("methods must be a list of names")
    if len(names) > 2 or len(set(names)) < len(names):
        raise SettingError(f"name one method, or two different ones to compare, got {', '.join(names):.80}")
    budget = _within(record, "budget", None, limits.budget)
    methods = [make_method(name) for name in names]
    return tuple(m.with_budget(budget) if budget is not None and takes_budget(type(m)) else m for m in methods)


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
