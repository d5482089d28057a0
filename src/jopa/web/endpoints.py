"""What is answered at each address, on Starlette.

    POST /jobs               a request as JSON (`web.requests`); the answer is 201 and {"id": ...}
    GET /jobs/{id}/events    its events as server-sent events, one JSON object each; can be read once
    DELETE /jobs/{id}        ends it; so does closing the stream of events, and not reading it
    POST /results            a result that the visitor kept, as {"json": text}; the answer is {"events": [...]}: what
                             shows it again, without the model

Before the events of `web.work` come {"kind": "waiting", "before": jobs before this one, "seconds": until it is done,
null if unknown}, at most once a second and only when they change, and {"kind": "started"}. A stream carries some
kilobytes a second, whether there are events or not, so that the buffers of a visitor who opened it and does not read
are soon full, and the job is dropped. What is not acceptable is answered with one status and one line of text: 400 (the
request), 401 and 403 (who asks), 404, 405, 408, 409, 413, 429 (too many requests of one visitor), 503 (too many of
all).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from jopa.errors import JopaError
from jopa.web.access import visitor_of
from jopa.web.body import BodyError, BodyReader, parse_request
from jopa.web.jobs import FINAL_KINDS, Job, JobEvent, JobQueue, QueueFullError, VisitorBusyError
from jopa.web.service import ExplanationService

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
NOT_STORED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
STREAM_HEADERS = {**NOT_STORED, "X-Accel-Buffering": "no"}  # nginx passes each event on at once
NO_JOB = "there is no such request: it has ended, or was dropped because nobody read its events"

_POLL_SECONDS = 0.1
"""Between two looks for new events: ten a second look smooth."""
ALIVE_SECONDS = 1.0
"""So often a comment is sent, so that a visitor who went away or stopped reading is noticed."""
ALIVE_BYTES = 8192
"""Of that comment. A stream that nobody reads must fill the buffers on its way (about 200,000 bytes where the reader's
system is Linux), long before its job would be done."""
_ALIVE = b":" + b" " * (ALIVE_BYTES - 3) + b"\n\n"
_CHUNK_BYTES = 16_384
"""A long event is sent in pieces, so that a slow reader costs little memory."""


def routes(service: ExplanationService, page: str, static: Mapping[str, tuple[bytes, str]]) -> list[Route]:
    """All addresses there are.

    Args:
        service: does the work.
        page: the page as HTML.
        static: the files that the page loads, each with its media type.
    """
    bodies = BodyReader()
    return [
        Route("/", _constant(page.encode(), "text/html")),
        *(Route(f"/{name}", _constant(*content)) for name, content in static.items()),
        Route("/jobs", _submit(service, bodies), methods=["POST"]),
        Route("/results", _show(service, bodies), methods=["POST"]),
        Route("/jobs/{id}", _end(service), methods=["DELETE"]),
        Route("/jobs/{id}/events", _events(service), methods=["GET"]),
    ]


async def on_http_error(_: Request, error: Exception) -> Response:
    """The line for an address or a method that there is not."""
    status = getattr(error, "status_code", 404)
    return _refusal(status, "there is nothing here" if status == 404 else "this address takes another HTTP method")


Endpoint = Callable[[Request], Awaitable[Response]]


def _refusal(status: int, message: str) -> Response:
    closing = {"Connection": "close"} if status in {408, 413, 503} else {}  # the rest of the body is not read
    return PlainTextResponse(f"{message}\n", status, {**NOT_STORED, **closing})


def _constant(content: bytes, media_type: str) -> Endpoint:
    async def respond(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return respond


def _submit(service: ExplanationService, bodies: BodyReader) -> Endpoint:
    async def respond(request: Request) -> Response:
        async with bodies.read(request.stream()) as body:
            job = service.submit(parse_request(body), visitor_of(request.client.host if request.client else ""))
        return JSONResponse({"id": job.id}, 201, NOT_STORED)

    return _refusing(respond)


def _show(service: ExplanationService, bodies: BodyReader) -> Endpoint:
    async def respond(request: Request) -> Response:
        async with bodies.read(request.stream()) as body:
            events = await asyncio.to_thread(service.show, parse_request(body))
        return JSONResponse({"events": events}, 200, NOT_STORED)

    return _refusing(respond)


def _refusing(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with a status and a line for every error that a request can cause."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except BodyError as error:
            return _refusal(error.status, str(error))
        except VisitorBusyError as error:
            return _refusal(429, str(error))
        except QueueFullError as error:
            return _refusal(503, str(error))
        except JopaError as error:
            return _refusal(400, str(error))
        except ClientDisconnect:
            return _refusal(400, "the connection was closed before the request was complete")

    return respond


def _events(service: ExplanationService) -> Endpoint:
    async def respond(request: Request) -> Response:
        job = service.jobs.find(request.path_params["id"])
        if job is None:
            return _refusal(404, NO_JOB)
        if job.has_reader:
            return _refusal(409, "the events of this request are being read already")
        job.has_reader = True
        return StreamingResponse(_stream(service.jobs, job), 200, STREAM_HEADERS, "text/event-stream")

    return respond


def _end(service: ExplanationService) -> Endpoint:
    async def respond(request: Request) -> Response:
        job = service.jobs.find(request.path_params["id"])
        if job is None:
            return _refusal(404, NO_JOB)
        service.jobs.end(job)
        return Response(status_code=204)

    return respond


async def _stream(jobs: JobQueue[Any], job: Job[Any]) -> AsyncIterator[bytes]:
    """The events of a job as server-sent events; when it is closed, the job is ended."""
    loop = asyncio.get_running_loop()
    positions = _Positions(jobs, job)
    sent = loop.time()
    job.is_connected = True
    try:
        while True:
            events = [*positions.new_events(loop.time()), *job.read()]
            for event in events:
                message = b"data: " + json.dumps(event, ensure_ascii=False).encode(errors="replace") + b"\n\n"
                for start in range(0, len(message), _CHUNK_BYTES):
                    yield message[start : start + _CHUNK_BYTES]
            if (events and events[-1]["kind"] in FINAL_KINDS) or job.stop.is_set():
                return
            if loop.time() - sent >= ALIVE_SECONDS:
                yield _ALIVE
                sent = loop.time()
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        jobs.end(job)


class _Positions:
    """A job's position in the queue, as events."""

    def __init__(self, jobs: JobQueue[Any], job: Job[Any]) -> None:
        self.jobs = jobs
        self.job = job
        self.last: tuple[int, float | None] | None = None
        self.next_look = 0.0
        self.is_waiting = True

    def new_events(self, now: float) -> list[JobEvent]:
        """What is new at a time in seconds: the position, or that the job has started."""
        if not self.is_waiting or (self.job.started is None and now < self.next_look):
            return []
        self.next_look = now + ALIVE_SECONDS
        position = self.jobs.position(self.job)
        if position is None:
            self.is_waiting = False
            return [{"kind": "started"}]
        if position == self.last:
            return []
        self.last = position
        return [{"kind": "waiting", "before": position[0], "seconds": position[1]}]
