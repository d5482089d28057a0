"""Who is let in, and to what: a handful of addresses, one password if there is one, nothing from other sites.

Gradio brings many routes that this page has no use for (uploads, files, proxies); only what is named here is reached.
A page on another site cannot use a visitor's browser to reach this server: requests with a foreign Origin are refused,
and so are foreign Host names as long as the server listens on loopback only (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 200_000
"""Bytes of a request; far more than any that keeps within the limits."""


class AccessMiddleware:
    """An ASGI middleware that lets only what is named pass.

    Args:
        app: what lies behind it.
        open_paths: the addresses there are, each with its method, as "GET /".
        password: what a visitor must know (HTTP Basic, any user name); None lets everybody in.
        host_names: the names under which the server may be called; None for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        open_paths: Iterable[str],
        password: str | None = None,
        host_names: Collection[str] | None = None,
    ) -> None:
        self.app = app
        self.open_paths = frozenset(open_paths)
        self.password = password
        self.host_names = host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or say in a line why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket here; the server closes it
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        status, reason = self._refusal(f"{scope['method']} {scope['path']}", headers)
        if not status:
            await self.app(scope, receive, send)
            return
        answer = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 401:
            answer.append((b"www-authenticate", b'Basic realm="jopa", charset="UTF-8"'))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def _refusal(self, request: str, headers: dict[str, str]) -> tuple[int, str]:
        """The HTTP status and reason to refuse with; 0 to let pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.host_names is not None and _name(host) not in self.host_names:
            return 403, "this server answers on this machine only"
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from other sites are refused"
        if self.password is not None and not _knows(self.password, headers.get("authorization", "")):
            return 401, "this page needs a password"
        if request not in self.open_paths:
            return 404, "there is nothing here"
        if request.startswith("POST"):
            length = headers.get("content-length", "")
            if not length.isdigit():
                return 411, "say how long the request is"
            if int(length) > MAX_BODY:
                return 413, f"a request may have {MAX_BODY:,} bytes"
        return 0, ""


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host


def _knows(password: str, authorization: str) -> bool:
    """Whether an Authorization header carries the password; takes as long for a near miss as for a wild guess."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return False
    return hmac.compare_digest(given, password.encode())
