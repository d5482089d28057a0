"""How an input is searched where the caller does not say: one rule for Python, the command line and the page.

    k        3, or as many units as a shorter prompt allows
    method   joint; proxy-search for inputs of 1,500 tokens or more, because the 50 forwards of joint's budget can take
             an hour there
    levels   one; above 5,000 tokens documents, messages or paragraphs first, then sentences inside the chosen ones, if
             the units are not named either

The last two hold for models in this process: one behind a server has no cheap proxy, and a budget of tokens of its own.
What was chosen in this way is in the result (`details`). Both numbers of tokens are choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jopa.choices import TEXT_SIMILARITY, Removal, checked_removal
from jopa.explanation.attributing import attribute, attribute_text
from jopa.explanation.level import require_finer
from jopa.explanation.refining import attribute_levels
from jopa.explanation.request import ExplanationRequest
from jopa.explanation.searching import SearchOptions
from jopa.method import Method, require_k
from jopa.methods import DEFAULT_METHOD, METHODS
from jopa.preparation import Callbacks, Preparation, prepare_prompt, require_log_probs, shape_of
from jopa.prompt.building import AUTO, Prompt
from jopa.prompt.segmentation import Span
from jopa.results.attribution import Attribution
from jopa.results.text_attribution import TextAttribution
from jopa.scoring.protocols import Model, objective_of

DEFAULT_K = 3
"""Units to find unless the caller says how many; see `fitting_k`."""
LONG_METHOD = "proxy-search"
LONG_METHOD_TOKENS = 1500
"""Inputs of this many tokens or more get `LONG_METHOD` unless the caller names a method."""
REFINED_TOKENS = 5000
"""Inputs of more tokens are searched from coarse to fine unless the caller says what the units are."""
_MIN_COARSE_UNITS = 4
"""Coarse units that a long input must have for that."""


@dataclass(frozen=True)
class Plan:
    """How a prompt is searched.

    Attributes:
        model: what is explained.
        request: what the caller asks.
        prompt: in the units of the first level.
        finer: the same prompt in the units of each further level; empty where there is one level.
        methods: as the caller named them, or the one that fits.
        details: what results record of how the prompt is searched and rendered.
    """

    model: Model
    request: ExplanationRequest
    prompt: Prompt
    finer: tuple[Prompt, ...]
    methods: tuple[Method, ...]
    details: dict[str, Any]

    def validate(self, method: Method, answered: Prompt | None = None) -> None:
        """Refuse a method that cannot search this prompt.

        Args:
            method: one of the methods.
            answered: the prompt with the reasoning before the answer, where that is attributable. Without it, the
                number of units of such a prompt is not known yet, and not checked.

        Raises:
            SettingError: naming what is missing, or the legal range of k.
        """
        prompt = answered or self.prompt
        shape = shape_of(self.model, prompt, self._removal_by(method))
        if self.prompt.trace and answered is None:
            method.require_capabilities(shape)
            return
        k, _ = self._number(prompt)
        least = 1 if self.request.search.until_pr is not None else min(k, shape.n_units) if self.finer else k
        method.validate(shape, least)

    def attribute(
        self, preparation: Preparation, method: Method, callbacks: Callbacks
    ) -> Attribution | TextAttribution:
        """Search all levels with one of the methods.

        Args:
            preparation: this prompt with its output.
            method: one of the methods.
            callbacks: as for `explain`.

        Returns:
            The attribution; a `TextAttribution` where the model gives texts alone.

        Raises:
            JopaError: one of its children.
        """
        k, by_default = self._number(preparation.prompt)
        search, removal = self.request.search, self._removal_by(method)
        settings: dict[str, Any] = {"k": k, "method": method, "removal": removal, "callbacks": callbacks}
        if objective_of(self.model) == TEXT_SIMILARITY:
            run: Callable[..., Attribution | TextAttribution] = attribute_text
        else:
            run = partial(attribute_levels, finer=self.finer) if self.finer else attribute
        found = run(preparation, search=search, **settings)
        further = {**self.details, **({} if search.until_pr is not None else by_default)}
        return replace(found, details={**(found.details or {}), **further}) if further else found

    def _number(self, prompt: Prompt) -> tuple[int, dict[str, str]]:
        """How many units to find; see `fitting_k`."""
        return fitting_k(self.request.k, self.finer[-1] if self.finer and not prompt.trace else prompt)

    def _removal_by(self, method: Method) -> Removal:
        """How a method removes units: as the caller asks, or by the method's own preset."""
        return checked_removal(self.request.removal or method.preset_removal)


