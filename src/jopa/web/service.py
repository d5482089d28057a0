"""The work of one request, told as events while it goes on.

A worker thread explains; what it finds goes through a queue to the generator that Gradio reads. When the generator is
closed, because the visitor pressed Stop or went away, the model's next forward raises `StoppedError`: between two
batches, or between two tokens. One request uses the model at a time. Nothing is kept afterwards: whatever a later
request needs, its sender brings along, so that visitors cannot see each other's results.

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
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from jopa.attribution import Attribution, comparison_json
from jopa.errors import JopaError, StoppedError
from jopa.explanation import attribute, run_each
from jopa.method import Method
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel
from jopa.preparation import Callbacks, prepare, require_room
from jopa.problem import Best
from jopa.prompt.building import Prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.reports.attribution_html import comparison_html, comparison_table_html, parts_html, to_html
from jopa.reports.wording import unit_name, visible
from jopa.web.requests import ExplainRequest, RequestLimits, read_request

Emit = Callable[[dict[str, Any]], None]

_PAUSE = 0.1
"""Seconds between two batches of events: ten a second look smooth."""
_PATIENCE = 1.0
"""Seconds after which an empty batch is sent, so that a visitor who went away is noticed."""
_LAST = {"result", "error", "stopped"}


class ExplanationService:
    """Takes requests for one model, and does one at a time.

    Args:
        model: used by nothing else.
        limits: the most that one request may ask for.
    """

    def __init__(self, model: LanguageModel, limits: RequestLimits) -> None:
        self.model = model
        self.limits = limits
        self._model_in_use = Lock()

    def events(self, record: Any) -> Iterator[dict[str, Any]]:
        """Batches of events, `{"first": number of its first event, "events": [...]}`; closing it ends the work."""
        told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        stop = Event()
        Thread(target=self._work, args=(record, told.put, stop), daemon=True).start()
        first, events = 0, []
        try:
            while not events or events[-1]["kind"] not in _LAST:
                events = _next_batch(told)
                yield {"first": first, "events": events}
                first += len(events)
        finally:
            stop.set()

    def _work(self, record: Any, emit: Emit, stop: Event) -> None:
        """Do what is asked and tell how it ends; no error leaves it."""
        try:
            asked = read_request(record, self.limits, self.model.model.config.get_text_config().vocab_size)
            with self._model_in_use, stoppable(self.model, stop, self.limits.seconds):
                run_request(self.model, asked, emit)
        except StoppedError as error:
            emit({"kind": "stopped", "message": str(error)})
        except JopaError as error:
            emit({"kind": "error", "message": str(error)})
        except Exception as error:  # a fault of ours: told to the visitor in a line, and in full where the server runs
            traceback.print_exc(file=sys.stderr)
            emit({"kind": "error", "message": f"unexpected {type(error).__name__}; the server's log says more"})


@contextmanager
def stoppable(model: LanguageModel, stop: Event, seconds: float) -> Iterator[None]:
    """For the time of a block, the model's next forward raises `StoppedError` once `stop` is set or time is up."""
    end = time.monotonic() + seconds

    def check(*_: object) -> None:
        if stop.is_set():
            raise StoppedError("stopped")
        if time.monotonic() > end:
            raise StoppedError(
                f"stopped after {seconds:g} seconds, this page's limit: take fewer or larger units, a shorter prompt "
                "or answer, a smaller budget, or another method"
            )

    hook = model.model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def run_request(model: LanguageModel, asked: ExplainRequest, emit: Emit) -> None:
    """Explain what is asked, telling every step.

    Raises:
        JopaError: it cannot be explained as asked.
    """
    generation = Generation(asked.max_new_tokens)
    at_work = 0

    def check(prompt: Prompt) -> None:
        require_room(model, len(prompt.ids), max(asked.max_new_tokens, len(asked.output_ids or ())))
        emit({"kind": "prompt", "pieces": unit_pieces(prompt)})

    def on_text(stage: str, text: str) -> None:
        emit({"kind": "text", "stage": stage, "text": visible(text)})

    def on_progress(stage: str, done: int, total: int | None) -> None:
        emit({"kind": "progress", "stage": stage, "done": done, "total": total, "method": at_work})

    def on_best(best: Best) -> None:
        emit({"kind": "best", **asdict(best), "method": at_work})

    callbacks = Callbacks(on_progress, on_best, on_text)
    ids = asked.output_ids
    preparation = prepare(
        model,
        asked.prompt,
        PromptOptions(unit=asked.unit),
        output=None if ids is None else Output(ids, model.decode(ids), asked.target or (0, len(ids))),
        target=asked.target,
        generation=generation,
        callbacks=callbacks,
        check=check,
    )
    output = preparation.output
    tokens = [visible(text) for text in token_texts(model, output)]
    emit({"kind": "answer", "ids": output.ids, "tokens": tokens, "target": output.target})
    refused: list[str] = []

    def explain_one(method: Method) -> Attribution:
        nonlocal at_work
        at_work = asked.methods.index(method)
        return attribute(
            preparation,
            k=asked.k,
            method=method,
            removal=asked.removal or (method.preset_removal if len(asked.methods) == 1 else "delete"),
            generation=generation,
            callbacks=callbacks,
        )

    found = run_each(asked.methods, explain_one, lambda method, error: refused.append(f"{method.name}: {error}"))
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


def token_texts(model: LanguageModel, output: Output) -> list[str]:
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


def _next_batch(told: SimpleQueue[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was told since the last time, without what later news of the same kind has made stale."""
    try:
        events = [told.get(timeout=_PATIENCE)]
    except Empty:
        return []
    if events[-1]["kind"] not in _LAST:
        time.sleep(_PAUSE)
    while not told.empty():
        events.append(told.get())
    latest = {(event["kind"], event.get("stage")): event for event in events}
    return [e for e in events if e["kind"] not in {"text", "progress"} or e is latest[e["kind"], e["stage"]]]
