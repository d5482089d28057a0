"""The report in a real browser: what the first screen holds, no request, nothing wider than a phone."""

import shutil
from dataclasses import replace

import pytest
from test_gallery import METHODS, pair_of_cells

import jopa
import synthetic_run as made
from jopa.reports.attribution_html import comparison_html, to_html
from jopa.reports.gallery import write_gallery
from jopa.reports.prompts_html import prompts_html
from report_pages import attribution

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


LONG = "supercalifragilisticexpialidocious" * 3
HIDDEN = """
() => [...document.querySelectorAll("table, th, td, .name, .comparison, .sums, .wide")]
  .filter((one) => one.checkVisibility() && one.clientWidth && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.outerHTML.slice(0, 90))
"""
"""What has more columns or text than it shows."""


def narrow_pages(folder):
    """Reports with long words in every place that takes a name or a text."""
    cells = pair_of_cells("p1", 10.0)
    for cell in cells:
        cell["counterfactual_output"] = LONG
    run = made.write_run(folder / "run", made.experiment(METHODS, ks=(2,)), cells, [made.example("p1", output=LONG)])
    a = attribution((LONG, " b ", LONG, " c"), removed=(0, 2), output=LONG)
    other = replace(a, method={"name": LONG})
    yield "gallery", write_gallery(run)[0].read_text()
    yield "comparison", comparison_html([a, other])
    yield "prompts", prompts_html(jopa.PromptComparison(a, other))


def test_no_report_hides_a_column_on_a_phone(browser, tmp_path):
    for name, html in narrow_pages(tmp_path):
        path = tmp_path / f"{name}.html"
        path.write_text(html)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate(HIDDEN) == [], name
        page.close()
