"""The report in a real browser: what the first screen holds, no request, nothing wider than a phone."""

import shutil

import pytest

import jopa
from jopa.reports.attribution_html import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(llama, tmp_path_factory):
    prompt = 'write a story about <script>window.hacked = 1</script> the "doctor" and his patient in the rain'
    a = jopa.explain(prompt, model=llama, output=jopa.Generation(60), search=jopa.SearchOptions(all_effects=True))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(to_html(a), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_answer_is_on_the_first_screen_of_a_laptop(browser, page_file, scheme):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    for heading in ("The prompt", "What removing them does", "What the model said", "What it says without them"):
        box = page.get_by_role("heading", name=heading).bounding_box()
        assert box["y"] + box["height"] < 800, heading
    assert page.locator("mark, .removed, [data-rank]").count() > 0
    assert page.evaluate("window.hacked") is None
    assert asked == [page_file.as_uri()]
    assert errors == []
    page.close()


def test_a_phone_need_not_scroll_sideways(browser, page_file):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
