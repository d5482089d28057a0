"""Methods, metrics and data sets of another package: found, checked, refused in one line."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import jopa
import synthetic_run as made
from jopa.benchmark.experiment import read_experiment
from jopa.benchmark.records import FinishedCell
from jopa.datasets.examples import load_dataset
from jopa.datasets.sources import DATASETS, Source
from jopa.evaluation.metric import Metric, measured
from jopa.evaluation.metrics import METRICS
from jopa.json_values import converted
from jopa.methods import METHODS, find_method
from jopa.reports.benchmark_report import write_report
from jopa.testing import check_method
from plugins.outside_package import install

TABLES = (METHODS, METRICS, DATASETS)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder in `sys.path` for packages; the tables forget what was there afterwards."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for table in TABLES:
        table.reload()
    yield folder
    monkeypatch.undo()
    for table in TABLES:
        table.reload()
    for name in ("outside", "faulty"):
        sys.modules.pop(name, None)


@pytest.fixture
def outside(site) -> Path:
    return install(site)


def test_a_method_of_another_package_is_in_the_table_and_explains(outside, llama):
    assert METHODS.origin("last-units") == "jopa-outside 1.2"
    assert [name for name in METHODS if name not in METHODS.builtin] == ["last-units"]
    a = jopa.explain("write a story about the doctor", k=2, model=llama, method="last-units")
    assert a.removed == (4, 5) or a.removed == (5, 4)
    assert a.method == {"name": "last-units", "step": 1}
    with pytest.raises(jopa.SettingError, match="setting 'step' of method 'last-units' must be of type int"):
        jopa.make_method("last-units", step="2")


def test_a_method_of_another_package_passes_the_check_for_authors(outside):
    check_method(jopa.make_method("last-units"), finds_dominant=False)
    with pytest.raises(AssertionError, match="last-units: must find unit 3, which dominates, found"):
        check_method(jopa.make_method("last-units"))


def test_an_experiment_names_it_and_a_class_by_its_path(outside, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "mine"\nks = [1]\n[[data]]\nname = "doctors"\n'
        '[[methods]]\nname = "last-units"\n'
        '[[methods]]\nname = "outside:LastUnits"\nlabel = "by path"\nsettings = { step = 3 }\n'
    )
    first, second = read_experiment(file).methods
    assert type(first.method) is type(second.method) and second.method.settings == {"name": "last-units", "step": 3}
    file.write_text(file.read_text().replace("outside:LastUnits", "outside:Nobody"))
    with pytest.raises(jopa.SettingError, match="module 'outside' has no 'Nobody'"):
        read_experiment(file)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.at.all:Method", "cannot import 'nowhere.at.all' .*is its package installed here"),
        ("jopa:", "write PACKAGE.MODULE:NAME"),
        ("jopa:explain", "is no subclass of jopa.Method"),
    ],
)
def test_a_path_that_leads_to_no_method_is_refused(path, words):
    with pytest.raises(jopa.SettingError, match=words):
        find_method(path)


def test_a_name_from_a_stranger_imports_nothing():
    """`make_method` serves requests: only names of the table count there."""
    with pytest.raises(jopa.SettingError, match=r"unknown method 'jopa\.methods\.perturbation:Greedy'"):
        jopa.make_method("jopa.methods.perturbation:Greedy")


def test_a_data_set_of_another_package(outside):
    dataset = load_dataset("doctors")
    assert [(example.id, example.system) for example in dataset.examples] == [("1", None), ("b", "please")]
    assert dataset.source == "outside:two_prompts"
    assert len(load_dataset("doctors", limit=1).examples) == 1


def test_a_metric_of_another_package_is_computed_from_records(outside, tmp_path):
    cells = [
        made.cell(method, name, k=1, counterfactual_output=text)
        for method, text in (("joint", "n"), ("random", "yes"))
        for name in ("p1", "p2")
    ]
    folder = made.write_run(tmp_path / "run", made.experiment(["joint", "random"], ks=(1,)), cells)
    write_report(folder)
    table = (folder / "report" / "tables" / "faithfulness-k1.csv").read_text()
    assert ",length_kept,lower," in table
    page = (folder / "report" / "index.html").read_text()
    assert "Length kept" in page and "length of the new output / length of the original" in page
    assert str(1 / 6)[:6] in table and "0.5" in table


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda cell: 1 / 0, "metric 'bad' failed: ZeroDivisionError: division by zero"),
        (lambda cell: sys.exit("no data"), "metric 'bad' failed: SystemExit: no data"),
        (lambda cell: "much", "metric 'bad' must give a finite number or None, got 'much'"),
        (lambda cell: float("nan"), "must give a finite number or None, got nan"),
        (lambda cell: np.float32("inf"), "must give a finite number or None, got np.float32"),
        (lambda cell: 10**400, "must give a finite number or None, got 1000"),
        (lambda cell: True, "must give a finite number or None, got True"),
        (lambda cell: np.arange(2), "must give a finite number or None, got array"),
    ],
)
def test_a_faulty_metric_is_one_line(compute, words, tmp_path):
    folder = made.write_run(tmp_path / "run", made.experiment(["joint"], ks=(1,)), [made.cell("joint", k=1)])
    METRICS.register(Metric("bad", "Bad", "lower", "fails", compute))
    try:
        with pytest.raises(
            jopa.ScoringError, match=words + r".* \(cell: tiny, alpaca, prompt p1, joint, k = 1, seed 0\)"
        ):
            write_report(folder)
    finally:
        METRICS.forget("bad")


@pytest.mark.parametrize("value", [np.float32(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), np.int64(1), 1])
def test_a_metric_may_give_a_number_of_numpy_or_torch(value):
    metric = Metric("good", "Good", "lower", "a number", lambda cell: value)
    cell = converted(made.cell("joint", k=1), FinishedCell, "a cell")
    assert measured(metric, cell) == float(value) and type(measured(metric, cell)) is float


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [("exits", "raise SystemExit(3)", "SystemExit: 3"), ("divides", "1 / 0", "ZeroDivisionError")],
)
def test_a_method_that_cannot_be_made_is_named(site, module, line, words):
    (site / f"{module}.py").write_text(
        "import jopa\nclass Last(jopa.Method):\n    name = 'last'\n    summary = 'the last'\n    cost = '1'\n"
        f"    def __init__(self):\n        {line}\n"
        "    def run(self, problem, k, *, seed=0):\n        return jopa.Selection((0,), 'one')\n"
    )
    with pytest.raises(jopa.SettingError, match=f"method 'last' cannot be made: {words}"):
        find_method(f"{module}:Last")


def test_a_path_to_a_module_that_exits_is_refused(site):
    (site / "leaving.py").write_text("raise SystemExit(3)")
    with pytest.raises(jopa.SettingError, match=r"cannot import 'leaving' \(SystemExit: 3\)"):
        find_method("leaving:X")


@pytest.mark.parametrize(
    ("module", "point", "words"),
    [
        ("import nothing_like_this", "x = faulty:X", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("X = 3", "x = faulty:X", "3 is no subclass of jopa.Method"),
        ("raise SystemError('two\\nlines')", "x = faulty:X", "SystemError: two lines"),
        ("import sys\nsys.exit(3)", "x = faulty:X", "SystemExit: 3"),
        ("raise SystemExit", "x = faulty:X", "SystemExit"),
        ("from jopa.methods.perturbation import Greedy as X", "x = faulty:X", "has the name 'greedy', not 'x'"),
        ("from jopa.methods.perturbation import Greedy as X", "joint = faulty:X", "jopa has this name itself"),
        ("from jopa import Method\nclass X(Method):\n  name = 'x'", "x = faulty:X", "class X lacks run"),
        (
            "from jopa.methods.perturbation import Greedy\nclass X(Greedy):\n  name = 'x'\n  preset_removal = 'burn'",
            "x = faulty:X",
            "'preset_removal' of class X must be one of delete, zero, hide, got 'burn'",
        ),
        (
            "from dataclasses import dataclass\nfrom jopa.methods.perturbation import Greedy\n"
            "@dataclass(frozen=True)\nclass X(Greedy):\n  size: list = ()\n  name = 'x'",
            "x = faulty:X",
            "setting 'size' of class X is of type list; a setting can be of type int,",
        ),
    ],
)
def test_a_faulty_plugin_is_left_out_and_named_in_one_line(site, module, point, words):
    install(site, name="faulty", module=module, points=f"[jopa.methods]\n{point}\n")
    METHODS.reload()
    name = point.split(" ")[0]
    assert list(METHODS) == list(METHODS.builtin)
    assert words in METHODS.faults[name] and "\n" not in METHODS.faults[name]
    assert METHODS.faults[name].startswith(f"method '{name}' of jopa-faulty 1.2 cannot be used (faulty:X)")
    if name not in METHODS.builtin:
        with pytest.raises(jopa.SettingError, match=f"method '{name}' of jopa-faulty 1.2 cannot be used"):
            jopa.make_method(name)


def test_a_name_that_two_packages_offer_is_refused(outside):
    install(outside, name="faulty", module="LastUnits = 1", points="[jopa.methods]\nlast-units = faulty:LastUnits\n")
    METHODS.reload()
    assert "offered more than once" in METHODS.faults["last-units"]
    assert {"jopa-outside", "jopa-faulty"} <= set(METHODS.faults["last-units"].split())


@pytest.mark.parametrize(
    ("end", "words"), [("raise OSError('gone')", "OSError: gone"), ("raise SystemExit(3)", "SystemExit: 3")]
)
def test_a_data_set_that_fails_says_so(site, end, words):
    install(site, name="faulty", module=f"def rows():\n  yield {{'prompt': 'a'}}\n  yield 3\n  {end}",
            points="[jopa.datasets]\nrows = faulty:rows\n")  # fmt: skip
    DATASETS.reload()
    with pytest.raises(jopa.InputFileError, match=f"data set 'rows' cannot give its records .* {words}"):
        load_dataset("rows")


def cyclic():
    record = {"prompt": "a"}
    record["self"] = record
    return record


class Unsayable:
    def __str__(self):
        raise KeyError("no text")


STRANGE_RECORDS = {
    "a cycle": cyclic(),
    "a tuple for a key": {"prompt": "a", ("x", 1): 2},
    "a value without a text": {"prompt": "a", "more": Unsayable()},
}


@pytest.mark.parametrize("name", STRANGE_RECORDS)
def test_a_record_that_is_no_json_is_counted_and_named(name):
    rows = [{"prompt": "good"}, STRANGE_RECORDS[name], {"prompt": "good, too"}]
    DATASETS.register(Source("strange", "made up", rows=lambda: iter(rows)))
    try:
        dataset = load_dataset("strange")
    finally:
        DATASETS.forget("strange")
    assert [example.prompt for example in dataset.examples] == ["good", "good, too"]
    assert dataset.left_out == {"no record that JSON could hold": 1}
    assert dataset.problems[0].startswith("strange:2: no record that JSON could hold: ")


def test_numbers_of_numpy_are_ids():
    rows = [{"id": number, "prompt": f"say {number}"} for number in (np.int64(3), np.float32(0.5), np.str_("x"))]
    rows.append({"id": np.bool_(True), "prompt": "b"})
    DATASETS.register(Source("numbered", "made up", rows=lambda: iter(rows)))
    try:
        dataset = load_dataset("numbered")
    finally:
        DATASETS.forget("numbered")
    assert [example.id for example in dataset.examples] == ["3", "0.5", "x"]
    assert dataset.left_out == {"'id' is neither text nor a number": 1}


def test_a_class_registers_itself_and_a_second_run_of_the_cell_replaces_it():
    def define(text):
        @METHODS.register
        @dataclass(frozen=True)
        class Here(jopa.JointSearch):
            """Ours.

            Attributes: those of `JointSearch`.
            """

            name: ClassVar[str] = "here"
            summary: ClassVar[str] = text

        return Here

    try:
        define("first")
        second = define("second")
        assert METHODS["here"] is second and jopa.make_method("here", budget=7).settings["budget"] == 7
        with pytest.raises(jopa.SettingError, match="there is a method 'here' already"):
            METHODS.register(type("Other", (jopa.JointSearch,), {"name": "here"}))
        with pytest.raises(jopa.SettingError, match="there is a method 'joint' already"):
            METHODS.register(jopa.JointSearch)
    finally:
        METHODS.forget("here")
    assert "here" not in METHODS


def test_the_command_lists_it_with_its_package(outside, capsys):
    from jopa.cli.serving import methods

    install(outside, name="faulty", module="X = 1", points="[jopa.methods]\nx = faulty:X\n")
    METHODS.reload()
    methods()
    out, err = capsys.readouterr()
    assert "the units at the end of the prompt [jopa-outside 1.2]" in out
    assert "jopa: method 'x' of jopa-faulty 1.2 cannot be used (faulty:X): 1 is no subclass" in err
