"""The whole way from a prompt to its Attribution.

prompt → ids and units → output (generated or given) → method → effects and counterfactual → Attribution
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jopa.attribution import Attribution
from jopa.choices import checked_removal
from jopa.errors import JopaError, SettingError, StoppedError
from jopa.evaluation.metrics import probability_ratio
from jopa.method import Method, Selection
from jopa.methods import DEFAULT_METHOD, make_method
from jopa.model.generation import Generation, OnProgress, OnText
from jopa.model.language_model import versions
from jopa.ordering import NAT, first_lowest, ranked
from jopa.preparation import Callbacks, OnProfile, Preparation, answer_without, loaded, prepare, shape_of
from jopa.problem import OnBest, Problem, joint_effects
from jopa.prompt.building import Message, Prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import Model

OnRefusal = Callable[[Method, JopaError], None]
"""Called with a method that cannot explain a prompt, and why."""

MAX_K = 10
"""The most units that a search for the smallest sufficient set takes away, unless told otherwise."""


def explain(
    prompt: str | Sequence[Message],
    *,
    k: int = 3,
    until_pr: float | None = None,
    max_k: int | None = None,
    model: Model | str | Path | None = None,
    method: Method | str = DEFAULT_METHOD,
    unit: str | Sequence[Span] = "token",
    removal: str | None = None,
    system: str | None = None,
    prefix: str | None = None,
    prefill: str | None = None,
    output: str | Output | None = None,
    target: Span | str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    all_effects: bool = False,
    progress: OnProgress | None = None,
    on_best: OnBest | None = None,
    on_text: OnText | None = None,
    on_profile: OnProfile | None = None,
) -> Attribution:
    """Find the k units of a prompt whose joint removal most lowers the probability of the model's own output.

    Args:
        prompt: a text, or chat messages whose last user message is explained.
        k: how many units to find; of no meaning with `until_pr`.
        until_pr: find the smallest k instead, from 1 to `max_k`, whose joint removal brings PR below this value. Where
            none does, the set with the lowest PR is given and `stop` says so; `details["until_pr"]` tells every k that
            was tried, its PR and certificate, and whether the value was reached.
        max_k: the most units to remove for `until_pr`; 10 or all units of the prompt, if they are fewer.
        model: a loaded model, or what `load` takes: a hub id, a folder, a `.gguf` file, None for the bundled model.
        method: a method, or its name with its default settings.
        unit: "token", "word", "sentence", "line", or character spans of the prompt.
        removal: "delete", "zero" or "hide"; by default the method's own preset.
        system: a system message before the prompt (chat models).
        prefix: a fixed instruction before the prompt in the same turn; not attributable.
        prefill: the beginning of the answer, put into the assistant's mouth.
        output: the text to explain, or an output with its token ids; by default what the model generates.
        target: the part of the output to explain: `(start, end)` in output tokens, or a text that occurs in it once.
        max_new_tokens: the most tokens to generate.
        temperature: 0 for greedy generation; otherwise the softmax temperature to sample with.
        seed: of everything random.
        all_effects: also score every unit removed alone.
        progress: called as the work goes on.
        on_best: called with the score of the whole prompt, then with every set of k units (with `until_pr`: of the most
            units) that is the best so far.
        on_text: called as the model writes, both its answer and its answer without the chosen units.
        on_profile: called at the end with what it cost; loading is not in it, and is 0 there.

    Whatever a callback raises (`StoppedError`, to end the work) ends it there and reaches the caller; the model is left
    as it came.

    Returns:
        The attribution.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    chosen = make_method(method) if isinstance(method, str) else method
    if max_k is not None and until_pr is None:
        raise SettingError("max_k limits the search for until_pr; give until_pr, too, or k instead")
    if until_pr is not None and not 0 < until_pr <= 1:
        raise SettingError(f"until_pr must be above 0 and at most 1, got {until_pr:g}")
    if max_k is not None and max_k < 1:
        raise SettingError(f"max_k must be at least 1, got {max_k}")
    how = checked_removal(removal or chosen.preset_removal)
    language_model = loaded(model)
    generation = Generation(max_new_tokens, temperature, seed)
    began = time.perf_counter()
    answering = 0.0

    def tell_profile(profile: Profile) -> None:
        if on_profile:
            on_profile(replace(profile, seconds=profile.seconds + answering, generating=profile.generating + answering))

    callbacks = Callbacks(progress, on_best, on_text, tell_profile)

    def refuse_early(built: Prompt) -> None:
        nonlocal began
        chosen.validate(shape_of(language_model, built, how), k if until_pr is None else 1)
        began = time.perf_counter()

    preparation = prepare(
        language_model,
        prompt,
        PromptOptions(unit, system, prefix, prefill),
        output=output,
        target=target,
        generation=generation,
        callbacks=callbacks,
        check=refuse_early,
    )
    answering = time.perf_counter() - began
    if until_pr is not None:
        k = min(max_k or MAX_K, len(preparation.prompt.units))
    return attribute(
        preparation,
        k=k,
        until_pr=until_pr,
        method=chosen,
        removal=how,
        generation=generation,
        seed=seed,
        all_effects=all_effects,
        callbacks=callbacks,
    )


