"""Requests to a server: several at once, tried again where that can help, each failure one clear line.

A request is tried again after a lost connection, an answer that ends in the middle, a timeout, and the statuses of
`tried_again`; the wait doubles each time, and a server's own `Retry-After` is obeyed up to `MAX_WAIT_SECONDS`. The
requests of one call run in an event loop in a thread of their own, so that whatever ends the call (Ctrl-C too) cancels
those that are in flight.

The key is read from an environment variable. It is sent in the header alone, and is cut out of whatever the server
says. Knows HTTP and JSON, nothing of tokens.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jopa.choices import real_number, whole_number
from jopa.errors import ModelError, PromptError, SettingError, reason_of, require_package

if TYPE_CHECKING:
    import httpx

MAX_WAIT_SECONDS = 60.0
KEY_VARIABLE = "OPENAI_API_KEY"
_CONNECT_SECONDS = 10.0


_STOP: ContextVar[Callable[[], None] | None] = ContextVar("_STOP", default=None)
_CHECK_SECONDS = 0.1


@contextmanager
def stop_requests_when(check: Callable[[], None]) -> Iterator[None]:
    """For the time of a block, end requests in flight when `check` raises; it is called every tenth of a second."""
    before = _STOP.set(check)
    try:
        yield
    finally:
        _STOP.reset(before)


class Client:
    """Sends JSON to one server.

    Args:
        url: of the server, with or without `/v1` at its end. One with another version (`/v1beta/openai`, `/paas/v4`)
            or that ends with `/chat/completions` says all of the path.
        key_variable: the environment variable that holds the key; no key is sent where it is not set.
        timeout: seconds that one answer may take.
        attempts: how often one request is tried.
        in_flight: the most requests at once.
        first_wait: seconds before the second try; each later wait is twice as long.
        transport: how requests travel; by default over the network.

    Raises:
        SettingError: a setting is out of range, the url is none, or the environment's key, proxies or certificates
            cannot be used.
        ModelError: `httpx` is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        key_variable: str = KEY_VARIABLE,
        timeout: float = 120.0,
        attempts: int = 6,
        in_flight: int = 4,
        first_wait: float = 0.5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url)
        timeout = real_number("timeout", timeout)
        attempts, in_flight = whole_number("attempts", attempts), whole_number("in_flight", in_flight)
        for name, value in (("timeout", timeout), ("attempts", attempts), ("in_flight", in_flight)):
            if not value > 0:
                raise SettingError(f"{name} must be above 0, got {value}")
        require_package("a model behind a server", "httpx", "remote", error=ModelError)
        import httpx

        self.requests = 0
        """Requests sent so far, those that were tried again included."""
        self._key_variable = key_variable
        self._key = _key_in(key_variable)
        self._version = _version_of(url)
        self._timeout = timeout
        self._attempts = attempts
        self._first_wait = first_wait
        self._in_flight = asyncio.Semaphore(in_flight)
        try:
            httpx.URL(self.url).host  # noqa: B018  # raises if it is no host's name
        except (httpx.InvalidURL, ValueError) as error:
            raise _no_address(url) from error
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
                transport=transport,
            )
        except (httpx.InvalidURL, ValueError, ImportError, OSError) as error:
            raise SettingError(
                f"cannot use the proxies or certificates that the environment names ({reason_of(error)}); change "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY or SSL_CERT_FILE"
            ) from error
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="jopa-requests", daemon=True).start()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def get(self, path: str) -> Any:
        """What the server answers to one GET.

        Raises:
            RefusedError: the server answers with a status of 400 or more that is not tried again.
            ModelError: as `post_all`.
        """
        return self._run(self._request("GET", path, None))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers to one POST.

        Raises:
            ModelError, PromptError: as `post_all`.
        """
        return self.post_all(path, [body])[0]

    def post_all(
        self, path: str, bodies: Sequence[dict[str, Any]], on_answer: Callable[[int, Any], None] | None = None
    ) -> list[Any]:
        """What the server answers to each of several POSTs, in their order whatever the order of arrival.

        Args:
            path: below the server's url.
            bodies: one JSON object a request.
            on_answer: called with a request's number and its answer as soon as that is there, in another thread. What
                it raises ends the call.

        Raises:
            ModelError: the server cannot be reached, refuses, or answers what is no JSON.
            PromptError: the input is longer than the server takes.
        """

        async def one(number: int, body: dict[str, Any]) -> Any:
            answer = await self._request("POST", path, body)
            if on_answer:
                on_answer(number, answer)
            return answer

        return self._run(_all([one(number, body) for number, body in enumerate(bodies)]))

    def close(self) -> None:
        """Close the connections."""
        if self._loop.is_running():
            self._run(self._http.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        check = _STOP.get()
        if check:
            try:
                check()
            except BaseException:
                work.close()
                raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while check:
                with suppress(concurrent.futures.TimeoutError):
                    return future.result(_CHECK_SECONDS)
                check()
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        import httpx

        if path.startswith("/v1/"):
            path = self._version + path.removeprefix("/v1")
        reason, wait = "", 0.0
        for attempt in range(self._attempts):
            await pause(wait)
            wait = min(self._first_wait * 2**attempt, MAX_WAIT_SECONDS)
            try:
                async with self._in_flight, asyncio.timeout(self._timeout):  # httpx's own begins anew with every byte
                    self.requests += 1
                    response = await self._http.request(method, path, json=body)
                status = _status(response)
                if not tried_again(status):
                    return self._read(response, path, status)
            except (httpx.TimeoutException, TimeoutError):
                reason = f"did not answer within {self._timeout:g} s"
            except httpx.RequestError as error:
                reason = f"cannot be reached or cut the connection ({self._hidden(error)})"
            else:
                reason = f"answers with status {status}: {self._error_text(response)}"
                wait = _retry_after(response.headers.get("Retry-After"), wait)
        raise ModelError(
            f"the server {self.url} {reason}; tried {self._attempts} times. Check that it runs, then run the same "
            "again: what was scored is not asked for twice (unless the cache is off)"
        )

    def _read(self, response: httpx.Response, path: str, status: int) -> Any:
        """The JSON of an answer, or an error that says what to do; `httpx.DecodingError` if it ends too early."""
        import httpx

        if status in (401, 403):
            state = (
                f"the key in {self._key_variable}" if self._key else f"a request without a key ({self._key_variable})"
            )
            raise ModelError(
                f"the server {self.url} refuses {state} (status {status}); set {self._key_variable} to one it takes"
            )
        if response.has_redirect_location:
            to = self._hidden(response.headers["Location"])
            raise ModelError(f"the server {self.url} sends a request to {path} on to {to}; give that address instead")
        if not 200 <= status < 300:
            said = self._error_text(response)
            message = f"the server {self.url} refuses a request to {path} (status {status}): {said}"
            if status in (400, 413, 422) and any(
                word in said.lower() for word in ("context", "max_model_len", "too long")
            ):
                raise PromptError(f"{message}; shorten the prompt, or start the server with a longer context")
            raise RefusedError(message)
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValueError) and _is_cut(response):
                raise httpx.DecodingError("its answer ends in the middle") from error
            raise ModelError(
                f"the server {self.url} answers {path} with what is no JSON; is this the address of its API?"
            ) from None

    def _error_text(self, response: httpx.Response) -> str:
        """The server's own words, in one line, without the key."""
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found = response.json()
            error = found.get("error", found)
            return self._hidden(error if isinstance(error, str) else error.get("message") or error)
        return self._hidden(response.text.strip() or response.reason_phrase or "nothing more")

    def _hidden(self, said: object) -> str:
        """One line of at most 300 characters that does not hold the key."""
        text = str(said) or type(said).__name__
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:300]


