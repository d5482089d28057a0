"""Runs the forwards of several searches in one batch.

A search asks for a few rows at a time, too few to fill a fast device. A `BatchedRunner` runs several searches, usually
of different prompts, until each of them waits for a forward; then it runs the requested rows, as many at once as fit,
and resumes each search with its own results. Searches do not know this. Which rows share a forward depends only on the
searches, so a run can be repeated; scores are those of each search alone, up to rounding.

Each search has its own thread, only because each needs its own stack: one thread runs at a time.

Knows rows, nothing of what they mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from jopa.errors import SettingError
from jopa.model.agreement import out_of_memory
from jopa.model.language_model import LanguageModel
from jopa.scoring.batch_input import BatchInput, BatchOutput, Runner, forward, without_gradients
from jopa.scoring.batch_planning import BatchLimits
from jopa.scoring.probe import probe_of

T = TypeVar("T")


class _Stop(BaseException):
    """Raised in a worker's thread to end it."""


@dataclass(frozen=True, eq=False)
class _Yielded:
    """A value that the work of a worker yields."""

    value: Any


@dataclass(frozen=True, eq=False)
class _ForwardRequest:
    """A forward that a worker waits for."""

    worker: _Worker
    model: LanguageModel
    rows: BatchInput
    limits: BatchLimits


@dataclass(frozen=True, eq=False)
class _Finished:
    """The work of a worker has ended, perhaps by an error."""

    error: BaseException | None = None


class _Worker:
    """One search in a thread of its own.

    Attributes:
        spent: its seconds so far, its share of common forwards included.
    """

    def __init__(self, piece: Iterator[Any], current: threading.local) -> None:
        self.spent = 0.0
        self._since = 0.0
        self._stopped = False
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._sent: SimpleQueue[_Yielded | _ForwardRequest | _Finished] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(piece, current), daemon=True)
        self._thread.start()

    def resume(self, given: BatchOutput | Exception | None) -> _Yielded | _ForwardRequest | _Finished:
        """Let it run until it yields a value, requests a forward, or ends."""
        self._since = time.perf_counter()
        self._given.put(given)
        sent = self._sent.get()
        self.spent = self.seconds()
        return sent

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stopped = True
        self._given.put(None)
        self._thread.join()

    def seconds(self) -> float:
        """Its seconds so far, while it runs."""
        return self.spent + time.perf_counter() - self._since

    def send(self, message: _Yielded | _ForwardRequest) -> Any:
        """From its own thread: send a value or request to the runner, and wait for the reply."""
        self._sent.put(message)
        return self._receive()

    def _receive(self) -> Any:
        given = None if self._stopped else self._given.get()
        if self._stopped:
            raise _Stop
        if isinstance(given, Exception):
            raise given
        return given

    def _work(self, piece: Iterator[Any], current: threading.local) -> None:
        current.worker = self
        try:
            self._receive()
            for value in piece:
                self.send(_Yielded(value))
            self._sent.put(_Finished())
        except _Stop:
            pass
        except BaseException as error:  # the runner raises it
            self._sent.put(_Finished(error))


