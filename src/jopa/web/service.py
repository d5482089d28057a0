"""The work of one request, and the events that say how it goes on.

A worker thread explains one request at a time, so that one request uses the model at a time. When a job is ended,
because the visitor pressed Stop or went away, the model's next forward raises `StoppedError`: between two batches, or
between two tokens. Nothing is kept afterwards: whatever a later request needs, its sender brings along, so that
visitors cannot see each other's results.

Events are JSON objects with a `kind`:

    prompt      pieces of the prompt, each with its text and, if it is a unit, its number and name
    text        stage ("answering", "answering without them") and the text so far
    answer      ids and texts of the answer's tokens, and the target [start, end)
    progress    stage, done, total (null if unknown), method (number of the method at work)
    best        units, log_prob, evaluations, ffe, method; without units it is the score of the whole prompt
    result      results (one a method: method, removed, removal, probability_ratio, evaluations, parts), table (of a
                comparison), json, html, refused (lines that say which method could not explain this, and why)
    error       message
    stopped     message

The server adds two that come before these, `waiting` and `started`; see `web.server`.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from jopa.attributing import SearchOptions, attribute
from jopa.attribution import Attribution, comparison_json
from jopa.choices import checked_removal
from jopa.errors import JopaError, SettingError, StoppedError
from jopa.explanation import run_each
from jopa.method import Method
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel
from jopa.preparation import Callbacks, prepare_output, prepare_prompt, require_room
from jopa.problem import Best
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.remote.client import stop_requests_when
from jopa.reports.attribution_html import comparison_html, comparison_table_html, parts_html, to_html
from jopa.reports.wording import unit_name, visible
from jopa.scoring.protocols import Model
from jopa.web.jobs import Job, JobEvent, JobQueue
from jopa.web.requests import ByHand, ExplainRequest, RequestLimits, read_request

Emit = Callable[[JobEvent], None]


class ExplanationService:
    """Takes requests for one model, and does one at a time.

    Args:
        model: used by nothing else.
        limits: the most that one request may ask for.
    """

    def __init__(self, model: Model, limits: RequestLimits) -> None:
        self.model = model
        self.limits = limits
        self.jobs: JobQueue[ExplainRequest] = JobQueue(
            self._explain, max_waiting=limits.waiting, max_per_visitor=limits.per_visitor
        )

    def submit(self, record: Any, visitor: str) -> Job[ExplainRequest]:
        """Check a request and let it wait for its turn.

        Args:
            record: what came as JSON.
            visitor: whose request it is; a visitor may have few at a time.

        Raises:
            JopaError: the request is not acceptable; or the queue is full, for this visitor or for all (`BusyError`).
        """
        request = read_request(record, self.limits, vocabulary_size(self.model))
        return self.jobs.submit(request, kind=_kind(request), visitor=visitor)

    def _explain(self, job: Job[ExplainRequest]) -> None:
        """Do one job and say how it ends; no error leaves it."""
        assert job.request is not None, "the queue gives out jobs that were not done"
        try:
            with stoppable(self.model, lambda: not job.is_wanted(), self.limits.seconds):
                run_request(self.model, job.request, job.emit, self.limits.gradient_tokens)
        except StoppedError as error:
            job.emit({"kind": "stopped", "message": str(error)})
        except JopaError as error:
            job.emit({"kind": "error", "message": str(error)})
        except Exception as error:  # a fault of ours: a line for the visitor, and all of it where the server runs
            traceback.print_exc(file=sys.stderr)
            job.emit({"kind": "error", "message": f"unexpected {type(error).__name__}; the server's log says more"})
        release_memory()


def release_memory() -> None:
    """Give the memory that a job has used back to the system; its allocators keep it otherwise."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def _kind(request: ExplainRequest) -> str:
    """Requests of one kind take about equally long."""
    if isinstance(request.methods[0], ByHand):
        return "remove"
    return "explain" if len(request.methods) == 1 else "compare"


@contextmanager
def stoppable(model: Model, is_stopped: Callable[[], bool], seconds: float) -> Iterator[None]:
    """For the time of a block, the model's next forward raises `StoppedError` if it is stopped or time is up.

    Requests to a server are cancelled while they are in flight.

    Args:
        model: the model.
        is_stopped: asked before each forward.
        seconds: the longest that the block may take.
    """
    end = time.monotonic() + seconds

    def check(*_: object) -> None:
        if is_stopped():
            raise StoppedError("stopped")
        if time.monotonic() > end:
            raise StoppedError(
                f"stopped after {seconds:g} seconds, this page's limit: take fewer or larger units, a shorter prompt "
                "or answer, a smaller budget, or another method"
            )

    if not isinstance(model, LanguageModel):
        with stop_requests_when(check):
            yield
        return
    hook = model.model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def vocabulary_size(model: Model) -> int:
    """How many token ids a model has; of one behind a server, as many as its tokenizer knows."""
    if isinstance(model, LanguageModel):
        return model.model.config.get_text_config().vocab_size
    return len(model.tokenizer)


