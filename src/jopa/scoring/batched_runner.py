"""Several pieces of work in turns, whose forwards are run together.

A search asks for a few rows at a time, too few to fill a fast device. A `BatchedRunner` lets several searches, as a
rule of
different prompts, go on until every one of them waits for a forward; then it runs what they ask for, as many rows at
once as fit, and each goes on with its own. Searches know nothing of it. Which rows meet depends on nothing but the work
itself, so a run can be repeated; scores are those of each search alone, to rounding.

Each piece of work has a thread, for the sake of its stack alone: one of them runs at a time.

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
from jopa.model.language_model import LanguageModel
from jopa.scoring.batch_input import BatchInput, BatchOutput, Runner, forward, out_of_memory, without_gradients
from jopa.scoring.batch_planning import BatchLimits
from jopa.scoring.probe import probe_of

T = TypeVar("T")


class _Stop(BaseException):
    """Ends a piece of work from outside."""


@dataclass(frozen=True, eq=False)
class _Yielded:
    """What a piece of work gives."""

    value: Any


@dataclass(frozen=True, eq=False)
class _ForwardRequest:
    """A forward that a piece of work waits for."""

    member: _Worker
    model: LanguageModel
    rows: BatchInput
    limits: BatchLimits


@dataclass(frozen=True, eq=False)
class _Finished:
    """A piece of work has ended, perhaps by an error."""

    error: BaseException | None = None


class _Worker:
    """A piece of work in its thread.

    Attributes:
        spent: its seconds.
    """

    def __init__(self, piece: Iterator[Any], current: threading.local) -> None:
        self.spent = 0.0
        self._since = 0.0
        self._stopped = False
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._said: SimpleQueue[_Yielded | _ForwardRequest | _Finished] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(piece, current), daemon=True)
        self._thread.start()

    def resume(self, given: BatchOutput | Exception | None) -> _Yielded | _ForwardRequest | _Finished:
        """Let it work until it has something to say."""
        self._since = time.perf_counter()
        self._given.put(given)
        said = self._said.get()
        self.spent = self.seconds()
        return said

    def stop(self) -> None:
        """End it where it is, and wait for that."""
        self._stopped = True
        self._given.put(None)
        self._thread.join()

    def seconds(self) -> float:
        """While it works: its seconds so far."""
        return self.spent + time.perf_counter() - self._since

    def say(self, something: _Yielded | _ForwardRequest) -> Any:
        """From its own thread: say something, and wait for what is given in return."""
        self._said.put(something)
        return self._receive()

    def _receive(self) -> Any:
        given = None if self._stopped else self._given.get()
        if self._stopped:
            raise _Stop
        if isinstance(given, Exception):
            raise given
        return given

    def _work(self, piece: Iterator[Any], current: threading.local) -> None:
        current.member = self
        try:
            self._receive()
            for value in piece:
                self.say(_Yielded(value))
            self._said.put(_Finished())
        except _Stop:
            pass
        except BaseException as error:  # it belongs to whoever waits for this work
            self._said.put(_Finished(error))


class BatchedRunner(Runner):
    """Runs forwards of several pieces of work together.

    Args:
        members: the most pieces of work in hand at a time.

    Raises:
        SettingError: members is out of range.
    """

    def __init__(self, members: int) -> None:
        if members < 1:
            raise SettingError(f"at least 1 prompt must be worked on at a time, got {members}")
        self.members = members
        self._current = threading.local()

    def seconds(self) -> float:
        """A clock of the work that asks: it stands still while others work, and counts its share of their forwards."""
        return self._current.member.seconds()

    def read(self, model: LanguageModel, rows: BatchInput, limits: BatchLimits) -> BatchOutput:
        """Wait until the company runs a forward of these rows. To be called by its work alone."""
        member = self._current.member
        return member.say(_ForwardRequest(member, model, rows, limits))

    def work(self, pieces: Iterable[Iterator[T]]) -> Iterator[T]:
        """Whatever the pieces of work give, each in its own order; what one of them raises ends all."""
        rest = iter(pieces)
        members: list[_Worker] = []
        granted: list[tuple[_Worker, BatchOutput | Exception]] = []

        def resume(
            member: _Worker, given: BatchOutput | Exception | None, wishes: list[_ForwardRequest]
        ) -> Iterator[T]:
            while isinstance(said := member.resume(given), _Yielded):
                yield said.value
                given = None
            if isinstance(said, _ForwardRequest):
                wishes.append(said)
            else:
                members.remove(member)
                if said.error is not None:
                    raise said.error

        try:
            while True:
                wishes: list[_ForwardRequest] = []
                for member, given in granted:
                    yield from resume(member, given, wishes)
                while len(wishes) < self.members and (piece := next(rest, None)) is not None:
                    members.append(_Worker(piece, self._current))
                    yield from resume(members[-1], None, wishes)
                if not wishes:
                    return
                granted = [pair for group in _groups(wishes) for pair in _grant(group)]
        finally:
            for member in members:
                member.stop()


def _grant(group: list[_ForwardRequest]) -> list[tuple[_Worker, BatchOutput | Exception]]:
    """One forward for all of these wishes; where that fails, as for want of memory, one for each, and its own error.

    A fault that memory does not explain, and that none of them has alone, is raised.
    """
    import torch

    start = time.perf_counter()
    model = group[0].model
    results: list[BatchOutput | Exception]
    try:
        with without_gradients(model.model):
            results = list(forward(model, [wish.rows for wish in group]))
        if model.device.type == "cuda":  # which goes on by itself, and whoever looks first would wait for all
            torch.cuda.synchronize(model.device)
    except Exception as error:  # whatever it is, it belongs to the search that asked
        if len(group) > 1:
            apart = [pair for wish in group for pair in _grant([wish])]
            if not out_of_memory(error) and not any(isinstance(result, Exception) for _, result in apart):
                raise
            return apart
        results = [error]
    seconds, tokens = time.perf_counter() - start, sum(wish.rows.tokens for wish in group)
    for wish in group:
        wish.member.spent += seconds * wish.rows.tokens / tokens
    return [(wish.member, result) for wish, result in zip(group, results, strict=True)]


def _groups(wishes: list[_ForwardRequest]) -> Iterator[list[_ForwardRequest]]:
    """Wishes that one forward can grant, and that cost no more together than apart."""
    group: list[_ForwardRequest] = []
    for wish in sorted(wishes, key=lambda wish: (_kind(wish), wish.rows.width)):
        if group and not _fits(group, wish):
            yield group
            group = []
        group.append(wish)
    if group:
        yield group


def _fits(group: list[_ForwardRequest], wish: _ForwardRequest) -> bool:
    """Whether a wish can join others of its kind that are no wider."""
    if _kind(group[0]) != _kind(wish) or any(base.whole is not None for base in wish.rows.prefix_caches):
        return False
    probe = probe_of(wish.model)
    if wish.rows.options.restore is not None or not probe.batches:
        return False
    everything = [*group, wish]
    n_rows = sum(len(it.rows.prefix_caches) for it in everything)
    size = n_rows * wish.rows.width
    padding = size - sum(it.rows.tokens for it in everything)
    return (
        n_rows <= min(it.limits.rows for it in everything)
        and size <= min(it.limits.tokens or size for it in everything)
        and padding <= wish.limits.launch
    )


def _kind(wish: _ForwardRequest) -> tuple[int, list[str], int]:
    """What all rows of a forward must have in common: the model, the kind of input, and whether anything is cached; for
    a model that cannot mix cached beginnings of different lengths, how much."""
    begin = wish.rows.begin
    mixes = begin == 0 or probe_of(wish.model).mixes_prefixes
    return id(wish.model.model), sorted(wish.rows.inputs), min(begin, 1) if mixes else begin
