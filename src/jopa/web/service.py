"""Requests for one model, done one at a time.

A worker thread explains one request at a time, so that one request uses the model at a time. When a job is ended,
because the visitor pressed Stop or went away, the model's next forward raises `StoppedError`: between two batches, or
between two tokens. Nothing is kept afterwards: whatever a later request needs, its sender brings along, so that
visitors cannot see each other's results. What a request does is in `web.work`.
"""

from __future__ import annotations

import sys
import traceback
from threading import Lock
from typing import Any

from jopa.errors import InputFileError, JopaError, StoppedError
from jopa.prompt.options import PromptOptions
from jopa.scoring.protocols import Model
from jopa.web.jobs import Job, JobEvent, JobQueue, unexpected
from jopa.web.limits import RequestLimits
from jopa.web.models import release_memory, stoppable, vocabulary_size
from jopa.web.requests import PageRequest, read_request
from jopa.web.results import shown_again
from jopa.web.work import kind_of, run_request


class ExplanationService:
    """Takes requests for one model, and does one at a time.

    Args:
        model: used by nothing else.
        limits: the most that one request may ask for.
        options: how every prompt is put before the model.
    """

    def __init__(self, model: Model, limits: RequestLimits, options: PromptOptions | None = None) -> None:
        self.model = model
        self.limits = limits
        self.options = options or PromptOptions()
        self.jobs: JobQueue[PageRequest] = JobQueue(
            self._explain, max_waiting=limits.waiting, max_per_visitor=limits.per_visitor
        )
        self._showing = Lock()

    def submit(self, record: Any, visitor: str) -> Job[PageRequest]:
        """Check a request and let it wait for its turn.

        Args:
            record: what came as JSON.
            visitor: whose request it is; a visitor may have few at a time.

        Raises:
            JopaError: the request is not acceptable; or the queue is full, for this visitor or for all (`BusyError`).
        """
        request = read_request(record, self.limits, vocabulary_size(self.model), self.options)
        return self.jobs.submit(request, kind=kind_of(request), visitor=visitor)

    def show(self, record: Any) -> list[JobEvent]:
        """The events that show a kept result again; one result at a time.

        Args:
            record: {"json": the text of the result}.

        Raises:
            JopaError: it is no result.
        """
        if not isinstance(record, dict) or record.keys() != {"json"} or not isinstance(record["json"], str):
            raise InputFileError('a kept result is sent as {"json": "…"}')
        with self._showing:
            try:
                return shown_again(record["json"], self.model, self.limits)
            except JopaError:
                raise
            except Exception as error:  # numbers that fit the record's form and mean nothing
                raise InputFileError(f"this result cannot be shown: {type(error).__name__}") from error

    def _explain(self, job: Job[PageRequest]) -> None:
        """Do one job and say how it ends; no error leaves it, nor one of giving the memory back."""
        assert job.request is not None, "the queue gives out jobs that were not done"
        try:
            try:
                with stoppable(self.model, lambda: not job.is_wanted(), self.limits.seconds):
                    run_request(self.model, job.request, job.emit, self.limits)
            finally:
                release_memory()
        except StoppedError as error:
            job.emit({"kind": "stopped", "message": str(error)})
        except JopaError as error:
            job.emit({"kind": "error", "message": str(error)})
        except Exception as error:  # a fault of ours: a line for the visitor, and all of it where the server runs
            traceback.print_exc(file=sys.stderr)
            job.emit(unexpected(error))