def run_request(model: Model, request: ExplainRequest, emit: Emit, gradient_tokens: int | None = None) -> None:
    """Explain what is requested, and emit an event at every step.

    Args:
        model: the model.
        request: what is asked for.
        emit: called with each event.
        gradient_tokens: the most tokens for methods that need more than scores; None for no limit.

    Raises:
        JopaError: it cannot be explained as request.
    """
    generation = Generation(request.max_new_tokens)
    method_number = 0

    def on_text(stage: str, text: str) -> None:
        emit({"kind": "text", "stage": stage, "text": visible(text)})

    def on_progress(stage: str, done: int, total: int | None) -> None:
        emit({"kind": "progress", "stage": stage, "done": done, "total": total, "method": method_number})

    def on_best(best: Best) -> None:
        emit({"kind": "best", **asdict(best), "method": method_number})

    callbacks = Callbacks(on_progress, on_best, on_text)
    ids = request.output_ids
    prompt = prepare_prompt(model, request.prompt, unit=request.unit)
    n_output = len(ids) if ids else request.max_new_tokens
    require_room(model, prompt, max(request.max_new_tokens, n_output))
    heavy = [method.name for method in request.methods if method.requires != "scores"]
    if gradient_tokens is not None and heavy and len(prompt.ids) + n_output > gradient_tokens:
        raise SettingError(
            f"prompt and answer have up to {len(prompt.ids) + n_output:,} tokens, and this page takes at most "
            f"{gradient_tokens:,} with the method '{heavy[0]}', whose memory grows with them: shorten the prompt, or "
            "take a method that needs scores alone, such as 'joint'"
        )
    emit({"kind": "prompt", "pieces": unit_pieces(prompt)})
    output = generation if ids is None else Output(ids, model.decode(ids), (0, len(ids)))
    preparation = prepare_output(model, prompt, output=output, target=request.target, callbacks=callbacks)
    output = preparation.output
    tokens = [visible(text) for text in token_texts(model, output)]
    emit({"kind": "answer", "ids": output.ids, "tokens": tokens, "target": output.target})
    refused: list[str] = []

    def explain_one(method: Method) -> Attribution:
        nonlocal method_number
        method_number = request.methods.index(method)
        return attribute(
            preparation,
            k=request.k,
            method=method,
            removal=checked_removal(
                request.removal or (method.preset_removal if len(request.methods) == 1 else "delete")
            ),
            search=SearchOptions(counterfactual=generation),
            callbacks=callbacks,
        )

    found = run_each(request.methods, explain_one, lambda method, error: refused.append(f"{method.name}: {error}"))
    emit({**result(found), "refused": refused})


def result(found: list[Attribution]) -> dict[str, Any]:
    """What was found, as the report shows it, and the two files to download."""
    several = len(found) > 1
    return {
        "kind": "result",
        "results": [
            {
                "method": a.method["name"],
                "removed": a.removed,
                "removal": a.removal,
                "probability_ratio": a.probability_ratio,
                "evaluations": a.evaluations,
                "parts": parts_html(a),
            }
            for a in found
        ],
        "table": comparison_table_html(found) if several else None,
        "json": comparison_json(found) if several else found[0].to_json(),
        "html": comparison_html(found) if several else to_html(found[0]),
    }


def unit_pieces(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt in order, in pieces of `text`; a piece that is a unit has its number as `unit`, and a `name`."""
    pieces: list[dict[str, Any]] = []
    done = 0
    for number, unit in enumerate(prompt.units):
        pieces.append({"text": visible(prompt.text[done : unit.start])})
        pieces.append({"text": visible(unit.text), "unit": number, "name": unit_name(unit.text)})
        done = unit.end
    pieces.append({"text": visible(prompt.text[done:])})
    return [piece for piece in pieces if piece["text"]]


def token_texts(model: Model, output: Output) -> list[str]:
    """What each token adds to the output's text; joined, they are that text.

    Of tokens that are one character only together, the last has it.
    """
    texts, done = [], 0
    for count in range(1, len(output.ids) + 1):
        whole = len(model.decode(output.ids[:count]).removesuffix("\ufffd")) if count < len(output.ids) else None
        end = len(output.text) if whole is None else max(done, whole)
        texts.append(output.text[done:end])
        done = end
    return texts
