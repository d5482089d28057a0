"""The work of one request, and the events that say how it goes on.

Events are JSON objects with a `kind`:

    prompt      pieces of the prompt, each with its text and, if it is a unit, its number and name, or with a heading;
                methods: the names of those that explain it
    text        stage ("answering", "answering without them") and the text so far
    level       pieces of the prompt as the next level of the search has it, or with the reasoning trace;
                spans: of its units, null for all of their kind
    answer      ids of all that the model wrote; before: how many of them are the reasoning trace, if that is explained;
                texts of the others, and the target [start, end) among those
    progress    stage, done, total (null if unknown), method (number of the method at work)
    best        units, log_prob, evaluations, ffe, method; without units it is the score of the whole prompt
    result      results (one a method: method, removed, removal, probability_ratio, evaluations, parts), table (of a
                comparison), prompts (two prompts side by side); or report (a diagnosis or citations as HTML) and
                requests (of a diagnosis). Always: task, json, html, refused (lines that say which method could not
                explain this, and why)
    error       message
    stopped     message

The server adds two that come before these, `waiting` and `started`; see `web.endpoints`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from jopa.citation.citing import BELOW, cite
from jopa.diagnosis.diagnosing import diagnose
from jopa.errors import SettingError
from jopa.explanation.explaining import run_each
from jopa.explanation.planning import Plan, planned
from jopa.explanation.request import ExplanationRequest
from jopa.explanation.searching import SearchOptions
from jopa.method import Method
from jopa.model.generation import Generation
from jopa.preparation import Callbacks, prepare_output, require_room
from jopa.problem import Best
from jopa.prompt.building import AUTO, Prompt
from jopa.prompt.output import Output
from jopa.reports.wording import visible
from jopa.results.attribution import Attribution
from jopa.results.prompt_comparison import PromptComparison
from jopa.scoring.protocols import Model
from jopa.web.jobs import JobEvent
from jopa.web.limits import RequestLimits
from jopa.web.requests import ChosenUnits, PageRequest
from jopa.web.results import answer_event, attributions_event, level_event, prompt_event, prompts_event, report_event

Emit = Callable[[JobEvent], None]


def run_request(model: Model, request: PageRequest, emit: Emit, limits: RequestLimits | None = None) -> None:
    """Explain what is requested, and emit an event at every step.

    Args:
        model: the model.
        request: what is asked for.
        emit: called with each event.
        limits: how many tokens it may have; None for no limit.

    Raises:
        JopaError: it cannot be explained as requested.
    """
    unit = "sentence" if request.task != "explain" and request.unit == AUTO else request.unit
    search = SearchOptions(
        until_pr=request.until_pr,
        counterfactual=Generation(request.max_new_tokens),
        refine=() if _is_by_hand(request) else request.refine,
        budget=None if request.methods else request.budget,
    )
    removal = "delete" if request.removal is None and len(request.methods) > 1 else request.removal
    asked = ExplanationRequest(request.prompt, request.options, request.k, unit, removal, search)
    plan = planned(model, asked, request.methods)
    prompt = plan.prompt
    request = replace(request, unit=unit, methods=plan.methods)
    n_output = len(request.output_ids or ()) or request.max_new_tokens
    require_room(model, prompt, max(request.max_new_tokens, n_output))
    if limits is not None:
        _require_few_tokens(len(prompt.ids) + n_output, request, limits)
    emit(prompt_event(prompt, [method.name for method in request.methods]))
    if request.task == "explain":
        _explain(model, plan, request, emit)
    else:
        _measure(model, request, emit)


def _require_few_tokens(n: int, request: PageRequest, limits: RequestLimits) -> None:
    """Refuse more tokens than the page has memory and time for.

    Raises:
        SettingError: there are more.
    """
    if n > limits.tokens:
        raise SettingError(
            f"prompt and answer have up to {n:,} tokens, and this page takes at most {limits.tokens:,}: shorten the "
            "texts, leave out turns or documents, or ask for a shorter answer"
        )
    heavy = [each.name for each in request.methods if each.requires != "scores" and request.task == "explain"]
    if heavy and n > limits.gradient_tokens:
        raise SettingError(
            f"prompt and answer have up to {n:,} tokens, and this page takes at most {limits.gradient_tokens:,} with "
            f"the method '{heavy[0]}', whose memory grows with them: shorten the prompt, or take a method that needs "
            "scores alone, such as 'joint'"
        )


def _explain(model: Model, plan: Plan, request: PageRequest, emit: Emit) -> None:
    """Search with one method or two, or score the units that a person chose."""
    generation = Generation(request.max_new_tokens)
    refused: list[str] = []
    method_number = 0

    def refuse(method: Method, error: Exception) -> None:
        refused.append(f"{method.name}: {error}")

    def validated(method: Method, answered: Prompt | None = None) -> Method:
        plan.validate(method, answered)
        return method

    able = run_each(request.methods, validated, refuse)

    def on_best(best: Best) -> None:
        emit({"kind": "best", **asdict(best), "method": method_number})

    def on_level(prompt: Prompt) -> None:
        emit(level_event(prompt))

    callbacks = replace(_callbacks(emit, lambda: method_number), on_best=on_best, on_level=on_level)
    output = generation if request.output_ids is None else _given_output(model, request.output_ids)
    preparation = prepare_output(model, plan.prompt, output=output, target=request.target, callbacks=callbacks)
    trace = preparation.prompt.ids[len(plan.prompt.ids) :] if plan.prompt.trace else ()
    emit(answer_event(model, preparation.output, trace))
    if plan.prompt.trace:  # only now it is known what its units are
        emit(level_event(preparation.prompt, with_spans=False))
        able = run_each(able, partial(validated, answered=preparation.prompt), refuse)

    def explain_one(method: Method) -> Attribution:
        nonlocal method_number
        method_number = request.methods.index(method)
        found = plan.attribute(preparation, method, callbacks)
        assert isinstance(found, Attribution)  # the page serves no model that gives texts alone
        return found

    found = run_each(able, explain_one, refuse)
    if request.first is not None:
        event = prompts_event(PromptComparison(request.first, found[0]))
    else:
        event = attributions_event(found)
    emit({**event, "refused": refused})


def _measure(model: Model, request: PageRequest, emit: Emit) -> None:
    """A diagnosis, or the sources of each sentence of the answer."""
    generation = Generation(request.max_new_tokens)
    run = partial(
        diagnose if request.task == "diagnose" else cite,
        request.prompt,
        model=model,
        unit=request.unit,
        removal=request.removal or "delete",
        output=generation if request.output_ids is None else _given_output(model, request.output_ids),
        target=request.target,
        options=request.options,
        callbacks=_callbacks(emit, lambda: 0),
    )
    if request.task == "diagnose":
        found = run(requests=request.requests)
        # The answer that a browser sends along was written under the same limit.
        found = replace(found, cut_off=len(found.output_ids) >= request.max_new_tokens)
    else:
        found = run(below=BELOW if request.until_pr is None else request.until_pr)
    emit(answer_event(model, Output(found.output_ids, found.output, found.target)))
    emit({**report_event(found), "refused": []})


def _given_output(model: Model, ids: tuple[int, ...]) -> Output:
    return Output(ids, model.decode(ids), (0, len(ids)))


def _callbacks(emit: Emit, method_number: Callable[[], int]) -> Callbacks:
    """Callbacks that emit texts and progress."""

    def on_text(stage: str, text: str) -> None:
        emit({"kind": "text", "stage": stage, "text": visible(text)})

    def on_progress(stage: str, done: int, total: int | None) -> None:
        emit({"kind": "progress", "stage": stage, "done": done, "total": total, "method": method_number()})

    return Callbacks(on_progress, on_text=on_text)


def kind_of(request: PageRequest) -> str:
    """Requests of one kind take about equally long."""
    if _is_by_hand(request):
        return "remove"
    if request.task != "explain":
        return request.task
    return "explain" if len(request.methods) < 2 else "compare"


def _is_by_hand(request: PageRequest) -> bool:
    """Whether a person chose the units."""
    return bool(request.methods) and isinstance(request.methods[0], ChosenUnits)
