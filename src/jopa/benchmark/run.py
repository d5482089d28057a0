"""Running an experiment: everything that is not on record yet, through a map over examples, into a folder's journals.

The map is an argument: `serial_map` does the work in this process, `jopa.benchmark.ray_map` gives it to the workers of
a cluster. Only this file writes records, one synced line at a time; see `jopa.storage` for what survives a kill.
"""

from __future__ import annotations

import platform
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jopa.benchmark.cells import JournalEntry, ModelCache, Task, cells_of, run_tasks
from jopa.benchmark.experiment import Experiment, merged
from jopa.benchmark.records import (
    CellKey,
    CellRecord,
    FinishedCell,
    Run,
    SearchRecord,
    SessionData,
    SessionRecord,
    experiment_record,
    read_run,
    read_searches,
)
from jopa.datasets.examples import Dataset, load_dataset
from jopa.errors import InputFileError, SettingError
from jopa.json_values import Record
from jopa.model.language_model import versions
from jopa.model.machine import processor_name, usable_cores
from jopa.scoring.batched_runner import BatchedRunner
from jopa.storage import Journal, is_partial, locked, write_text

Mapper = Callable[[Experiment, Sequence[Task]], Iterator[JournalEntry]]
"""Runs tasks and yields each journal entry as soon as it is known."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, of what this start of the command has to do.

    Attributes:
        done: cells that got a result.
        failed: cells that ended in an error.
        total: cells to do.
        answers: prompts whose answer was generated.
        searches: searches that ended; an example's cells follow once all its searches have.
    """

    done: int
    failed: int
    total: int
    answers: int = 0
    searches: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a start of the command did.

    Attributes:
        done: cells that got a result.
        failed: cells that ended in an error, which is on record.
        before: cells that were on record already.
        left: failed cells of earlier starts that were not done again.
        data: the data sets, and how many prompts of each were left out and why.
    """

    done: int
    failed: int
    before: int
    left: int
    data: tuple[Dataset, ...]


def serial_map(experiment: Experiment, tasks: Sequence[Task]) -> Iterator[JournalEntry]:
    """Run tasks one after another in this process."""
    return run_tasks(experiment, tasks, ModelCache())


def batched_map(n_examples: int) -> Mapper:
    """A map that runs several tasks at a time in this process; their searches share forwards.

    The seconds of a search are then its own and its share of the forwards.

    Raises:
        SettingError: n_examples is out of range.
    """
    models = ModelCache(BatchedRunner(n_examples))
    return lambda experiment, tasks: run_tasks(experiment, tasks, models)


def run_bench(
    experiment: Experiment,
    folder: Path,
    *,
    sets: Sequence[str] = (),
    methods: Sequence[str] = (),
    retry_failed: bool = False,
    mapper: Mapper = serial_map,
    on_data: Callable[[Dataset], None] = lambda _dataset: None,
    on_progress: Callable[[RunProgress], None] = lambda _progress: None,
) -> Outcome:
    """Do every cell of an experiment that is not on record in a folder.

    Args:
        experiment: what to run.
        folder: where its records are, or will be.
        sets: do cells of these data sets only; by default of all. No other is read.
        methods: do cells of these methods only, by label; by default of all.
        retry_failed: do cells again that failed at an earlier start.
        mapper: runs the tasks.
        on_data: called with each data set once it is read.
        on_progress: called before the first answer, and after each answer, search and cell.

    Raises:
        InputFileError: the folder or a data set cannot be used, or another run uses the folder.
        SettingError: the folder holds an experiment whose results would be mixed with this one's.
        ModelError: a model cannot be loaded.
    """
    _require_known("data set", sets, [spec.name for spec in experiment.data])
    _require_known("method", methods, [spec.label for spec in experiment.methods])
    datasets = []
    for spec in experiment.data:
        if sets and spec.name not in sets:
            continue
        dataset = load_dataset(spec.name, path=spec.path, limit=spec.limit, seed=spec.seed)
        if spec.prefill is not None:
            examples = (replace(example, prefill=spec.prefill or None) for example in dataset.examples)
            dataset = replace(dataset, examples=tuple(examples))
        datasets.append(dataset)
        on_data(dataset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputFileError(f"cannot make the folder '{folder}': {error.strerror}") from error
    with locked(folder), ExitStack() as stack:
        on_record, adopted = _opened(experiment, folder, sets)
        open_cells = {cell.key for cell in on_record.failed if retry_failed}
        closed = {cell.key for cell in on_record.cells} - open_cells
        wanted = {
            key
            for model in experiment.models
            for dataset in datasets
            for example in dataset.examples
            for key in cells_of(experiment, model.name, dataset.name, example.id)
            if not methods or key.method in methods
        }
        searched = read_searches(folder)
        tasks = list(_tasks(experiment, datasets, on_record, searched, wanted - closed))
        write_text(folder / "experiment.json", _json(adopted))  # after everything that may refuse the experiment
        journals = {
            name: stack.enter_context(Journal(folder / f"{name}.jsonl"))
            for name in ("sessions", "examples", "selections", "cells")
        }
        journals["sessions"].append(_session(datasets))
        pending = {key for task in tasks for key in task.pending}
        failed_before = {cell.key for cell in on_record.failed} & wanted
        done = failed = 0
        total = len(pending)
        written = Counter[str]()
        on_progress(RunProgress(done, failed, total))
        for journal, record in mapper(experiment, tasks) if tasks else ():
            if isinstance(record, CellRecord):
                if record.key not in pending:
                    continue  # of a worker that was replaced after it had answered
                pending.remove(record.key)
                done += isinstance(record, FinishedCell)
                failed += not isinstance(record, FinishedCell)
            journals[journal].append(record)
            written[journal] += 1
            on_progress(RunProgress(done, failed, total, written["examples"], written["selections"]))
    assert not pending, f"{len(pending)} cells have no record"
    return Outcome(done, failed, len(wanted) - total, 0 if retry_failed else len(failed_before), tuple(datasets))


def _require_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise SettingError(f"the experiment has no {what} '{name}': it has {', '.join(known)}")


def _opened(experiment: Experiment, folder: Path, sets: Sequence[str]) -> tuple[Run, Record]:
    """What is on record in the folder, and the experiment to write there."""
    path = folder / "experiment.json"
    new = experiment.to_dict()
    if path.exists():
        run = read_run(folder)
        return run, merged(run.plan, new, sets, begun={data for _, data, _ in run.examples})
    if any(entry.name != "lock" and not is_partial(entry) for entry in folder.iterdir()):
        raise InputFileError(f"'{folder}' is no benchmark run and not empty; give a new or an empty folder (--out)")
    return Run(experiment_record(new), (), {}, (), new), new


def _tasks(
    experiment: Experiment,
    datasets: Sequence[Dataset],
    on_record: Run,
    searches: Iterable[SearchRecord],
    pending: set[CellKey],
) -> Iterator[Task]:
    """One task for each example that has pending cells, model by model.

    Raises:
        SettingError: an example on record has another prompt than the data set's now.
    """
    searched: dict[tuple[str, str, str], list[SearchRecord]] = defaultdict(list)
    for search in searches:
        searched[search.names].append(search)
    of_model = {example.model: example for example in on_record.examples.values()}
    for model in experiment.models:
        for dataset in datasets:
            for example in dataset.examples:
                names = (model.name, dataset.name, example.id)
                recorded = on_record.examples.get(names)
                if recorded is not None and recorded.prompt.text != example.prompt:
                    raise SettingError(
                        f"example '{example.id}' of data set '{dataset.name}' is not the one on record; the data "
                        "changed, so give another folder (--out) or the data set another name"
                    )
                mine = tuple(key for key in cells_of(experiment, *names) if key in pending)
                if mine:
                    done = tuple(searched[names])
                    yield Task(model, dataset.name, example, mine, recorded, done, of_model.get(model.name))


def _session(datasets: Iterable[Dataset]) -> SessionRecord:
    """The date, machine, versions and data of this start of the command."""
    return SessionRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        machine=machine(),
        versions=versions(),
        data=tuple(
            SessionData(
                name=dataset.name,
                source=dataset.source,
                read=dataset.read,
                kept=len(dataset.examples),
                left_out=dict(dataset.left_out),
                ids=tuple(example.id for example in dataset.examples),
            )
            for dataset in datasets
        ),
    )


def machine() -> Record:
    """The processor, cores, memory, accelerator and load of this machine, as results record them."""
    import os

    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpu": processor_name(),
        "cores": len(usable_cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
        if hasattr(os, "sysconf")
        else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "platform": platform.platform(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def _json(record: Record) -> str:
    import json

    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"
