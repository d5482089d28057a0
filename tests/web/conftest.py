"""A browser for the tests of the page, from which no request may leave this machine; jobs that take long."""

import importlib.util
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from page_browser import CHROMIUM, KEEP_WORDS, PATIENCE, is_fault
from page_client import call, submitted
from server_cases import REQUEST, until


@pytest.fixture(scope="session", autouse=True)
def _events_are_sent_soon():
    """The server looks for new events more often: nearly every test waits for some."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("starlette") is not None:
            patch.setattr("jopa.web.endpoints._POLL_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url):
    """Opens the page; afterwards, no request has tried to leave and no script has failed."""
    left, errors, contexts = [], [], []

    def route(request_route):
        address = urlsplit(request_route.request.url)
        if address.hostname != "127.0.0.1":
            left.append(address.geturl())
            request_route.abort()
        else:
            request_route.continue_()

    def open_(width=1280, height=800, fragment="", url=url, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        context.add_init_script(KEEP_WORDS)
        context.route("**/*", route)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda words: errors.append(words.text) if is_fault(words) else None)
        page.goto(url + fragment)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert left == []
    assert errors == []


@pytest.fixture
def slow(llama):
    """Every forward takes a moment, so that a job is under way for longer than its test."""
    hook = llama.model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    yield {**REQUEST, "methods": ["shapley"], "k": 2, "max_new_tokens": 12}
    hook.remove()


@pytest.fixture
def all_jobs_end(llama):
    """No job of a test is under way when the next begins."""
    yield
    while submitted:
        url, job = submitted.pop()
        with suppress(ConnectionError):  # a server that has ended has no jobs
            call(url, f"/jobs/{job}", "DELETE")
    until(lambda: not llama.model._forward_pre_hooks)
