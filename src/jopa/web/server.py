"""The web page: `jopa serve`.

The page is one HTML file, one style sheet and a few scripts from this package, so that it works without a network and
loads nothing from elsewhere. What is answered at each address stands in `web.endpoints`, what may be requested in
`web.requests`, the work in `web.service`, who is let in in `web.access`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jopa.choices import REMOVALS
from jopa.errors import SettingError
from jopa.explanation.planning import LONG_METHOD_TOKENS
from jopa.method import Method
from jopa.methods import METHODS
from jopa.preparation import require_log_probs
from jopa.prompt.building import AUTO, UNIT_KINDS
from jopa.prompt.options import PromptOptions
from jopa.prompt.units import WHOLE_KINDS
from jopa.reports.attribution_html import page_html
from jopa.reports.wording import REMOVAL_WORDS
from jopa.web.access import AccessMiddleware, public_origin, without_port
from jopa.web.conversation import ATTRIBUTES, ROLES
from jopa.web.limits import RequestLimits
from jopa.web.requests import takes_budget
from jopa.web.service import ExplanationService

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from jopa.scoring.protocols import Model

EXAMPLES = (
    "Write a story about the doctor and his patient.",
    "Write a short email to my landlord. The heating has been broken for two weeks and my daughter has a cold.",
    "What is the capital of France, and which river runs through it?",
    "I have eggs, rice and an old banana. What can I cook tonight?",
)
UNIT_WORDS = {
    **{"auto": "parts that fit", "token": "tokens (word pieces)", "word": "words", "sentence": "sentences"},
    **{"line": "lines", "paragraph": "paragraphs", "message": "whole messages", "document": "whole documents"},
}
ATTRIBUTE_WORDS = {
    **{"user": "the prompt (last message of the user)", "users": "all messages of the user"},
    **{"system": "the system message", "tools": "what tools returned", "documents": "the documents"},
    **{"trace": "the reasoning before the answer", "all": "all messages and documents"},
}
SCRIPTS = ("page.js", "form.js", "chat.js", "stage.js", "history.js", "view.js", "curve.js", "queue.js")
STATIC = {"page.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def build_app(
    model: Model,
    *,
    limits: RequestLimits | None = None,
    options: PromptOptions | None = None,
    password: str | None = None,
    host_names: Collection[str] | None = LOOPBACK_NAMES,
    public_url: str | None = None,
) -> Starlette:
    """The page and what answers it, as an ASGI application.

    Args:
        model: the model that is explained, for all visitors.
        limits: the most that one request may ask for.
        options: how every prompt is put before the model.
        password: what visitors must know; None lets everybody in.
        host_names: the names under which the server may be called; None for any.
        public_url: the address under which a proxy offers the page, such as "https://jopa.example.org".

    Raises:
        SettingError: Starlette is not installed, or the public address is none.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
    except ImportError as error:
        raise SettingError(f'the page needs starlette and uvicorn: pip install "jopa[web]" ({error})') from error
    from jopa.web.endpoints import on_http_error, routes

    limits = limits or RequestLimits()
    origins: set[str] = set()
    if public_url is not None:
        origins = {public_origin(public_url)}
        host_names = host_names and {*host_names, *(without_port(origin.partition("://")[2]) for origin in origins)}
    require_log_probs(model, "the page")
    service = ExplanationService(model, limits, options)
    page = page_html(setup(model, limits))
    static = {name: (_static(name), media_type) for name, media_type in STATIC.items()}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.jobs.close)

    app = Starlette(
        routes=routes(service, page, static),
        middleware=[Middleware(AccessMiddleware, password=password, host_names=host_names, origins=origins)],
        exception_handlers={404: on_http_error, 405: on_http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.jobs = service.jobs
    return app


def serve(
    load: Callable[[], Model],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    insecure: bool = False,
    public_url: str | None = None,
    limits: RequestLimits | None = None,
    options: PromptOptions | None = None,
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until interrupted.

    Args:
        load: loads the model; called once the address is known to be free.
        host: the address to listen on.
        port: its port; 0 for any free one.
        password: what visitors must know; needed where others than this machine can reach the page.
        insecure: allow such an address without a password.
        public_url: the address under which a proxy offers the page. The proxy says whose request it is with
            X-Forwarded-For, which is believed from this machine only.
        limits: the most that one request may ask for.
        options: how every prompt is put before the model.
        on_ready: called with the page's URL.

    Raises:
        SettingError: the address is taken or not this machine's, or open to others without a password; or the public
            address is none.
    """
    local = _is_loopback(host)
    if not local and password is None and not insecure:
        raise SettingError(
            f"'{host}' can be reached from other machines: set a password with --share-password, or allow everybody "
            "with --insecure"
        )
    if password is not None and not password:
        raise SettingError("the password is empty: give --share-password a text")
    if public_url is not None:
        public_origin(public_url)  # refused before the model is loaded
    listener = _listen(host, port)
    try:
        app = build_app(
            load(),
            limits=limits,
            options=options,
            password=password,
            host_names={*LOOPBACK_NAMES, host} if local else None,
            public_url=public_url,
        )
        import uvicorn

        from jopa.web.connections import (
            MAX_CONNECTIONS,
            MAX_HEAD_BYTES,
            SEND_BUFFER_BYTES,
            EndingServer,
            TimedProtocol,
        )

        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # its connections inherit it
        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            log_level="error",
            proxy_headers=public_url is not None,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_graceful_shutdown=2,
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            EndingServer(config, app.state.jobs.close).run(sockets=[listener])
    finally:
        listener.close()


def setup(model: Model, limits: RequestLimits) -> dict[str, Any]:
    """What the page knows from the start: choices, limits and examples."""
    return {
        "model": {name: model.identity.get(name) or "" for name in ("id", "device", "dtype")},
        "limits": {
            **{name: getattr(limits, name) for name in ("characters", "turns", "documents", "max_new_tokens", "k")},
            **{"tokens": _most_tokens(model, limits), "budget": limits.budget, "seconds": limits.seconds},
        },
        "long": LONG_METHOD_TOKENS,
        "examples": EXAMPLES,
        "units": [{"name": name, "words": UNIT_WORDS[name]} for name in (AUTO, *UNIT_KINDS, *WHOLE_KINDS)],
        "removals": [{"name": name, "words": REMOVAL_WORDS[name]} for name in getattr(model, "removals", REMOVALS)],
        "attributes": [{"name": name, "words": ATTRIBUTE_WORDS[name]} for name in ATTRIBUTES],
        "roles": ROLES,
        "methods": [_method(name, it) for name, it in METHODS.items() if it.requires in model.capabilities],
    }


def _most_tokens(model: Model, limits: RequestLimits) -> int:
    """How many tokens input and answer may have: by the page's limit, or the model's context where that is shorter."""
    return min(limits.tokens, model.context_length or limits.tokens)


def _method(name: str, method: type[Method]) -> dict[str, Any]:
    return {"name": name, "words": method.summary, "cost": method.cost, "budget": takes_budget(method)}


def _static(name: str) -> bytes:
    return (files("jopa") / "web" / "static" / name).read_bytes()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingError(f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host") from None
