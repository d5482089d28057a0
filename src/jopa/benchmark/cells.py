"""The cells of one example: search, answer again, compare, and yield each finished record at once.

A `Task` is one example for one model with everything still to be done about it. `run_task` yields entries for the
journals of `jopa.benchmark.records` in the order in which they are known: the example with the model's own output, each
search when it ends, then the cells. The same function runs in this process and in a worker of a cluster.

All selections of an example are evaluated together, those already on record included: a run that was stopped and
continued gives the same numbers as one that was not.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from jopa.benchmark.experiment import Experiment, MethodSpec
from jopa.benchmark.model_spec import ModelSpec
from jopa.benchmark.records import (
    SCHEMA,
    AnswerRecord,
    CellKey,
    CellRecord,
    ExampleRecord,
    FailedCell,
    FinishedCell,
    KeyRecord,
    SearchRecord,
    is_sound,
    require_recordable,
)
from jopa.benchmark.refusals import identity_of, refused_cells, require_same_model, require_same_prompt
from jopa.choices import checked_removal
from jopa.datasets.examples import Example
from jopa.evaluation.regeneration import Evaluation, Evaluator
from jopa.evaluation.sentence_bert import SentenceBert
from jopa.method import Method, checked_selections
from jopa.model.generation import Generation
from jopa.model.language_model import versions
from jopa.model.loading import load
from jopa.preparation import Preparation, prepare_output, prepare_prompt
from jopa.prompt.building import Prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.records import OutputRecord, PromptRecord
from jopa.remote.client import KEY_VARIABLE
from jopa.remote.connecting import connect
from jopa.scoring.batch_input import Runner
from jopa.scoring.protocols import Model


class Names(NamedTuple):
    """An example for a model."""

    model: str
    data: str
    example: str


class JournalEntry(NamedTuple):
    """A record for one of the journals: "examples", "selections" or "cells"."""

    journal: str
    record: ExampleRecord | SearchRecord | CellRecord

    @property
    def names(self) -> Names:
        """The example that it is about."""
        key = self.record.key if isinstance(self.record, CellRecord) else self.record
        return Names(key.model, key.data, key.example)


@dataclass(frozen=True)
class Task:
    """One example for one model.

    Attributes:
        model: which model.
        data: the data set's name.
        example: the prompt with its template.
        pending: the cells to do.
        recorded: the example's record, if there is one.
        selections: the records of its finished searches.
        of_model: the record of some example for the same model, of an earlier start, if there is one.
    """

    model: ModelSpec
    data: str
    example: Example
    pending: tuple[CellKey, ...]
    recorded: ExampleRecord | None = None
    selections: tuple[SearchRecord, ...] = ()
    of_model: ExampleRecord | None = None

    @property
    def names(self) -> Names:
        """The example that it is about."""
        return Names(self.model.name, self.data, self.example.id)


class ModelCache:
    """The models a worker holds: one language model at a time, and SentenceBert; and what runs their forwards.

    Args:
        runner: by default each forward runs by itself.
    """

    def __init__(self, runner: Runner | None = None) -> None:
        self.runner = runner or Runner()
        self._spec: ModelSpec | None = None
        self._model: Model | None = None
        self._identity: dict[str, str | None] = {}
        self._similarity: SentenceBert | None = None

    def model(self, spec: ModelSpec) -> Model:
        """The model of a spec, loaded unless it is loaded already."""
        if self._model is None or spec != self._spec:
            self._model = None  # free the memory of the last model before the next is loaded
            self._model = self._connected(spec) if spec.endpoint else self._loaded(spec)
            self._identity = identity_of(self._model)
            self._spec = spec
        return self._model

    def identity(self, spec: ModelSpec) -> dict[str, str | None]:
        """What records say of the model of a spec."""
        self.model(spec)
        return self._identity

    def _loaded(self, spec: ModelSpec) -> Model:
        return replace(load(spec.id, **spec.loading), runner=self.runner)

    def _connected(self, spec: ModelSpec) -> Model:
        assert spec.endpoint is not None
        return connect(
            spec.endpoint,
            model=spec.id or "",
            api=spec.api,
            tokenizer=spec.tokenizer,
            key_variable=spec.key_variable or KEY_VARIABLE,
        )

    def similarity(self) -> SentenceBert:
        """The SentenceBert model, loaded once."""
        if self._similarity is None:
            self._similarity = SentenceBert()
        return self._similarity


def cells_of(experiment: Experiment, model: str, data: str, example: str) -> Iterator[CellKey]:
    """The keys of all cells of one example."""
    for spec in experiment.methods:
        for seed in experiment.seeds:
            for k in experiment.ks_of(spec):
                yield CellKey(model, data, example, spec.label, k, seed)


def run_task(experiment: Experiment, task: Task, models: ModelCache) -> Iterator[JournalEntry]:
    """Do the pending cells of a task; a failure is recorded for the cells that it concerns.

    Raises:
        JopaError: a model cannot be loaded, or is not the one on record; then no cell can be done.
    """
    model = models.model(task.model)
    identity = models.identity(task.model)
    for record in filter(None, (task.recorded, task.of_model)):
        require_same_model(record, identity)
    try:
        prompt = _prompt(experiment, task, model)
        found = {name: it for record in task.selections for name, it in _answers(record, len(prompt.units))}
        refused = refused_cells(experiment, [key for key in task.pending if key[3:] not in found], model, prompt)
    except Exception as error:  # one prompt must not end a run of thousands: its cells record the error
        yield from (failed_cell(key, error) for key in task.pending)
        return
    if task.recorded is not None:
        require_same_prompt(task.recorded, prompt)
    yield from (failed_cell(key, error) for key, error in refused.items())
    pending = [key for key in task.pending if key not in refused]
    if not pending:
        return  # there is no answer to generate
    similarity = models.similarity() if experiment.sentence_bert else None
    try:
        preparation = prepare_output(
            model, prompt, output=_recorded_output(task) or Generation(experiment.max_new_tokens)
        )
    except Exception as error:  # one prompt, as above: its cells record the error
        yield from (failed_cell(key, error) for key in pending)
        return
    output = preparation.output
    if task.recorded is None:
        yield JournalEntry("examples", _example_record(task, identity, prompt, output))

    for spec in experiment.methods:
        for seed in experiment.seeds:
            missing = [key.k for key in pending if key[3::2] == (spec.label, seed) and key[3:] not in found]
            for ks in _runs(spec.method, missing):
                try:
                    record = _search(task, spec, seed, ks, preparation, models.runner)
                    require_recordable(record)  # what nobody could read again fails this search, not the folder
                except (Exception, SystemExit) as error:  # a method may be a user's own: its cells record the error
                    yield from (failed_cell(CellKey(*task.names, spec.label, k, seed), error) for k in ks)
                else:
                    yield JournalEntry("selections", record)
                    found |= dict(_answers(record, len(prompt.units)))

    def evaluator() -> Evaluator:
        return Evaluator(
            model,
            prompt,
            output,
            experiment.removal,
            max_new_tokens=experiment.max_new_tokens,
            similarity=similarity,
        )

    everything = [found[key[3:]] for key in cells_of(experiment, *task.names) if key[3:] in found]
    evaluate = _evaluate_sets(evaluator, [answered.removed for _, answered in everything])
    for key in pending:
        chosen = found.get(key[3:])
        if chosen is None:
            continue  # its failure is recorded
        try:
            cell = _cell_record(experiment, key, prompt, output, *chosen, evaluate(chosen[1].removed))
            require_recordable(cell)
        except Exception as error:  # of one set's evaluation, or of its record: it is recorded
            yield failed_cell(key, error)
        else:
            yield JournalEntry("cells", cell)


def run_tasks(experiment: Experiment, tasks: Sequence[Task], models: ModelCache) -> Iterator[JournalEntry]:
    """Run tasks, as many at a time as the runner has workers.

    Raises:
        JopaError: as `run_task`.
    """
    for _model, of_model in groupby(tasks, key=lambda task: task.model):
        yield from models.runner.work(run_task(experiment, task, models) for task in of_model)


def _prompt(experiment: Experiment, task: Task, model: Model) -> Prompt:
    """The prompt as the model reads it."""
    options = PromptOptions(
        system=task.example.system,
        prefix=task.example.prefix,
        prefill=task.example.prefill,
        plain=task.model.plain,
        template_args=task.model.template_args or {},
    )
    return prepare_prompt(model, task.example.prompt, options, unit=experiment.unit)


def _recorded_output(task: Task) -> Output | None:
    """What the model said, if it is on record."""
    if task.recorded is None:
        return None
    said = task.recorded.output
    return Output(said.ids, said.text, said.target)


def _runs(method: Method, ks: Sequence[int]) -> list[Sequence[int]]:
    """The k that are answered together: all, if the method answers them with the work of one run."""
    return [ks] if method.shares_work and ks else [[k] for k in ks]


def _search(
    task: Task,
    spec: MethodSpec,
    seed: int,
    ks: Sequence[int],
    preparation: Preparation,
    runner: Runner,
) -> SearchRecord:
    """Run one method for several k; its cost is that of all of them together."""
    problem, method = preparation.problem(checked_removal(spec.removal)), spec.method
    started = runner.seconds()
    problem.log_prob()
    selections = list(checked_selections(method, problem, ks, seed=seed))
    seconds = runner.seconds() - started
    evaluations, ffe = problem.evaluations, problem.ffe
    return SearchRecord(
        **task.names._asdict(),
        method=spec.label,
        seed=seed,
        settings=method.settings,
        search_removal=checked_removal(spec.removal),
        ks=tuple(ks),
        evaluations=evaluations,
        ffe=ffe,
        seconds=seconds,
        answers=tuple(
            AnswerRecord(
                k=k,
                removed=selection.removed,
                search_log_prob_removed=problem.log_prob(selection.removed),
                stop=selection.stop,
                certificate=problem.certificate(selection.removed),
                trace=tuple((step.step, step.log_prob, step.evaluations, step.ffe) for step in selection.trace),
                scores=selection.scores,
                details=selection.details or None,
            )
            for k, selection in zip(ks, selections, strict=True)
        ),
    )


def _answers(
    search: SearchRecord, n_units: int
) -> Iterator[tuple[tuple[str, int, int], tuple[SearchRecord, AnswerRecord]]]:
    """What a search found, by (method, k, seed), the end of a cell's key; with it the search, which has the cost.

    An answer that is none, as a faulty method left it on record in an older version, is left out and searched again.
    """
    for answered in search.answers:
        if is_sound(answered, n_units):
            yield (search.method, answered.k, search.seed), (search, answered)


def _evaluate_sets(
    evaluator: Callable[[], Evaluator], sets: Sequence[Sequence[int]]
) -> Callable[[Sequence[int]], Evaluation]:
    """Evaluate all sets together; if that fails, each alone, so that only the sets with an error fail."""
    try:
        done = {frozenset(units): it for units, it in zip(sets, evaluator().evaluate(sets), strict=True)}
    except Exception:  # it is raised again for the set that it belongs to, and recorded there
        return lambda units: evaluator().evaluate([units])[0]
    return lambda units: done[frozenset(units)]


def _example_record(task: Task, identity: dict[str, str | None], prompt: Prompt, output: Output) -> ExampleRecord:
    return ExampleRecord(
        **task.names._asdict(),
        prompt=PromptRecord(prompt.text, prompt.ids, prompt.units, prompt.fixed, prompt.rendered),
        output=OutputRecord(output.text, output.ids, output.target),
        language_model=identity,
        versions=versions(),
    )


def _cell_record(
    experiment: Experiment,
    key: CellKey,
    prompt: Prompt,
    output: Output,
    search: SearchRecord,
    answered: AnswerRecord,
    evaluation: Evaluation,
) -> FinishedCell:
    return FinishedCell(
        schema=SCHEMA,
        key_record=KeyRecord(*key),
        method=search.settings,
        search_removal=search.search_removal,
        removal=checked_removal(experiment.removal),
        removed=evaluation.removed,
        removed_texts=tuple(prompt.units[unit].text for unit in evaluation.removed),
        units=len(prompt.units),
        output_tokens=len(output.ids),
        output=output.text,
        counterfactual_output=evaluation.counterfactual_output,
        log_prob=evaluation.log_prob,
        log_prob_removed=evaluation.log_prob_removed,
        individual=evaluation.individual,
        synergy=evaluation.synergy,
        search_log_prob_removed=answered.search_log_prob_removed,
        metrics=evaluation.metrics,
        evaluations=search.evaluations,
        ffe=search.ffe,
        seconds=search.seconds,
        ks=search.ks,
        stop=answered.stop,
        certificate=answered.certificate,
        trace=answered.trace,
        scores=answered.scores,
        details=answered.details,
        **_stamp(),
    )


def failed_cell(key: CellKey, error: BaseException) -> JournalEntry:
    """The record of a cell that ended in an error."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return JournalEntry("cells", FailedCell(schema=SCHEMA, key_record=KeyRecord(*key), error=reason, **_stamp()))


def _stamp() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "worker": f"{platform.node()}:{os.getpid()}",
    }
