"""Connections that are not used are closed: half-sent requests, and answers that nobody reads.

uvicorn waits for ever for the rest of a request's head, and for a visitor whose receive buffer is full. This protocol
adds a timer for each of the two, and keeps the buffers on this side small: what a visitor does not read must soon be
noticed. How long a request's body may take is held in `body`. A server that is stopped waits for its connections, so
it ends the jobs whose events they carry first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Seconds within which the head of a request must have come, counted from the connection or from its first byte."""
WRITE_SECONDS = 10.0
"""Seconds for which a visitor may leave the send buffer full."""
SEND_BUFFER_BYTES = 32_768
"""Of the send buffer of a connection, in the system and again in this process; the system doubles its part."""
MAX_CONNECTIONS = 500
"""Connections at a time; further requests are answered with status 503."""
MAX_HEAD_BYTES = 16_384
"""Bytes of a request's head."""


class TimedProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn, with time limits."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_half_sent)

    def data_received(self, data: bytes) -> None:
        """Take data; if they are not the whole head of a request, the rest must come soon."""
        super().data_received(data)
        if self._waits_for_head():
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_half_sent)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        """The send buffer is full."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The visitor reads."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_half_sent(self) -> None:
        self._head_timer = None
        if self._waits_for_head():
            self.transport.abort()


class EndingServer(uvicorn.Server):
    """uvicorn's server; when it is stopped, streams of events end by themselves and not by being cancelled.

    Args:
        config: of the server.
        end_jobs: ends all jobs, and with them their streams.
    """

    def __init__(self, config: uvicorn.Config, end_jobs: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_jobs = end_jobs

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further connections, and end those there are."""
        await asyncio.gather(asyncio.to_thread(self._end_jobs), super().shutdown(sockets))
