"""One method on a prompt and output that are ready: the search, then the evidence for what it found.

search → the answer without the chosen units → Attribution
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, cast

from jopa.choices import Removal
from jopa.errors import SettingError
from jopa.evaluation.metrics import probability_ratio
from jopa.explanation.searching import SearchOptions, SearchOutcome, search_units
from jopa.method import Method
from jopa.model.generation import Generation
from jopa.model.language_model import versions
from jopa.preparation import Callbacks, Preparation, answer_without, require_log_probs
from jopa.problem import SharedScores
from jopa.results.attribution import Attribution
from jopa.results.text_attribution import TextAttribution, TextUnit
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import DetailedScorer, NoisyScorer, PackedModel, PromptScorer, slow_paths_of


def attribute(
    preparation: Preparation,
    *,
    k: int,
    method: Method,
    removal: Removal,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
    shared: SharedScores | None = None,
) -> Attribution:
    """Run one method on a prompt and output that are ready, and gather the evidence.

    Args:
        preparation: the model, the prompt and the output to explain.
        k: how many units to find; of no meaning with `until_pr`.
        method: how to find them.
        removal: how units are removed.
        search: what else to look for and to measure.
        callbacks: functions to call during the work.
        shared: scores of the same input and output in other units.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    require_log_probs(preparation.model, "an Attribution")
    search, callbacks, started = search or SearchOptions(), callbacks or Callbacks(), time.perf_counter()
    found = search_units(preparation, k, method, removal, search, callbacks, shared)
    counterfactual = _answer_without(found, preparation, search, callbacks, started)
    prompt, output, selection = preparation.prompt, preparation.output, found.selection
    start, end = output.target
    return Attribution(
        model=preparation.model.identity,
        prompt=prompt.text,
        input_ids=prompt.ids,
        units=prompt.units,
        output=output.text,
        output_ids=output.ids,
        target=output.target,
        removal=removal,
        k=k if search.until_pr is None else len(found.removed),
        removed=found.removed,
        log_prob=found.score,
        log_prob_removed=found.score - found.joint,
        probability_ratio=probability_ratio(found.score, found.score - found.joint, end - start),
        individual=found.individual,
        synergy=found.joint - sum(found.individual),
        counterfactual_output=counterfactual,
        method=method.settings,
        seed=search.seed,
        evaluations=found.evaluations,
        ffe=found.ffe,
        seconds=found.seconds,
        trace=selection.trace,
        stop=selection.stop,
        certificate=found.certificate,
        versions=versions(),
        effects=found.effects,
        scores=selection.scores,
        details=_details(preparation, found),
        fixed=prompt.fixed,
        rendered=prompt.rendered,
    )


def attribute_text(
    preparation: Preparation,
    *,
    k: int,
    method: Method,
    removal: Removal,
    search: SearchOptions | None = None,
    callbacks: Callbacks | None = None,
) -> TextAttribution:
    """The same over a model that gives texts alone: what counts is how alike its answers are.

    Raises:
        SettingError: `until_pr` is asked for, which needs log-probabilities.
        JopaError: as `attribute`.
    """
    search, callbacks, started = search or SearchOptions(), callbacks or Callbacks(), time.perf_counter()
    if search.until_pr is not None:
        raise SettingError("until_pr needs log-probabilities, and this model gives texts alone; give k instead")
    found = search_units(preparation, k, method, removal, search, callbacks)
    counterfactual = _answer_without(found, preparation, search, callbacks, started)
    scorer = found.problem.scorer
    details = _details(preparation, found)
    return TextAttribution(
        model=preparation.model.identity,
        prompt=preparation.prompt.text,
        units=tuple(TextUnit(unit.text, unit.start, unit.end) for unit in preparation.prompt.units),
        output=preparation.output.text,
        removal=removal,
        k=k,
        removed=found.removed,
        measure=details.get("similarity", {}).get("measure", ""),
        similarity=found.score,
        similarity_removed=found.score - found.joint,
        noise=scorer.noise if isinstance(scorer, NoisyScorer) else 0.0,
        individual=found.individual,
        synergy=found.joint - sum(found.individual),
        counterfactual_output=counterfactual,
        method=method.settings,
        seed=search.seed,
        evaluations=found.evaluations,
        ffe=found.ffe,
        seconds=found.seconds,
        stop=found.selection.stop,
        certificate=found.certificate,
        versions=versions(),
        effects=found.effects,
        details=details,
    )


def _answer_without(
    found: SearchOutcome, preparation: Preparation, search: SearchOptions, callbacks: Callbacks, started: float
) -> str:
    """The answer without what was found; then the profile of all that was done since `started`."""
    model, problem = preparation.model, found.problem
    scorer = cast(PromptScorer, problem.scorer)
    began = time.perf_counter()
    generation = search.counterfactual or preparation.generation
    counterfactual = answer_without(model, scorer, problem.keep_mask(found.removed), generation, callbacks)
    if callbacks.on_profile:
        now = time.perf_counter()
        profile = Profile(
            scorer.work,
            problem.ffe,
            found.repeats,
            now - started,
            generating=now - began,
            products=model.packed.description if isinstance(model, PackedModel) else "",
            slow_paths=slow_paths_of(scorer),
        )
        callbacks.on_profile(profile)
    return model.decode(counterfactual)


def _details(preparation: Preparation, found: SearchOutcome) -> dict[str, Any]:
    return {
        **found.selection.details,
        "unit": preparation.prompt.unit_kind,
        **preparation.prompt.recorded,
        **_scorer_details(cast(PromptScorer, found.problem.scorer)),
        **_sampling(preparation.generation),
        **({"answer": "kept from an earlier run"} if preparation.kept else {}),
    }


def _scorer_details(scorer: PromptScorer) -> dict[str, Any]:
    """What is recorded of a scorer: requests that it sent, fast paths that it could not take."""
    details = dict(scorer.details) if isinstance(scorer, DetailedScorer) else {}
    if slow := slow_paths_of(scorer):
        details["slow_paths"] = list(slow)
    return details


def _sampling(generation: Generation) -> dict[str, Any]:
    """How the output was sampled; nothing for a greedy one, which needs no seed."""
    return {"generation": asdict(generation)} if generation.temperature else {}
