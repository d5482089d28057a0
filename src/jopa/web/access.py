"""Who is let in: one password if there is one, nothing from other sites.

A page on another site cannot use a visitor's browser to reach this server: requests with a foreign Origin are refused,
and so are foreign Host names as long as the server listens on loopback only (DNS rebinding).
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jopa.errors import SettingError
from jopa.web.body import MAX_BYTES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class AccessMiddleware:
    """An ASGI middleware that refuses what comes from elsewhere, or without the password.

    Args:
        app: what lies behind it.
        password: what a visitor must know (HTTP Basic, any user name); None lets everybody in.
        host_names: the names under which the server may be called; None for any.
        origins: the sites whose pages may send requests, beside the server's own; as `public_origin` writes them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        password: str | None = None,
        host_names: Collection[str] | None = None,
        origins: Collection[str] = (),
    ) -> None:
        self.app = app
        self.password = password
        self.host_names = host_names
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or say in a line why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket here; the server closes it
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        status, reason = self._refusal(headers)
        if not status:
            await self.app(scope, receive, send)
            return
        answer = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 401:
            answer.append((b"www-authenticate", b'Basic realm="jopa", charset="UTF-8"'))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def _refusal(self, headers: dict[str, str]) -> tuple[int, str]:
        """The HTTP status and reason to refuse with; 0 to let pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.host_names is not None and without_port(host).lower() not in self.host_names:
            return 403, "this server does not answer to this name; --public-url gives it one"
        if origin is not None and origin.partition("://")[2] != host and origin not in self.origins:
            return 403, "requests from other sites are refused; behind a proxy, --public-url names the page's own site"
        if self.password is not None and not _is_authorized(self.password, headers.get("authorization", "")):
            return 401, "this page needs a password"
        length = headers.get("content-length", "0")
        if len(length) > 18 or (length.isdecimal() and int(length) > MAX_BYTES):
            return 413, f"a request may have {MAX_BYTES:,} bytes"
        return 0, ""


def public_origin(url: str) -> str:
    """The Origin that browsers send from pages under an address: scheme, name, and port if it is not the usual one.

    Raises:
        SettingError: it is no address of a site.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        name = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
    except ValueError:  # UnicodeError, too
        parts, port, name = None, None, None
    if (
        parts is None
        or parts.scheme not in _DEFAULT_PORTS
        or parts.username
        or parts.query
        or not name
        or not _is_host(name)
    ):
        raise SettingError(f"--public-url must be an address such as https://jopa.example.org, got {url!r:.100}")
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in {None, _DEFAULT_PORTS[parts.scheme]} else "")


def _is_host(name: str) -> bool:
    """Whether this is the name or the number of one machine; a pattern such as *.example.org would match nothing."""
    return ":" in name or _NAME.fullmatch(name) is not None


def without_port(host: str) -> str:
    """The name in a Host header."""
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host


def visitor_of(address: str) -> str:
    """Whose requests are counted together: one IPv4 address, or the 64 bits that an IPv6 network has in common."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


def _is_authorized(password: str, authorization: str) -> bool:
    """Whether an Authorization header carries the password; takes as long for a near miss as for a wild guess."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(value, validate=True).partition(b":")[2]
    except ValueError:  # characters outside of ASCII, or not base64
        return False
    return hmac.compare_digest(given, password.encode())