class BatchedRunner(Runner):
    """Runs the forwards of several searches together.

    Args:
        members: the most searches at a time.

    Raises:
        SettingError: members is out of range.
    """

    def __init__(self, members: int) -> None:
        if members < 1:
            raise SettingError(f"at least 1 prompt must be worked on at a time, got {members}")
        self.members = members
        self._current = threading.local()

    def seconds(self) -> float:
        """A clock of the calling search: it stops while others run, and counts its share of common forwards."""
        return self._current.worker.seconds()

    def read(self, model: LanguageModel, rows: BatchInput, limits: BatchLimits) -> BatchOutput:
        """Wait until the runner has run a forward of these rows. Only its own searches may call it."""
        worker = self._current.worker
        return worker.send(_ForwardRequest(worker, model, rows, limits))

    def work(self, pieces: Iterable[Iterator[T]]) -> Iterator[T]:
        """The values that all searches yield, each in its own order; an error of one of them ends all."""
        rest = iter(pieces)
        workers: list[_Worker] = []
        results_due: list[tuple[_Worker, BatchOutput | Exception]] = []

        def resume(
            worker: _Worker, given: BatchOutput | Exception | None, requests: list[_ForwardRequest]
        ) -> Iterator[T]:
            while isinstance(sent := worker.resume(given), _Yielded):
                yield sent.value
                given = None
            if isinstance(sent, _ForwardRequest):
                requests.append(sent)
            else:
                workers.remove(worker)
                if sent.error is not None:
                    raise sent.error

        try:
            while True:
                requests: list[_ForwardRequest] = []
                for worker, given in results_due:
                    yield from resume(worker, given, requests)
                while len(requests) < self.members and (piece := next(rest, None)) is not None:
                    workers.append(_Worker(piece, self._current))
                    yield from resume(workers[-1], None, requests)
                if not requests:
                    return
                results_due = [pair for group in _groups(requests) for pair in _run_group(group)]
        finally:
            for worker in workers:
                worker.stop()


def _run_group(group: list[_ForwardRequest]) -> list[tuple[_Worker, BatchOutput | Exception]]:
    """One forward for all of these requests; if it fails, as when memory is too small, one for each, or its own error.

    An error that is not one of memory, and that no request alone causes, is raised.
    """
    import torch

    start = time.perf_counter()
    model = group[0].model
    results: list[BatchOutput | Exception]
    try:
        with without_gradients(model.model):
            results = list(forward(model, [request.rows for request in group]))
        if model.device.type == "cuda":
            # It runs asynchronously: the first search to read its result would wait for all of them.
            torch.cuda.synchronize(model.device)
    except Exception as error:  # any error is given to the search that requested the forward
        if len(group) > 1:
            apart = [pair for request in group for pair in _run_group([request])]
            if not out_of_memory(error) and not any(isinstance(result, Exception) for _, result in apart):
                raise
            return apart
        results = [error]
    seconds, tokens = time.perf_counter() - start, sum(request.rows.tokens for request in group)
    for request in group:
        request.worker.spent += seconds * request.rows.tokens / tokens
    return [(request.worker, result) for request, result in zip(group, results, strict=True)]


def _groups(requests: list[_ForwardRequest]) -> Iterator[list[_ForwardRequest]]:
    """Requests that one forward can serve, and that cost no more together than separately."""
    group: list[_ForwardRequest] = []
    for request in sorted(requests, key=lambda request: (_kind(request), request.rows.width)):
        if group and not _fits(group, request):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _fits(group: list[_ForwardRequest], request: _ForwardRequest) -> bool:
    """Whether a request can join others of its kind that are not wider."""
    if _kind(group[0]) != _kind(request) or any(base.whole is not None for base in request.rows.prefix_caches):
        return False
    probe = probe_of(request.model)
    if request.rows.options.restore is not None or not probe.batches:
        return False
    everything = [*group, request]
    n_rows = sum(len(it.rows.prefix_caches) for it in everything)
    size = n_rows * request.rows.width
    padding = size - sum(it.rows.tokens for it in everything)
    return (
        n_rows <= min(it.limits.rows for it in everything)
        and size <= min(it.limits.tokens or size for it in everything)
        and padding <= request.limits.launch
    )


def _kind(request: _ForwardRequest) -> tuple[int, list[str], int]:
    """What all rows of a forward must have in common: the model, the kind of input, and whether anything is cached.

    A model that cannot mix cached beginnings of different lengths also needs equal lengths.
    """
    begin = request.rows.begin
    mixes = begin == 0 or probe_of(request.model).mixes_prefixes
    return id(request.model.model), sorted(request.rows.inputs), min(begin, 1) if mixes else begin