def planned(model: Model, request: ExplanationRequest, methods: Sequence[Method]) -> Plan:
    """Decide how a prompt is searched.

    Args:
        model: the model.
        request: what the caller asks; `refine` and `budget` of its search count here.
        methods: as the caller named them; none for the one that fits.

    Raises:
        PromptError: as `prepare_prompt`.
        SettingError: as `prepare_prompt`; or levels do not fit the unit or the model, or a method takes no budget.
    """
    prompt, options, unit, search = request.prompt, request.options, request.unit, request.search
    if search.until_pr is not None:
        require_log_probs(model, "until_pr")
    if search.refine:
        require_log_probs(model, "refine")
    built = prepare_prompt(model, prompt, options, unit=unit)
    details: dict[str, Any] = {"rendering": options.rendering} if options.rendering else {}
    if not methods:
        methods = (_fitting_method(model, built),)
        if methods[0].name == LONG_METHOD:
            details["method_by_default"] = _long(built, f"{LONG_METHOD_TOKENS:,} or more")
    if search.budget is not None:
        methods = [method.with_budget(search.budget) for method in methods]
    if search.refine:
        has_sources = len(built.sources) > 1 or built.documents_through is not None
        kinds = level_kinds(unit, search.refine, has_sources)
    elif unit == AUTO and len(methods) == 1 and _may_refine(search) and _is_here(model):
        kinds = default_kinds(built)
        if kinds:
            details["refined_by_default"] = _long(built, f"more than {REFINED_TOKENS:,}")
    else:
        kinds = ()
    if not kinds:
        return Plan(model, request, built, (), tuple(methods), details)
    if search.budget is not None:
        methods = [_with_part_of_budget(method, search.budget, len(kinds)) for method in methods]
    first, *finer = (prepare_prompt(model, prompt, options, unit=kind) for kind in kinds)
    if request.k is not None and not first.trace and search.until_pr is None:
        require_k(request.k, len(finer[-1].units))
    return Plan(model, request, first, tuple(finer), tuple(methods), details)


def fitting_k(k: int | None, prompt: Prompt) -> tuple[int, dict[str, str]]:
    """How many units to find: k, or by default `DEFAULT_K` or as many as a shorter prompt allows.

    Of a prompt without a template one unit stays, because something must be left to predict from.

    Returns:
        The number; and what `details` of the result say where it is less than `DEFAULT_K` by default.
    """
    n_units = len(prompt.units)
    has_template = sum(len(unit.positions) for unit in prompt.units) < len(prompt.ids)
    most = n_units if has_template else max(1, n_units - 1)
    if k is not None or most >= DEFAULT_K:
        return DEFAULT_K if k is None else k, {}
    why = f"the prompt has {n_units} unit{'' if n_units == 1 else 's'}"
    left = " and no other token, so one unit stays" if most < n_units else ""
    return most, {"default_k": f"by default {DEFAULT_K}; {why}{left}"}


def level_kinds(unit: str | Sequence[Span], refine: Sequence[str], has_sources: bool) -> tuple[str, ...]:
    """The kinds of units of all levels.

    Args:
        unit: of the first level; "auto" for documents, or paragraphs where the prompt is one text.
        refine: of the levels after it.
        has_sources: whether the prompt has documents or several messages.

    Raises:
        SettingError: a kind is unknown, or not finer than the one before it.
    """
    coarse = unit if unit != AUTO else "document" if has_sources else "paragraph"
    require_finer(refine, coarse)
    return (str(coarse), *refine)


def default_kinds(prompt: Prompt) -> tuple[str, ...]:
    """The levels for a long input whose units the caller does not name; empty for one that is short or has no parts."""
    if len(prompt.ids) <= REFINED_TOKENS or prompt.trace or prompt.unit_kind != "sentence":
        return ()
    if len(prompt.sources) >= _MIN_COARSE_UNITS:
        return "document" if any(source.document for source in prompt.sources) else "message", "sentence"
    n_paragraphs = prompt.text.strip().count("\n\n") + 1
    return ("paragraph", "sentence") if n_paragraphs >= _MIN_COARSE_UNITS else ()


def _fitting_method(model: Model, prompt: Prompt) -> Method:
    """The method for a prompt whose caller names none."""
    is_long = len(prompt.ids) >= LONG_METHOD_TOKENS and LONG_METHOD in METHODS and _is_here(model)
    return METHODS[LONG_METHOD]() if is_long else DEFAULT_METHOD


def _with_part_of_budget(method: Method, budget: int, n_levels: int) -> Method:
    """The method with what a level may spend of the budget; where levels share it as they go, with all of it."""
    return method if method.with_share_of_rest(0.0, n_levels) else method.with_budget(max(1, budget // n_levels))


def _may_refine(search: SearchOptions) -> bool:
    """Whether the caller leaves open from which units to which the search goes."""
    return search.refine is None and search.until_pr is None and not search.all_effects


def _is_here(model: Model) -> bool:
    """Whether a model runs in this process."""
    return "model" in model.capabilities


def _long(prompt: Prompt, limit: str) -> str:
    return f"the input has {len(prompt.ids):,} tokens, {limit}"