def compare(
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str],
    *,
    model: Model | str | Path | None = None,
    removal: str = "delete",
    on_refusal: OnRefusal | None = None,
    **settings: Any,
) -> tuple[Attribution, ...]:
    """Run several methods on the same prompt, output and removal.

    Args:
        prompt: as for `explain`.
        methods: what to compare, each with a memo and counters of its own.
        model: as for `explain`; loaded once.
        removal: one for all methods, whatever their presets.
        on_refusal: called for each method that cannot explain this prompt, while the others go on; if none can, the
            first error is raised after all. By default any method's error is raised.
        settings: what else `explain` takes.

    Returns:
        One attribution a method that did not refuse, in the order of `methods`.

    Raises:
        JopaError: as `explain`; and if there is nothing to compare.
    """
    if not methods:
        raise SettingError("give at least one method to compare")
    chosen = [make_method(method) if isinstance(method, str) else method for method in methods]
    language_model = loaded(model)

    def explain_one(method: Method) -> Attribution:
        attribution = explain(prompt, model=language_model, method=method, removal=removal, **settings)
        settings["output"] = Output(attribution.output_ids, attribution.output, attribution.target)
        return attribution

    return tuple(run_each(chosen, explain_one, on_refusal))


def run_each(
    methods: Sequence[Method], explain_one: Callable[[Method], Attribution], on_refusal: OnRefusal | None
) -> list[Attribution]:
    """What `explain_one` gives for each method that does not refuse, in their order.

    Raises:
        JopaError: a method's, if `on_refusal` is None; the first, if all refuse.
        StoppedError: somebody ended the work, which is no method's refusal.
    """
    found: list[Attribution] = []
    refused: list[JopaError] = []
    for method in methods:
        try:
            found.append(explain_one(method))
        except JopaError as error:
            if on_refusal is None or isinstance(error, StoppedError):
                raise
            on_refusal(method, error)
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def attribute(
    preparation: Preparation,
    *,
    k: int,
    method: Method,
    removal: str,
    generation: Generation,
    until_pr: float | None = None,
    seed: int = 0,
    all_effects: bool = False,
    callbacks: Callbacks,
) -> Attribution:
    """Run one method on a prompt and output that are ready, and gather the evidence; see `explain`.

    With `until_pr`, k is the most units to remove.
    """

    def report_search(done: int, total: int | None) -> None:
        if callbacks.progress:
            callbacks.progress("searching", done, total)

    model, prompt, output = preparation.model, preparation.prompt, preparation.output
    started = time.perf_counter()
    scorer = preparation.scorer(removal)
    problem = Problem(scorer, report_search)
    log_prob = problem.log_prob()
    if callbacks.on_best:
        problem.watch(k, callbacks.on_best)
    if until_pr is None:
        selection = method.run(problem, k, seed=seed)
    else:
        selection = smallest_sufficient(problem, method, until_pr, k, seed=seed)
    seconds = time.perf_counter() - started
    evaluations, ffe, repeats = problem.evaluations, problem.ffe, problem.repeats

    certificate = problem.certificate(selection.removed)
    alone = range(problem.n_units) if all_effects else selection.removed
    joint, *effects = joint_effects(problem, [selection.removed, *([i] for i in alone)])
    effect_of = dict(zip(alone, effects, strict=True))
    chosen = sorted(selection.removed)
    removed = [chosen[i] for i in ranked([effect_of[i] for i in chosen], least_scale=NAT)]
    individual = tuple(effect_of[i] for i in removed)
    began = time.perf_counter()
    counterfactual = answer_without(model, scorer, problem.keep_mask(removed), generation, callbacks)
    if callbacks.on_profile:
        now = time.perf_counter()
        callbacks.on_profile(Profile(scorer.work, problem.ffe, repeats, now - started, generating=now - began))
    start, end = output.target
    return Attribution(
        model=model.identity,
        prompt=prompt.text,
        input_ids=prompt.ids,
        units=prompt.units,
        output=output.text,
        output_ids=output.ids,
        target=output.target,
        removal=removal,
        k=k if until_pr is None else len(removed),
        removed=tuple(removed),
        log_prob=log_prob,
        log_prob_removed=log_prob - joint,
        probability_ratio=probability_ratio(log_prob, log_prob - joint, end - start),
        individual=individual,
        synergy=joint - sum(individual),
        counterfactual_output=model.decode(counterfactual),
        method=method.settings,
        seed=seed,
        evaluations=evaluations,
        ffe=ffe,
        seconds=seconds,
        trace=selection.trace,
        stop=selection.stop,
        certificate=certificate,
        versions=versions(),
        effects=tuple(effects) if all_effects else None,
        scores=selection.scores,
        details={**selection.details, **_scorer_details(scorer)} or None,
    )


