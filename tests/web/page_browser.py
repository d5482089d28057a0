"""What tests of the page in a real browser share: how to ask, how to wait, what to read."""

import json
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

PROMPT = "write a story about the doctor and his patient in rain"
KEEP_WORDS = """
window.said = [];
document.addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  const keep = (changes) => changes.forEach(({ addedNodes }) => addedNodes.forEach((n) => window.said.push(n.data)));
  new MutationObserver(keep).observe(status, { childList: true });
});
"""
PATIENCE = 60_000
"""Milliseconds after which a page counts as hung; 20 seconds were once too few."""

WEAK = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const numbers = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const weak = (one) => {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) return false;
    if (one.closest("option, :disabled") || !one.checkVisibility()) return false;
    let behind = one;
    while (behind !== document.body && numbers(getComputedStyle(behind).backgroundColor)[3] === 0)
      behind = behind.parentElement;
    const both = [light(getComputedStyle(one).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05) < 4.5;
  };
  return [...document.querySelectorAll("main *")].filter(weak).map((one) => one.outerHTML.slice(0, 90));
}
"""
"""Elements whose text has less contrast than WCAG 2.2 asks of small text (4.5 : 1)."""


def is_fault(words):
    """Whether a line of the console tells of a fault; Chromium writes one for every refused request, too."""
    return words.type == "error" and "status of 400" not in words.text


def ask(page, prompt=PROMPT, length=12, budget=None):
    """Fill in the form and send it; the search has its usual budget, or less where another one would show the same."""
    page.evaluate("document.querySelector('#settings').open = true")
    page.fill("#length", str(length))
    if budget is not None and page.is_enabled("#budget"):
        page.fill("#budget", str(budget))
    page.fill("#prompt", prompt)
    page.click("#go")


def wait_for(page, words):
    """Wait until the page says so; a page that never does is shown as `expect` shows it, which looks less often."""
    from playwright.sync_api import TimeoutError, expect

    said = "words => document.getElementById('status').textContent.includes(words)"
    try:
        page.wait_for_function(said, arg=words, timeout=PATIENCE)
    except TimeoutError:
        expect(page.locator("#status")).to_contain_text(words, timeout=1000)


def taken_out(page):
    return [int(unit.get_attribute("data-unit")) for unit in page.query_selector_all("#units [aria-pressed=true]")]


def json_of(page):
    with page.expect_download() as download:
        page.click("#json")
    return json.loads(download.value.path().read_text())
