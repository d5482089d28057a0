"""The pictures of README and docs/web.md: the report and the page after an explanation, in light and dark.

    python analysis/pictures.py docs/images [--chromium /usr/bin/chromium]

Writes explanation.png, explanation-dark.png, page.png and page-dark.png. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path
from queue import Queue
from typing import Any

import jopa
from jopa.web.server import serve

PROMPT = "Write a story about the doctor and his patient."
REPORT = {"width": 1280, "height": 606}
PAGE = {"width": 1280, "height": 860}
PATIENCE = 300_000
"""Milliseconds until an explanation counts as hung."""


def report_pictures(browser: Any, model: jopa.LanguageModel, folder: Path) -> None:
    """Take the first screen of the report."""
    attribution = jopa.explain(PROMPT, model=model, k=3, output=jopa.Generation(100))
    for scheme, name in (("light", "explanation"), ("dark", "explanation-dark")):
        tab = browser.new_page(viewport=REPORT, color_scheme=scheme)
        tab.set_content(attribution.to_html())
        tab.screenshot(path=folder / f"{name}.png")
        tab.close()


def page_pictures(browser: Any, url: str, folder: Path) -> None:
    """Take the page after an explanation by its defaults."""
    for scheme, name in (("light", "page"), ("dark", "page-dark")):
        tab = browser.new_page(viewport=PAGE, color_scheme=scheme)
        tab.goto(url)
        tab.fill("#prompt", PROMPT)
        tab.click("#go")
        tab.wait_for_function(
            "() => document.getElementById('status').textContent.startsWith('Done')", timeout=PATIENCE
        )
        tab.screenshot(path=folder / f"{name}.png")
        tab.close()


def main() -> None:
    """Read the command line and write the pictures."""
    parser = argparse.ArgumentParser(description="The pictures of README and docs/web.md.")
    parser.add_argument("folder", type=Path, help="where they are written")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's program")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    model = jopa.load()
    address: Queue[str] = Queue()
    service = {"port": 0, "on_ready": address.put}
    threading.Thread(target=serve, args=(lambda: model,), kwargs=service, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        report_pictures(browser, model, options.folder)
        page_pictures(browser, address.get(timeout=60), options.folder)
        browser.close()


if __name__ == "__main__":
    main()