class RefusedError(ModelError):
    """A server refuses a request, and would refuse it again."""


def tried_again(status: int) -> bool:
    """Whether a request may succeed when it is sent again: too many, too slow, or a fault at the server's side."""
    return status in (408, 429) or (status >= 500 and status != 501)


def _status(response: httpx.Response) -> int:
    """The status of an answer; some gateways answer 200 and write the error's status into the body."""
    if response.is_success and b'"error"' in response.content:
        with suppress(ValueError, RecursionError):
            found = response.json()
            error = found.get("error") if isinstance(found, dict) else None
            if error and "choices" not in found:
                code = error.get("code") if isinstance(error, dict) else None
                return code if isinstance(code, int) and 400 <= code < 600 else 400
    return response.status_code


def _is_cut(response: httpx.Response) -> bool:
    """Whether what is no JSON may be the beginning of it: no header needs to say how long an answer is."""
    begins = response.text.lstrip()[:1]
    return begins in ("{", "[") or (not begins and "Content-Length" not in response.headers)


def _key_in(variable: str) -> str | None:
    """The key in an environment variable, without the blanks and the newline that a file it was read from ends with.

    Raises:
        SettingError: it holds what no header can; or the variable's name is none, but perhaps the key itself.
    """
    if not _VARIABLE.fullmatch(variable):
        raise SettingError("key_variable is the name of an environment variable that holds the key, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SettingError(f"the key in {variable} holds a line break or a character that no key has; copy it again")
    return key or None


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_API_PATHS = re.compile(r"(/v1)(?:/(?:chat/completions|completions|models))?\Z|/chat/completions\Z")
"""What people copy along with a server's address."""
_OTHER_VERSION = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?:/|\Z)")


def checked_url(url: str) -> str:
    """The server's address without slashes, `/v1` and the paths of its API at its end.

    Raises:
        SettingError: it is no http address, or holds a password.
    """
    no_address = _no_address(url)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises if it is no port
    except ValueError as error:
        raise no_address from error
    if parts.username or parts.password:
        raise SettingError(
            "the server's url holds a name or password; put the key into an environment variable instead"
        )
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.query
        or parts.fragment
        or " " in url.strip()
        or not url.strip().isprintable()
    ):
        raise no_address
    return _API_PATHS.sub("", url.strip().rstrip("/")).rstrip("/")


def _version_of(url: str) -> str:
    """What stands between a server's address and its API's paths: `/v1`, or nothing where the address has it all."""
    path = urlsplit(url.strip().rstrip("/")).path
    end = _API_PATHS.search(path)
    if end:
        return end[1] or ""
    return "" if _OTHER_VERSION.search(path) else "/v1"


def _no_address(url: str) -> SettingError:
    return SettingError(f"{url!r} is no server's address: write it as http://localhost:8000")


async def pause(seconds: float) -> None:
    """Wait; tests put their own in its place."""
    await asyncio.sleep(seconds)


async def _all(works: Sequence[Awaitable[Any]]) -> list[Any]:
    """What all give; when one fails, or the caller goes away, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _retry_after(asked: str | None, otherwise: float) -> float:
    """Seconds to wait as a `Retry-After` header asks (seconds or a date), never longer than `MAX_WAIT_SECONDS`."""
    if asked is None:
        return otherwise
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return otherwise
    return min(max(0.0, seconds), MAX_WAIT_SECONDS)  # 0 comes first: what is no number (nan) is no wait
