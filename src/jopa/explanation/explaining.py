"""The whole way from a prompt to its Attribution.

prompt → ids and units → output (generated or given) → method → effects and counterfactual → Attribution
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from jopa.errors import JopaError, LimitError, SettingError, StoppedError
from jopa.explanation.planning import fitting_k, planned
from jopa.explanation.request import ExplanationRequest, require_kind, with_documents
from jopa.explanation.searching import SearchOptions
from jopa.method import Method
from jopa.methods import DEFAULT_METHOD, make_method
from jopa.model.generation import Generation
from jopa.preparation import Callbacks, OnRefusal, loaded, prepare_output, prepare_prompt, shape_of
from jopa.prompt.building import Message, Prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.remote.allowance import CostAtMost
from jopa.remote.chat_model import ChatModel
from jopa.remote.remote_model import RemoteModel
from jopa.results.attribution import Attribution
from jopa.results.text_attribution import TextAttribution
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import Model

T = TypeVar("T")


@overload
def explain(  # pyright: ignore[reportOverlappingOverload]  # a chat model is a model, and its results are of another kind
    prompt: str | Sequence[Message], *, model: ChatModel, **settings: Any
) -> TextAttribution: ...
@overload
def explain(
    prompt: str | Sequence[Message],
    *,
    documents: Sequence[Any] | Path | None = None,
    k: int | None = None,
    model: Model | str | Path | None = None,
    method: Method | str | None = None,
    unit: str | Sequence[Span] = "auto",
    removal: str | None = None,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
) -> Attribution: ...
def explain(  # pyright: ignore[reportInconsistentOverload]  # the first stands for all settings
    prompt: str | Sequence[Message],
    *,
    documents: Sequence[Any] | Path | None = None,
    k: int | None = None,
    model: Model | str | Path | None = None,
    method: Method | str | None = None,
    unit: str | Sequence[Span] = "auto",
    removal: str | None = None,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
) -> Attribution | TextAttribution:
    """Find the k units of a prompt whose joint removal most lowers the probability of the model's own output.

    Args:
        prompt: a text, or chat messages; `options.attribute` chooses which are explained, by default the last
            message of the user. With documents it is the question, which stays.
        documents: what stands beside the question and is explained: texts, or objects with "text" and perhaps "id" and
            "title". Shown by the chat template where it has a place for documents, else in a plain frame
            (`details["documents_through"]`).
        k: how many units to find; by default 3, or as many as a shorter prompt allows, and `details["default_k"]` says
            so. Ignored with `SearchOptions.until_pr`.
        model: a loaded model, or what `load` takes: a hub id, a folder, a `.gguf` file, None for the bundled model.
        method: a method, or its name with its default settings; by default `joint`, and `proxy-search` for inputs of
            1,500 tokens or more (`jopa.explanation.planning`).
        unit: "token", "word", "sentence", "line", "paragraph", "message" or "document" for whole ones, or character
            spans of the prompt; by default the one that fits the prompt's length, and `details["unit"]` says which.
        removal: "delete", "zero" or "hide"; by default the method's own preset.
        output: the text to explain, or an output with its token ids, or how the model generates it; by default the
            model generates up to 100 tokens greedily.
        target: the part of the output to explain: `(start, end)` in output tokens, a text that occurs in it once, or
            "answer" for what follows a reasoning trace.
        options: what stands around the prompt, such as a system message.
        search: what else to look for and to measure, such as the smallest sufficient set; and the seed.
        callbacks: functions to call during the work.

    Returns:
        The attribution. Over a chat API, which gives no log-probabilities, a `TextAttribution`.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    options = with_documents(options, documents)
    request = ExplanationRequest(prompt, options, k, unit, removal, search or SearchOptions())
    (attribution,) = _explain_each(request, [] if method is None else [method], model, output, target, callbacks)
    return attribution


@overload
def compare(  # pyright: ignore[reportOverlappingOverload]  # as for `explain`
    prompt: str | Sequence[Message], methods: Sequence[Method | str], *, model: ChatModel, **settings: Any
) -> tuple[TextAttribution, ...]: ...
@overload
def compare(
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str],
    *,
    k: int | None = None,
    model: Model | str | Path | None = None,
    unit: str | Sequence[Span] = "auto",
    removal: str = "delete",
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
) -> tuple[Attribution, ...]: ...
def compare(  # pyright: ignore[reportInconsistentOverload]  # the first stands for all settings
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str],
    *,
    k: int | None = None,
    model: Model | str | Path | None = None,
    unit: str | Sequence[Span] = "auto",
    removal: str = "delete",
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
) -> tuple[Attribution, ...] | tuple[TextAttribution, ...]:
    """Run several methods on the same prompt, output and removal.

    Args:
        prompt: as for `explain`.
        methods: what to compare, each with a memo and counters of its own.
        k: as for `explain`.
        model: as for `explain`; loaded once.
        unit: as for `explain`.
        removal: one for all methods, whatever their presets.
        output: as for `explain`; generated once.
        target: as for `explain`.
        options: as for `explain`.
        search: as for `explain`.
        callbacks: as for `explain`. With `on_refusal`, the other methods go on where one cannot explain this prompt; if
            none can, the first error is raised after all. By default any method's error is raised.

    Returns:
        One attribution a method that did not refuse, in the order of `methods`.

    Raises:
        JopaError: as `explain`; and if there is nothing to compare.
    """
    if not methods:
        raise SettingError("give at least one method to compare")
    request = ExplanationRequest(prompt, options or PromptOptions(), k, unit, removal, search or SearchOptions())
    found = _explain_each(request, methods, model, output, target, callbacks)
    return tuple(found)  # type: ignore[return-value]  # all of one kind, that of the model