def _scorer_details(scorer: object) -> dict[str, Any]:
    """What a scorer has to tell beside its scores, such as the requests that it sent."""
    return getattr(scorer, "details", {})


def smallest_sufficient(problem: Problem, method: Method, until_pr: float, max_k: int, *, seed: int = 0) -> Selection:
    """The smallest set whose removal brings PR below `until_pr`, of those that a method finds for k = 1 to `max_k`.

    A method that answers several k with the work of one run does so; any other method runs k by k until a set is
    sufficient. That no smaller set is sufficient is proved where `certificate` says "optimal" for every
    smaller k; otherwise the method found none.

    Returns:
        The selection, or where none is sufficient, that with the lowest PR, the smaller one of equals; its `stop` says
        which it is. `details["until_pr"]` holds the value (`pr`), whether it was reached (`reached`) and, for every k
        tried (`tried`), its `k`, `pr` and `certificate`.
    """
    n_tokens = problem.token_log_probs([()]).shape[1]
    tried: list[tuple[float, Selection]] = []
    for selection in method.select(problem, range(1, max_k + 1), seed=seed):
        tried.append((probability_ratio(problem.log_prob(), problem.log_prob(selection.removed), n_tokens), selection))
        if tried[-1][0] < until_pr:
            break
    reached = tried[-1][0] < until_pr
    chosen = tried[-1 if reached else first_lowest([ratio for ratio, _ in tried])][1]
    found = (
        f"PR falls below {until_pr:g} with {len(chosen.removed)} of at most {max_k} units"
        if reached
        else f"no set of up to {max_k} units was found that brings PR below {until_pr:g}; this one brings it lowest"
    )
    record = {
        "pr": until_pr,
        "reached": reached,
        "tried": [
            {"k": len(s.removed), "pr": ratio, "certificate": problem.certificate(s.removed)} for ratio, s in tried
        ],
    }
    return replace(chosen, stop=f"{found}; {chosen.stop}", details={**chosen.details, "until_pr": record})
