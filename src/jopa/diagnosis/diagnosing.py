"""How each request of a prompt influences the answer: which has no measurable influence, and what each one drives.

Every unit (a request, by default a sentence) is removed alone, and all of them together; one evaluation gives the
log-probability of every token of the answer, so one evaluation a unit fills its row of the table. What the numbers
mean is said in `result`.

(Appendix A.4, "Benefit on Model Diagnosis", asks which request an answer overlooks; it gives no procedure.)

Prepares prompt and output as an explanation does; searches nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopa.choices import checked_removal
from jopa.diagnosis.result import Diagnosis, units_without_influence
from jopa.errors import SettingError
from jopa.model.generation import Generation
from jopa.model.language_model import versions
from jopa.preparation import (
    Callbacks,
    loaded,
    prepare_output,
    prepare_prompt,
    require_log_probs,
    require_removal,
)
from jopa.problem import Problem
from jopa.prompt.answer_parts import Part, sentences_of
from jopa.prompt.building import Message, require_prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.request_guess import marked_requests
from jopa.prompt.segmentation import Span
from jopa.scoring.protocols import Model, slow_paths_of

BAND = (0.95, 1.05)
"""The PR within which a removal counts as having changed nothing, unless told otherwise."""


def diagnose(
    prompt: str | Sequence[Message],
    *,
    model: Model | str | Path | None = None,
    unit: str | Sequence[Span] = "sentence",
    requests: Sequence[int] | None = None,
    removal: str = "delete",
    band: tuple[float, float] = BAND,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    callbacks: Callbacks | None = None,
) -> Diagnosis:
    """Find which requests of a prompt the model's answer depends on, and which sentences each influences.

    Scores the whole prompt, each unit removed alone, all units removed, and all units without influence removed.

    Args:
        prompt: a text, or chat messages whose last user message is diagnosed.
        model: a loaded model, or what `load` takes; None for the bundled one.
        unit: what a request is: "sentence", "line", "paragraph", "word", "token", or character spans of the prompt.
        requests: which units are requests, as indices from 0; guessed from their words by default.
        removal: "delete", "zero" or "hide".
        band: the PR, from and to, within which a removal counts as having changed nothing; 1 lies in it.
        output: as for `explain`.
        target: as for `explain`.
        options: as for `explain`.
        callbacks: as for `explain`; `progress` and `on_text` are called.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    checked = checked_removal(removal)
    require_band(band)
    require_prompt(prompt, options, unit=unit)
    callbacks = callbacks or Callbacks()
    explained_model = loaded(model)
    require_log_probs(explained_model, "a diagnosis")
    built = prepare_prompt(explained_model, prompt, options, unit=unit)
    require_removal(explained_model, built, checked)
    if not built.trace:  # with a trace, the answer brings further units
        marked_requests([unit.text for unit in built.units], requests)
    prepared = prepare_output(explained_model, built, output=output, target=target, callbacks=callbacks)
    marked = marked_requests([unit.text for unit in prepared.prompt.units], requests)
    generated = output is None or isinstance(output, Generation)
    if callbacks.progress:
        callbacks.progress("diagnosing", 0, None)
    language_model, built, said = prepared.model, prepared.prompt, prepared.output
    return measured(
        prepared.problem(checked),
        sentences_of(said, language_model.decode),
        target=said.target,
        band=(float(band[0]), float(band[1])),
        model=language_model.identity,
        prompt=built.text,
        input_ids=built.ids,
        units=built.units,
        fixed=built.fixed,
        rendered=built.rendered,
        output=said.text,
        output_ids=said.ids,
        removal=checked,
        seed=prepared.generation.seed,
        versions=versions(),
        requests=marked,
        requests_given=requests is not None,
        cut_off=generated and len(said.ids) >= prepared.generation.max_new_tokens,
    )


def require_band(band: tuple[float, float]) -> None:
    """Refuse a band of PR without 1 in it.

    Raises:
        SettingError: it is such a band, or reaches to 0.
    """
    if not 0 < band[0] <= 1 <= band[1]:
        raise SettingError(f"the band must reach from above 0 to 1 or more and hold 1, got {band[0]:g} to {band[1]:g}")


def measured(
    problem: Problem, parts: tuple[Part, ...], *, target: tuple[int, int], band: tuple[float, float], **known: Any
) -> Diagnosis:
    """Score everything that a diagnosis needs.

    Args:
        problem: gives the log-probability of each target token.
        parts: tile the target.
        target: `[start, end)`, the tokens whose probability counts.
        band: the PR that counts as unchanged.
        known: the fields of the `Diagnosis` that need no score.
    """
    started = time.perf_counter()
    lengths, n_tokens = [part.end - part.start for part in parts], target[1] - target[0]
    each = ([unit] for unit in range(problem.n_units))
    whole, without_all, *alone = problem.token_log_probs([(), range(problem.n_units), *each]).double()
    table = tuple(tuple(float(part.sum()) for part in (whole - row).split(lengths)) for row in alone)
    log_prob = float(whole.sum())
    silent = units_without_influence(table, n_tokens, band)
    together = log_prob - problem.log_prob(silent) if len(silent) > 1 else None
    slow = slow_paths_of(problem.scorer)
    return Diagnosis(
        parts=parts,
        target=target,
        band=band,
        log_prob=log_prob,
        log_prob_removed=float(without_all.sum()),
        table=table,
        together=together,
        evaluations=problem.evaluations,
        ffe=problem.ffe,
        seconds=time.perf_counter() - started,
        details={"slow_paths": list(slow)} if slow else {},
        **known,
    )
