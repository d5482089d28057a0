"""The report of a run: what it writes, what it links, and that it neither trusts text nor runs a model."""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib")

import jopa
from jopa.benchmark.records import ExampleRecord, FinishedCell, cell_key, read_run
from jopa.errors import InputFileError
from jopa.json_values import converted
from jopa.reports import benchmark_report
from jopa.reports.benchmark_report import chosen_prompts, joined, slug, write_report
from jopa.reports.cells_csv import cells_csv
from synthetic_run import HOSTILE, cell, example, experiment, failed, made_up_run, session, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Links(HTMLParser):
    """The tags and link targets of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.targets = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = made_up_run(tmp_path_factory.mktemp("run"), ["joint", "random"], ks=(1, 3), seeds=(0, 1), n=4)
    return folder, write_report(folder)


def test_every_table_and_figure_is_written_and_on_the_page(written):
    folder, paths = written
    page = folder / "report" / "index.html"
    assert paths[0] == page
    assert all(path.is_file() and path.stat().st_size for path in paths)
    names = {path.name for path in paths}
    stems = [f"{kind}-k{k}" for kind in ("faithfulness", "differences", "iterations", "seeds") for k in (1, 3)]
    for stem in [*stems, "cost"]:
        assert {f"{stem}.md", f"{stem}.csv", f"{stem}.tex"} <= names
        assert f'id="{stem}"' in page.read_text()
    for stem in ("comparison-tiny-alpaca-k3", "pr-by-k-tiny", "convergence-tiny-k3"):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    links = Links(page.read_text())
    assert links.tags.count("svg") == 3
    files = [target for target in links.targets if not target.startswith("#")]
    assert len([target for target in files if target.startswith("explanations/")]) == 2 * 2 * 2 * 4
    assert all((page.parent / target).is_file() for target in files)


def test_the_page_says_how_it_was_made(written):
    text = (written[0] / "report" / "index.html").read_text()
    for words in ("made-up CPU", "jopa bench made-up.toml", "torch 2.13.0", "2026-11-22T01:02:03", "abc123"):
        assert words in text
    assert "4 kept from made up, 2 left out (shorter than 16 words)" in text


def test_every_cell_is_a_row_of_one_csv_file(tmp_path):
    cells = [cell("joint", pr=0.25, removed_texts=["=1", "b", "c"]), failed("joint", "p2", error="=ScoringError")]
    folder = write_run(tmp_path / "run", experiment(["joint"]), cells)
    write_report(folder)
    done, lost = csv.DictReader(io.StringIO((folder / "report" / "cells.csv").read_text()))
    assert (done["method"], done["example"], done["k"], done["status"], done["start"]) == (
        "joint",
        "p1",
        "3",
        "done",
        "1",
    )
    assert float(done["pr"]) == 0.25 and float(done["joint"]) == pytest.approx(-2 * math.log(0.25))
    assert json.loads(done["removed"]) == [0, 1, 2] and json.loads(done["removed_texts"]) == ["=1", "b", "c"]
    assert (lost["status"], lost["pr"], lost["error"]) == ("failed", "", "'=ScoringError")


def test_a_metric_with_the_name_of_another_column_has_one_of_its_own(tmp_path):
    folder = write_run(tmp_path / "run", experiment(["a"]), [cell("a", metrics={"joint": 0.25, "length": 0.5})])
    row = next(csv.DictReader(io.StringIO(cells_csv(read_run(folder)))))
    assert (row["joint (metric)"], row["length"]) == ("0.25", "0.5")
    assert float(row["joint"]) == pytest.approx(2 * math.log(2))


def test_latex_takes_the_metrics_that_are_named(tmp_path):
    folder = write_run(tmp_path / "run", experiment(["joint"]), [cell("joint"), cell("joint", "p2")])
    write_report(folder, metrics=["pr"], decimals=1)
    text = (folder / "report" / "tables" / "faithfulness-k3.tex").read_text()
    assert "PR" in text and "KL" not in text and "0.500" not in text
    assert "KL" in (folder / "report" / "tables" / "faithfulness-k3.md").read_text()
    with pytest.raises(jopa.SettingError, match="no metric 'accuracy': choose of bleu,"):
        write_report(folder, metrics=["accuracy"])
    with pytest.raises(jopa.SettingError, match="decimals must be from 0 to 9, got 12"):
        write_report(folder, decimals=12)


def joined_records(example, cell):
    return joined(converted(example, ExampleRecord, "an example"), converted(cell, FinishedCell, "a cell"))


def test_a_joined_record_is_the_attribution_that_its_cell_tells_of():
    steps = [[0, -2.5, 2, 3.0], [1, -3.0, 3, 4.0]]
    record = cell("joint", pr=0.5, seed=4, trace=steps, scores=[0.1] * 9, details={"note": "x"})
    attribution = joined_records(example(), record)
    assert attribution == jopa.Attribution.from_dict(attribution.to_dict())
    assert attribution.probability_ratio == pytest.approx(0.5)
    assert attribution.joint - sum(attribution.individual) == pytest.approx(attribution.synergy)
    assert [unit.text for unit in attribution.chosen] == record["removed_texts"]
    assert (attribution.k, attribution.seed, attribution.removal) == (3, 4, "delete")
    assert [step.log_prob for step in attribution.trace] == [-2.5, -3.0]
    assert (attribution.details, attribution.scores) == ({"note": "x"}, (0.1,) * 9)


def test_a_search_under_another_removal_is_told_and_its_certificate_not_passed_on():
    record = cell("joint", search_removal="zero", certificate="optimal")
    attribution = joined_records(example(), record)
    assert attribution.details == {"search removal": "zero"}
    assert attribution.removal == "delete"
    assert attribution.certificate == "none"
    assert joined_records(example(), cell("joint", certificate="optimal")).certificate == "optimal"


def test_a_full_disk_leaves_no_half_of_a_report(tmp_path, monkeypatch):
    made_up_run(tmp_path, ["a", "b"], n=3)
    write_report(tmp_path, explanations=0)
    page = tmp_path / "report" / "index.html"
    before = page.read_bytes()
    page.with_name("mine.txt").write_text("of somebody else")

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    files = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.setattr(os, "fsync", full_disk)
    for out in (None, tmp_path / "other"):
        with pytest.raises(InputFileError, match=r"cannot write .* No space left on device"):
            write_report(tmp_path, out)
    assert page.read_bytes() == before
    assert sorted(path for path in tmp_path.rglob("*")) == files


def test_explanations_are_whole_prompts_in_turn(tmp_path):
    run = read_run(made_up_run(tmp_path, ["a", "b"], data=("alpaca", "mhc"), n=5))
    for most, prompts in ((0, 0), (1, 2), (4, 2), (5, 2), (6, 3), (100, 10)):
        chosen = chosen_prompts(run, most)
        assert len(chosen) == prompts
        assert all(len(cells) == 2 for cells in chosen)
    names = [cell_key(cells[0]).example for cells in chosen_prompts(run, 6)]
    assert names == ["alpaca-0000", "alpaca-0001", "mhc-0000"]
    write_report(tmp_path, explanations=6)
    text = (tmp_path / "report" / "index.html").read_text()
    assert "6 of 20 finished cells have a page" in text
    assert len(list((tmp_path / "report" / "explanations").iterdir())) == 6


def test_slugs_are_safe_and_differ():
    keys = [("m", "d", "../../etc/passwd", "a", 3, 0), ("m", "d", ".._.._etc_passwd", "a", 3, 0), ("m",) * 400]
    slugs = [slug(key) for key in keys]
    assert len(set(slugs)) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,140}", name) for name in slugs)
    assert not any("/" in name for name in slugs)


@pytest.fixture
def hostile(tmp_path):
    """A run in which every text that comes from elsewhere tries to be something else."""
    cells = [
        cell(method, f"{HOSTILE}{i}", data=HOSTILE, model=HOSTILE, counterfactual_output=HOSTILE, stop=HOSTILE)
        for method in ("joint", HOSTILE)
        for i in range(2)
    ]
    cells.append(failed("joint", "x", data=HOSTILE, model=HOSTILE, error=HOSTILE))
    plan = experiment(["joint", HOSTILE], models=(HOSTILE,), data=(HOSTILE,), title=HOSTILE)
    examples = [
        example(f"{HOSTILE}{i}", model=HOSTILE, data=HOSTILE, text=HOSTILE + " a b c d", output=HOSTILE)
        for i in range(2)
    ]
    write_run(tmp_path, plan, cells, examples, [session([HOSTILE]) | {"command": HOSTILE}])
    return tmp_path


def test_nothing_that_comes_from_elsewhere_is_markup(hostile):
    paths = write_report(hostile)
    assert len([path for path in paths if path.parent.name == "explanations"]) == 4
    for path in paths:
        if path.suffix == ".html":
            text = path.read_text()
            assert "script" not in Links(text).tags
            assert not set(text) & {"\x1b", "\u202e"}
    assert all(path.resolve().is_relative_to(hostile) for path in paths)


def test_errors_are_counted_and_named(tmp_path):
    cells = [cell("a"), *[failed("b", f"p{i}", error="ScoringError: NaN at <mask>") for i in range(3)]]
    run = read_run(write_run(tmp_path, experiment(["a", "b"]), cells, [example()]))
    assert benchmark_report.errors(run) == [
        ("tiny, alpaca, b, k = 3: ScoringError: NaN at <mask>", 3),
    ]
    write_report(tmp_path)
    text = (tmp_path / "report" / "index.html").read_text()
    assert "NaN at &lt;mask&gt;" in text
    assert "3 failed" in text


def test_what_the_experiment_no_longer_names_is_not_shown_but_told(tmp_path):
    plan = experiment(["a", "old"], data=("alpaca", "gone"))
    plan["methods"][1]["retired"] = plan["data"][1]["retired"] = True
    cells = [cell("a"), cell("a", "p2"), cell("old"), cell("a", data="gone")]
    write_run(tmp_path, plan, cells)
    text = write_report(tmp_path)[0].read_text()
    table = (tmp_path / "report" / "tables" / "faithfulness-k3.csv").read_text()
    assert "no longer in the experiment: data gone, methods old" in text
    assert "alpaca,a," in table
    assert "gone" not in table
    assert "old" not in table


def table_of(folder, stem):
    """What a table says of PR: number of prompts and mean, by method."""
    with (folder / "report" / "tables" / f"{stem}.csv").open() as file:
        return {
            row["method"]: (int(row["n"]), float(row["mean"])) for row in csv.DictReader(file) if row["column"] == "pr"
        }


def test_seeds_and_k_that_were_left_out_do_not_count(tmp_path):
    """Seed 1 and k = 2 are on record, seed 1 of one prompt only; `own` answers a k of its own."""
    plan = experiment(["a", "own"], ks=(1,), seeds=(0,))
    plan["methods"][1]["ks"] = [2]
    cells = [cell("a", prompt, k=1, pr=0.5) for prompt in ("p1", "p2", "p3")]
    cells += [cell("a", "p1", k=1, seed=1, pr=0.9), cell("a", "p1", k=2), failed("a", "p2", k=2), cell("own", k=2)]
    cells += [cell("own", k=1), cell("a", "p1", k=9, seed=1)]
    write_run(tmp_path, plan, cells)
    text = write_report(tmp_path)[0].read_text()
    assert "no longer in the experiment: seed 1, k = 1 of own, k = 2 of a" in text
    assert table_of(tmp_path, "faithfulness-k1") == {"a": (3, 0.5)}
    assert table_of(tmp_path, "faithfulness-k2") == {"own": (1, 0.5)}
    assert {path.name for path in (tmp_path / "report" / "tables").glob("seeds*")} == set()
    assert "ScoringError" not in text
    with (tmp_path / "report" / "cells.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert not list((tmp_path / "report" / "tables").glob("*k9*"))


def test_prompts_beyond_a_lowered_limit_do_not_count(tmp_path):
    cells = [cell("a", f"p{i}", pr=0.1 * (i + 1)) for i in range(4)]
    sessions = [session(kept=4), session(kept=2)]
    sessions[1]["data"][0]["ids"] = ["p3", "p1"]
    write_run(tmp_path, experiment(["a"]), [*cells, failed("a", "p9")], sessions=sessions)
    text = write_report(tmp_path)[0].read_text()
    assert "no longer in the experiment: 3 prompts of alpaca" in text
    assert table_of(tmp_path, "faithfulness-k3") == {"a": (2, pytest.approx(0.3))}
    assert "means over" not in text


def test_without_a_baseline_there_are_no_differences(tmp_path):
    cells = [cell(name, prompt) for name in "ab" for prompt in ("p1", "p2")]
    write_run(tmp_path, experiment(["a", "b"]) | {"baseline": None}, cells)
    paths = write_report(tmp_path)
    assert not any("differences" in path.name for path in paths)
    assert "no differences are told" in paths[0].read_text()
    assert "Filled" not in paths[0].read_text()


def test_a_run_that_only_failed_still_says_why(tmp_path):
    write_run(tmp_path, experiment(["a"]), [failed("a")], [example()])
    page, cells = write_report(tmp_path)
    assert cells.name == "cells.csv"
    assert "ScoringError: NaN" in page.read_text()


def test_a_run_that_goes_on_is_reported_and_an_empty_one_refused(tmp_path):
    write_run(tmp_path, experiment(["a"]), [cell("a"), cell("a", "p2")])
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"schema": 1, "key": {"mod')
    assert "2 cells finished" in write_report(tmp_path, tmp_path / "elsewhere")[0].read_text()
    assert not (tmp_path / "report").exists()
    (tmp_path / "cells.jsonl").write_text("")
    with pytest.raises(InputFileError, match="no finished cell"):
        write_report(tmp_path)
    with pytest.raises(InputFileError, match="no benchmark run"):
        write_report(tmp_path / "nowhere")


def test_where_nothing_can_be_written_the_error_names_it(tmp_path):
    write_run(tmp_path, experiment(["a"]), [cell("a")])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match=r"cannot write .*file"):
        write_report(tmp_path, tmp_path / "file")


def test_no_model_is_loaded(tmp_path):
    write_run(tmp_path, experiment(["a"]), [cell("a"), cell("a", "p2")])
    script = (
        "import sys, pathlib, json; from jopa.reports.benchmark_report import write_report;"
        f"write_report(pathlib.Path({str(tmp_path)!r}));"
        "print(json.dumps(sorted({'torch', 'transformers', 'datasets', 'ray'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_is_fetched_run_or_wider_than_the_screen(hostile, width):
    playwright = pytest.importorskip("playwright.sync_api")
    page_file = write_report(hostile)[0]
    asked, errors = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg").first.bounding_box()["width"] > 300
        page.locator("a[href^='explanations/']").first.click()
        page.get_by_role("heading", name="The prompt", exact=True).wait_for()
        browser.close()
    assert len(asked) == 2
    assert errors == []
