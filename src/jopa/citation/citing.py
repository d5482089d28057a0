"""For each sentence of an answer, the smallest set of source sentences that it depends on: `cite`.

Prepares prompt and output as an explanation does; the search is in `search`, the meaning of its numbers in `result`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jopa.choices import checked_removal, whole_number
from jopa.citation.result import Citations
from jopa.citation.search import find_sources
from jopa.errors import SettingError
from jopa.explanation.request import with_documents
from jopa.model.generation import Generation
from jopa.model.language_model import versions
from jopa.preparation import Callbacks, loaded, prepare, require_log_probs
from jopa.prompt.answer_parts import sentences_of
from jopa.prompt.building import Message, require_prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.scoring.protocols import Model, slow_paths_of

BELOW = 0.8
"""What the PR of a sentence must fall below without its sources, unless told otherwise: each of its tokens is then a
fifth less likely, in the geometric mean."""
MAX_SOURCES = 5
"""The most source sentences of one sentence of the answer, unless told otherwise."""


def cite(
    question: str | Sequence[Message],
    documents: Sequence[Any] | Path | None = None,
    *,
    model: Model | str | Path | None = None,
    unit: str | Sequence[Span] = "sentence",
    below: float = BELOW,
    max_sources: int = MAX_SOURCES,
    removal: str = "delete",
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    options: PromptOptions | None = None,
    callbacks: Callbacks | None = None,
) -> Citations:
    """Find for each sentence of an answer the smallest set of source sentences whose removal makes it unlikely.

    Args:
        question: a text, or chat messages; it stays in place.
        documents: the sources: texts, or objects with "text" and perhaps "id" and "title".
        model: a loaded model, or what `load` takes; None for the bundled one.
        unit: what a source is: "sentence", "line", "paragraph", "document" or what else `explain` takes.
        below: what the probability ratio of a sentence must fall below without its sources, above 0 and at most 1.
        max_sources: the most sources of one sentence.
        removal: "delete", "zero" or "hide".
        output: the answer, or how the model generates it, as for `explain`.
        target: as for `explain`; sentences without a target token are left out.
        options: as for `explain`; of the prompt, documents alone are attributable.
        callbacks: as for `explain`; `progress` and `on_text` are called.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    checked, max_sources = checked_removal(removal), whole_number("max_sources", max_sources)
    options, callbacks = with_documents(options, documents), callbacks or Callbacks()
    require_citation(options, below, max_sources)
    options = replace(options, attribute="documents")
    require_prompt(question, options, unit=unit)
    cited_model = loaded(model)
    require_log_probs(cited_model, "a citation")
    prepared = prepare(
        cited_model,
        question,
        options,
        unit=unit,
        removal=checked,
        output=output,
        target=target,
        callbacks=callbacks,
    )
    prompt, said = prepared.prompt, prepared.output
    parts = sentences_of(said, cited_model.decode)
    started = time.perf_counter()
    problem = prepared.problem(checked)

    def report(done: int) -> None:
        if callbacks.progress:
            callbacks.progress("citing", done, len(parts))

    report(0)
    names = [source.document for source in prompt.sources]
    groups = [[i for i, unit in enumerate(prompt.units) if unit.document == name] for name in names]
    found = find_sources(
        problem,
        parts,
        [group for group in groups if group],
        below=below,
        max_sources=max_sources,
        on_sentence=report,
    )
    slow = slow_paths_of(problem.scorer)
    return Citations(
        model=cited_model.identity,
        prompt=prompt.text,
        input_ids=prompt.ids,
        units=prompt.units,
        documents=prompt.sources,
        output=said.text,
        output_ids=said.ids,
        target=said.target,
        citations=tuple(found),
        removal=checked,
        below=float(below),
        max_sources=max_sources,
        seed=prepared.generation.seed,
        evaluations=problem.evaluations,
        ffe=problem.ffe,
        seconds=time.perf_counter() - started,
        versions=versions(),
        details={
            "unit": prompt.unit_kind,
            **_recorded(prompt.recorded),
            **({"slow_paths": list(slow)} if slow else {}),
        },
        fixed=prompt.fixed,
        rendered=prompt.rendered,
    )


def require_citation(options: PromptOptions, below: float = BELOW, max_sources: int = MAX_SOURCES) -> None:
    """Refuse what cannot be cited with any model; the arguments are those of `cite`.

    Raises:
        SettingError: a limit is out of range, there are no documents, or other texts are to be attributed, too.
    """
    if options.documents is None:
        raise SettingError("citations are of documents, and there are none; give some")
    if options.attribute not in (None, "documents", ["documents"]):
        raise SettingError("citations are of the documents alone; leave out what else is to be attributed")
    if not 0 < below <= 1:
        raise SettingError(f"the PR that a sentence must fall below lies above 0 and at most at 1, got {below:g}")
    if max_sources < 1:
        raise SettingError(f"max_sources must be at least 1, got {max_sources}")


def _recorded(record: dict[str, Any]) -> dict[str, Any]:
    """How the documents were shown; they themselves stand in the prompt's record."""
    return {name: value for name, value in record.items() if name != "sources"}
