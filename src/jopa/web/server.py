"""The web page: `jopa serve`.

Gradio queues the requests, says to each visitor where in the queue they are, and streams what happens; the page itself
is one HTML file, one style sheet and a few scripts from this package, so that it works without a network and loads
nothing from elsewhere. What may be asked is in `web.asking`, the work in `web.work`, who is let in in `web.gate`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jopa.choices import REMOVALS
from jopa.errors import SettingError
from jopa.method import Method
from jopa.methods import DEFAULT_METHOD, METHODS
from jopa.prompt.building import AUTO, UNIT_KINDS
from jopa.reports.attribution_html import page_html
from jopa.reports.wording import REMOVAL_WORDS
from jopa.web.access import AccessMiddleware
from jopa.web.requests import RequestLimits, takes_budget
from jopa.web.service import ExplanationService

if TYPE_CHECKING:
    from fastapi import FastAPI

    from jopa.model.language_model import LanguageModel

EXAMPLES = (
    "Write a story about the doctor and his patient.",
    "Write a short email to my landlord. The heating has been broken for two weeks and my daughter has a cold.",
    "What is the capital of France, and which river runs through it?",
    "I have eggs, rice and an old banana. What can I cook tonight?",
)
UNIT_WORDS = {
    **{"auto": "what fits the prompt", "token": "tokens (word pieces)", "word": "words", "sentence": "sentences"},
    **{"line": "lines", "paragraph": "paragraphs"},
}
STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "view.js": "text/javascript",
    "queue.js": "text/javascript",
}
QUEUE = "/queue/gradio_api"
"""Where Gradio's routes begin."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
OPEN_PATHS = ("GET /", *(f"GET /{name}" for name in STATIC), f"POST {QUEUE}/queue/join", f"GET {QUEUE}/queue/data")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def build_app(
    model: LanguageModel,
    *,
    limits: RequestLimits | None = None,
    password: str | None = None,
    host_names: Collection[str] | None = LOOPBACK_NAMES,
) -> FastAPI:
    """The page and what answers it, as an ASGI application.

    Args:
        model: the model that is explained, for all visitors.
        limits: the most that one request may ask for.
        password: what visitors must know; None lets everybody in.
        host_names: the names under which the server may be called; None for any.

    Raises:
        SettingError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio
        from gradio.events import api
    except ImportError as error:
        raise SettingError(f'the page needs gradio: pip install "jopa[web]" ({error})') from error
    from fastapi import FastAPI, Response

    limits = limits or RequestLimits()
    service = ExplanationService(model, limits)
    with gradio.Blocks(analytics_enabled=False, mode="server") as blocks:
        for name in ("explain", "compare", "remove"):  # the waiting time of each is foretold by itself
            api(_at(service), api_name=name, concurrency_id="model", concurrency_limit=1)
    blocks.queue(max_size=limits.waiting, default_concurrency_limit=1)
    functions = {str(function.api_name): number for number, function in blocks.fns.items()}
    page = page_html(setup(model, limits, functions))

    app = FastAPI(openapi_url=None)

    @app.get("/")
    def whole_page() -> Response:
        return Response(page, media_type="text/html", headers=HEADERS)

    @app.get("/{name}")
    def part(name: str) -> Response:  # the gate lets no other names than STATIC's pass
        return Response(_static(name), media_type=STATIC[name], headers=HEADERS)

    gradio.mount_gradio_app(app, blocks, path="/queue", ssr_mode=False, run_history=False, show_error=False)
    app.add_middleware(AccessMiddleware, open_paths=OPEN_PATHS, password=password, host_names=host_names)
    return app


def serve(
    load: Callable[[], LanguageModel],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    insecure: bool = False,
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until interrupted.

    Args:
        load: loads the model; called once the address is known to be free.
        host: the address to listen on.
        port: its port; 0 for any free one.
        password: what visitors must know; needed where others than this machine can reach the page.
        insecure: allow such an address without a password.
        on_ready: called with the page's URL.

    Raises:
        SettingError: the address is taken or not this machine's, or open to others without a password.
    """
    local = _is_loopback(host)
    if not local and password is None and not insecure:
        raise SettingError(
            f"'{host}' can be reached from other machines: set a password with --share-password, or allow everybody "
            "with --insecure"
        )
    if password is not None and not password:
        raise SettingError("the password is empty: give --share-password a text")
    listener = _listen(host, port)
    try:
        app = build_app(load(), password=password, host_names={*LOOPBACK_NAMES, host} if local else None)
        import uvicorn

        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, ws="none", server_header=False)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


def setup(model: LanguageModel, limits: RequestLimits, functions: dict[str, int]) -> dict[str, Any]:
    """What the page knows from the start: choices, limits, examples, and the numbers of the queue's functions."""
    return {
        "model": {"id": model.id, "device": str(model.device), "dtype": model.dtype},
        "queue": QUEUE,
        "functions": functions,
        "limits": {
            "prompt_characters": limits.prompt_characters,
            "max_new_tokens": limits.max_new_tokens,
            "k": limits.k,
            "budget": limits.budget,
            "seconds": limits.seconds,
        },
        "examples": EXAMPLES,
        "units": [{"name": name, "words": UNIT_WORDS[name]} for name in (AUTO, *UNIT_KINDS)],
        "removals": [{"name": name, "words": REMOVAL_WORDS[name]} for name in REMOVALS],
        "method": DEFAULT_METHOD.name,
        "methods": [_method(name, method) for name, method in METHODS.items()],
    }


def _method(name: str, method: type[Method]) -> dict[str, Any]:
    return {"name": name, "words": method.summary, "cost": method.cost, "budget": takes_budget(method)}


def _at(service: ExplanationService) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """A function of its own for Gradio, which reads these annotations."""

    def work(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from service.events(request)

    return work


@cache
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