def cost_at_most(
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str] = (DEFAULT_METHOD,),
    *,
    k: int | None = None,
    model: RemoteModel | ChatModel,
    unit: str | Sequence[Span] = "auto",
    output: str | Output | Generation | None = None,
    options: PromptOptions | None = None,
    search: SearchOptions | None = None,
) -> CostAtMost:
    """How many requests and tokens `explain` or `compare` may send to a server at most; sends nothing.

    Args:
        prompt: as for `explain`.
        methods: as for `compare`; none for the default.
        k: as for `explain`.
        model: a model behind a server.
        unit: as for `explain`.
        output: as for `explain`.
        options: as for `explain`.
        search: as for `explain`.

    Raises:
        SettingError: a method does not know its cost before.
        JopaError: as `explain`.
    """
    search = search or SearchOptions()
    if search.refine:
        raise SettingError("what a search from coarse to fine costs is not known before; leave out refine")
    built = prepare_prompt(model, prompt, options or PromptOptions(), unit=unit)
    n_units, generated = len(built.units), output is None or isinstance(output, Generation)
    k = search.largest_k(fitting_k(k, built)[0], n_units)
    requests, tokens = 0, 0
    for method in _made(methods or (DEFAULT_METHOD,)):
        method = method if search.budget is None else method.with_budget(search.budget)
        method.validate(shape_of(model, built, "delete"), 1 if search.until_pr is not None else k)
        ks = [k] if search.until_pr is None or method.shares_work else range(1, k + 1)
        masks, ffe = [method.most_masks(n_units, each) for each in ks], [method.most_ffe(n_units, each) for each in ks]
        known = [each for each in ffe if each is not None]
        if len(known) < len(ffe):
            raise SettingError(f"method '{method.name}' does not say before how many masks it scores")
        # Of every k that is tried until a PR, the selection is scored to compare it.
        evidence = 1 + (n_units if search.all_effects else k) + (k if search.until_pr is not None else 0)
        counted = None if None in masks else sum(each or 0 for each in masks) + evidence
        cost = model.cost_at_most(built, output_length(model, output), counted, sum(known) + evidence, answers=1)
        requests, tokens = requests + cost.requests, tokens + cost.tokens
    first = model.cost_at_most(built, 0, 0, 0.0, answers=1) if generated else CostAtMost(0, 0)
    return CostAtMost(requests + first.requests, tokens + first.tokens)


def require_explainable(request: ExplanationRequest, methods: Sequence[Method | str], model: Model) -> None:
    """Refuse what `explain` would refuse, as far as that is known without an answer.

    Raises:
        JopaError: as `explain`.
    """
    plan = planned(model, request, _made(methods))
    run_each(plan.methods, plan.validate, None)


def output_length(model: Model, output: str | Output | Generation | None) -> int:
    """The most tokens of the output to explain."""
    if isinstance(output, Output):
        return len(output.ids)
    if isinstance(output, str):
        return len(model.encode_continuation(output))
    return (output or Generation()).max_new_tokens


def _explain_each(
    request: ExplanationRequest,
    methods: Sequence[Method | str],
    model: Model | str | Path | None,
    output: str | Output | Generation | None,
    target: Span | str | None,
    callbacks: Callbacks | None,
) -> list[Attribution | TextAttribution]:
    """Explain one output by each method; a method refuses before the output is generated where it can."""
    callbacks = callbacks or Callbacks()
    require_kind("callbacks", callbacks, Callbacks)
    named = _made(methods)
    plan = planned(loaded(model), request, named)

    def validated(method: Method, answered: Prompt | None = None) -> Method:
        plan.validate(method, answered)
        return method

    able = run_each(plan.methods, validated, callbacks.on_refusal)
    began = time.perf_counter()
    preparation = prepare_output(plan.model, plan.prompt, output=output, target=target, callbacks=callbacks)
    if plan.prompt.trace:  # only now it is known how many units there are
        able = run_each(able, partial(validated, answered=preparation.prompt), callbacks.on_refusal)
    explain_one = partial(
        plan.attribute, preparation, callbacks=_with_answering(callbacks, time.perf_counter() - began)
    )
    return run_each(able, explain_one, callbacks.on_refusal)


def _made(methods: Sequence[Method | str]) -> list[Method]:
    """The methods that are named, with their default settings; refuses a name that none has."""
    for method in methods:
        if not isinstance(method, str | Method):
            raise SettingError(f"a method is a value such as JointSearch(), or its name, got {method!r:.60}")
    return [make_method(method) if isinstance(method, str) else method for method in methods]


def _with_answering(callbacks: Callbacks, seconds: float) -> Callbacks:
    """Callbacks whose first profile includes the seconds that the answer took."""
    on_profile = callbacks.on_profile
    if on_profile is None:
        return callbacks

    def report(profile: Profile) -> None:
        nonlocal seconds
        added, seconds = seconds, 0.0
        on_profile(replace(profile, seconds=profile.seconds + added, generating=profile.generating + added))

    return replace(callbacks, on_profile=report)


def run_each(methods: Sequence[Method], explain_one: Callable[[Method], T], on_refusal: OnRefusal | None) -> list[T]:
    """The results of `explain_one` for the methods that do not refuse, in their order.

    Raises:
        JopaError: a method's, if `on_refusal` is None; the first, if all refuse.
        StoppedError: a callback ended the work, which is not a refusal.
    """
    found: list[T] = []
    refused: list[JopaError] = []
    for method in methods:
        try:
            found.append(explain_one(method))
        except JopaError as error:
            if on_refusal is None or (isinstance(error, StoppedError) and not isinstance(error, LimitError)):
                raise
            on_refusal(method, error)
            refused.append(error)
    if not found:
        raise refused[0]
    return found
