"""Tables from records: against numbers worked out by hand, and a slow plain bootstrap."""

import csv
import io
import math
import warnings

import numpy as np
import pytest

from jopa.benchmark.records import read_run
from jopa.reports import estimates, tables, typesetting
from jopa.reports.estimates import bootstrap_intervals, estimate, resampled_counts, trace_value
from jopa.reports.wording import visible
from synthetic_run import HOSTILE, cell, experiment, failed, session, write_run

JOPA, RANDOM = (0.2, 0.3, 0.7) * 2, (0.5, 0.5, 0.8) * 2


@pytest.fixture
def run_of(tmp_path):
    """Records to a Run, by way of the files."""
    return lambda plan, cells: read_run(write_run(tmp_path / "run", plan, cells))


def six_by_two(*extra, **more):
    """Six prompts, the fewest that can show a difference, and two methods, k = 3."""
    cells = [cell("joint", f"p{i}", pr=pr, metrics={"kl": 2 * pr}, **more) for i, pr in enumerate(JOPA)]
    cells += [cell("random", f"p{i}", pr=pr, metrics={"kl": 0.1}, **more) for i, pr in enumerate(RANDOM)]
    return [*cells, *extra]


def number(table, method, key, data="alpaca"):
    row = next(row for row in table.rows if (row.method, row.data) == (method, data))
    return row.numbers[[column.key for column in table.columns].index(key)]


def test_means_errors_and_bold_as_worked_out_by_hand(run_of):
    table = tables.faithfulness(run_of(experiment(["joint", "random"]), six_by_two()), 3)
    ours, theirs = number(table, "joint", "pr"), number(table, "random", "pr")
    assert ours.mean == pytest.approx(0.4)
    assert ours.spread == pytest.approx(math.sqrt(0.28 / 5 / 6))  # deviations −0.2, −0.1, +0.3, twice
    assert theirs.mean == pytest.approx(0.6)
    assert theirs.spread == pytest.approx(math.sqrt(0.12 / 5 / 6))
    assert (ours.best, theirs.best) == (True, False)
    assert number(table, "joint", "kl").mean == pytest.approx(0.8)
    assert (number(table, "joint", "kl").best, number(table, "random", "kl").best) == (True, False)  # higher is better
    assert [row.n for row in table.rows] == [6, 6]
    text = typesetting.markdown(table)
    assert "**0.400** ± 0.097" in text
    assert "| 0.600 ± 0.063 |" in text
    assert "PR ↓" in text
    assert "KL ↑" in text
    assert "k = 3" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({"a": (0.1, 0.2, 0.3), "b": (0.2, 0.3, 0.4), "c": (0.4, 0.5, 0.6)}, "a"),
        ({"a": (0.1, 0.2, 0.3), "b": (0.2, 0.3, 0.2), "c": (0.4, 0.5, 0.6)}, None),  # b is better on one prompt
        ({"a": (0.1, 0.2, 0.3), "b": (0.1, 0.2, 0.3)}, None),
    ],
)
def test_bold_only_where_the_interval_against_each_other_method_allows_it(run_of, values, best):
    cells = [cell(name, f"p{i}", pr=pr) for name, row in values.items() for i, pr in enumerate(row * 2)]
    table = tables.faithfulness(run_of(experiment(list(values)), cells), 3)
    assert [name for name in values if number(table, name, "pr").best] == ([best] if best else [])
    assert any("leaves out zero" in note for note in table.notes)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_so_few_prompts_that_nothing_can_be_shown(run_of, n):
    """Five differences of one sign have p = 2/2^5: what leaves out zero then is no 95 % interval."""
    cells = [cell(name, f"p{i}", pr=pr + 0.01 * i) for name, pr in (("a", 0.1), ("b", 0.8)) for i in range(n)]
    run = run_of(experiment(["a", "b"]), cells)
    means, paired = tables.faithfulness(run, 3), tables.differences(run, 3)
    difference = number(paired, "b", "pr")
    assert number(means, "a", "pr").best is (n == 6)
    assert (difference.mark, difference.low is None) == ((typesetting.LESS, False) if n == 6 else ("", True))
    for table in (means, paired):
        assert ("Fewer than 6 prompts cannot show a difference" in " ".join(table.notes)) is (n < 6)


def test_a_method_alone_is_not_called_best(run_of):
    table = tables.faithfulness(run_of(experiment(["a"]), [cell("a"), cell("a", "p2")]), 3)
    assert not any(entry.best for row in table.rows for entry in row.numbers)


def test_each_data_set_and_model_has_its_own_best_and_the_order_of_the_experiment(run_of):
    cells = [
        cell(method, f"p{i}", pr=pr, **where)
        for i in range(6)
        for method, pr, where in (
            *[("b", 0.1, {"data": "mhc"}), ("a", 0.2, {"data": "mhc"})],
            *[("b", 0.4, {"data": "alpaca"}), ("a", 0.3, {"data": "alpaca"})],
            *[("b", 0.9, {"model": "big"}), ("a", 0.8, {"model": "big"})],
        )
    ]
    plan = experiment(["a", "b"], models=("tiny", "big"), data=("alpaca", "mhc"))
    table = tables.faithfulness(run_of(plan, cells), 3)
    places = [(row.model, row.data, row.method) for row in table.rows]
    groups = [("tiny", "alpaca"), ("tiny", "mhc"), ("big", "alpaca")]
    assert places == [(*group, method) for group in groups for method in "ab"]
    best = [row.numbers[0].best for row in table.rows]
    assert best == [True, False, False, True, True, False]


def slow_interval(differences, resamples, seed):
    """Plain Python over the same draws: percentiles by linear interpolation between order statistics."""
    n = len(differences)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n)).tolist()
    means = sorted(sum(differences[i] for i in row) / n for row in drawn)

    def percentile(share):
        place = share * (resamples - 1)
        low = math.floor(place)
        return means[low] + (place - low) * (means[min(low + 1, resamples - 1)] - means[low])

    return percentile(0.025), percentile(0.975)


def test_the_bootstrap_equals_a_plain_loop_over_the_same_resamples():
    differences = np.random.default_rng(3).normal(0.3, 1.0, size=(17, 2))
    fast = bootstrap_intervals(differences, resamples=2000, seed=5)
    for column in (0, 1):
        assert fast[column] == pytest.approx(slow_interval(differences[:, column].tolist(), 2000, 5), abs=1e-12)


def test_resamples_in_pieces_are_whole(monkeypatch):
    monkeypatch.setattr(estimates, "_AT_ONCE", 40)
    pieces = list(resampled_counts(9, resamples=10, seed=1))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert (np.concatenate(pieces).sum(axis=1) == 9).all()


def test_differences_are_paired_and_marked_by_what_is_faithful(run_of):
    cells = [
        *[cell("joint", f"p{i}", pr=0.1 * i + 0.1, metrics={"kl": 0.1 * i}) for i in range(6)],
        *[cell("worse", f"p{i}", pr=0.1 * i + 0.3 + 0.01 * i, metrics={"kl": 0.1 * i - 0.2}) for i in range(6)],
        *[cell("better", f"p{i}", pr=0.1 * i + 0.05, metrics={"kl": 0.1 * i + 0.3}) for i in range(6)],
        *[cell("equal", f"p{i}", pr=0.1 * i + 0.1 + 0.05 * (-1) ** i, metrics={"kl": 0.1 * i}) for i in range(6)],
    ]
    table = tables.differences(run_of(experiment(["joint", "worse", "better", "equal"]), cells), 3)
    assert [row.method for row in table.rows] == ["worse", "better", "equal"]
    worse = number(table, "worse", "pr")
    assert worse.mean == pytest.approx(0.2 + 0.01 * 2.5)
    assert (worse.low, worse.high) == pytest.approx(slow_interval([0.2 + 0.01 * i for i in range(6)], 10_000, 0))
    marks = {(m, key): number(table, m, key).mark for m in ("worse", "better", "equal") for key in ("pr", "kl")}
    assert marks["worse", "pr"] == marks["worse", "kl"] == typesetting.LESS
    assert marks["better", "pr"] == marks["better", "kl"] == typesetting.MORE
    assert marks["equal", "pr"] == marks["equal", "kl"] == ""
    assert number(table, "better", "kl").mean == pytest.approx(0.3)  # no spread at all: the interval is a point
    assert number(table, "better", "kl").low == pytest.approx(0.3)


def test_only_prompts_that_every_method_finished_enter_the_means(run_of):
    cells = [*six_by_two()[:-1], failed("random", "p5")]
    run = run_of(experiment(["joint", "random"]), cells)
    table = tables.faithfulness(run, 3)
    assert number(table, "joint", "pr").mean == pytest.approx(0.34)
    assert number(table, "random", "pr").mean == pytest.approx(0.56)
    assert [row.n for row in table.rows] == [5, 5]
    assert any("5 of 6 prompts" in note and "random: 1 (1 failed)" in note for note in table.notes)


def test_a_method_that_failed_everywhere_has_dashes_and_narrows_nothing(run_of):
    run = run_of(experiment(["joint", "random", "none"]), six_by_two(*(failed("none", f"p{i}") for i in range(6))))
    table = tables.faithfulness(run, 3)
    assert number(table, "joint", "pr").mean == pytest.approx(0.4)
    assert number(table, "none", "pr") is None
    assert "| none | 0 | — |" in typesetting.markdown(table)
    assert any("none: 6 (6 failed)" in note for note in table.notes)
    assert [row.method for row in tables.differences(run, 3).rows] == ["random"]


def test_a_method_that_has_hardly_begun_narrows_nothing_and_is_never_best(run_of):
    table = tables.faithfulness(
        run_of(experiment(["joint", "random", "new"]), six_by_two(cell("new", "p0", pr=0.01))), 3
    )
    row = next(row for row in table.rows if row.method == "new")
    assert row.partial
    assert row.n == 1
    assert number(table, "joint", "pr").mean == pytest.approx(0.4)
    assert number(table, "joint", "pr").best
    assert not number(table, "new", "pr").best
    assert "new †" in typesetting.markdown(table)
    assert any(note.startswith("†") for note in table.notes)


def test_seeds_are_averaged_before_prompts(run_of):
    cells = [
        *[cell("a", "p0", seed=0, pr=0.2), cell("a", "p0", seed=1, pr=0.4)],
        *[cell("a", "p1", seed=0, pr=0.6), cell("a", "p1", seed=1, pr=1.0)],
        *[cell("b", "p0", seed=0, pr=0.5), cell("b", "p1", seed=0, pr=0.7)],  # needs no second seed
    ]
    run = run_of(experiment(["a", "b"], seeds=(0, 1)), cells)
    ours = number(tables.faithfulness(run, 3), "a", "pr")
    assert ours.mean == pytest.approx(0.55)
    assert ours.spread == pytest.approx(abs(0.3 - 0.8) / 2)  # of two values: |difference| / 2
    assert ours.n == 2
    over_seeds = tables.seeds(run, 3)
    assert [row.method for row in over_seeds.rows] == ["a"]
    found = number(over_seeds, "a", "pr")
    assert found.mean == pytest.approx((0.4 + 0.7) / 2)
    assert found.spread == pytest.approx(abs(0.4 - 0.7) / math.sqrt(2))
    assert found.n == 2


def test_a_prompt_that_lacks_one_seed_is_left_out(run_of):
    cells = [
        *[cell("a", "p0", seed=0, pr=0.2), cell("a", "p0", seed=1, pr=0.4)],
        *[cell("a", "p1", seed=0, pr=0.6), failed("a", "p1", seed=1)],
    ]
    run = run_of(experiment(["a"], seeds=(0, 1)), cells)
    assert number(tables.faithfulness(run, 3), "a", "pr").mean == pytest.approx(0.3)
    assert number(tables.seeds(run, 3), "a", "pr").mean == pytest.approx(0.3)


def test_a_single_prompt_has_no_error_and_no_interval(run_of):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tables.all_tables(run_of(experiment(["joint", "random"]), [cell("joint"), cell("random", pr=0.6)]))
        texts = [form(t) for t in found for form in (typesetting.markdown, typesetting.csv_text, typesetting.latex)]
    assert [table.stem for table in found] == ["faithfulness-k3", "differences-k3", "cost"]
    assert "0.500 ± —" in texts[0] and "**" not in texts[0].replace("**Model", "").replace("tiny**", "")
    assert "+0.100 [—]" in texts[3].replace("\\", "")


def test_no_metric_no_column_and_a_missing_one_is_told(run_of):
    without = [cell("a", f"p{i}", metrics={"sentence_bert": None}) for i in range(3)]
    table = tables.faithfulness(run_of(experiment(["a"]), without), 3)
    assert "sentence_bert" not in [column.key for column in table.columns]
    table = tables.faithfulness(run_of(experiment(["a"]), [*without[:2], cell("a", "p2", pr=0.9)]), 3)
    assert number(table, "a", "sentence_bert").n == 1
    assert number(table, "a", "pr").n == 3
    assert any("lack a metric" in note for note in table.notes)


def test_a_search_that_answered_several_k_costs_once(run_of):
    shared = [cell("a", f"p{i}", k=k, ks=[1, 2], seconds=2.0 + 2 * i, evaluations=7) for i in (0, 1) for k in (1, 2)]
    alone = [cell("b", f"p{i}", k=k, ks=[k], seconds=float(k)) for i in (0, 1) for k in (1, 2)]
    table = tables.cost(run_of(experiment(["a", "b"], ks=(1, 2)), shared + alone))
    assert [row.method for row in table.rows] == ["a, k = 1, 2", "b, k = 1", "b, k = 2"]
    assert [column.key for column in table.columns] == ["ffe", "evaluations", "seconds"]
    seconds = [row.numbers[2] for row in table.rows]
    assert [(entry.mean, entry.n) for entry in seconds] == [(3.0, 2), (1.0, 2), (2.0, 2)]
    assert seconds[0].spread == pytest.approx(1.0)
    assert not any(entry.best for row in table.rows for entry in row.numbers)


def test_searches_that_answered_other_k_have_rows_of_their_own(run_of):
    """Two prompts are too short for k = 3: there one search answered k = 1, elsewhere one answered both."""
    both = [
        cell(method, f"long{i}", k=k, ks=[1, 3], ffe=ffe + i)
        for method, ffe in (("joint", 10.0), ("ablation", 5.0))
        for i in (0, 1)
        for k in (1, 3)
    ]
    short = [cell(method, f"short{i}", k=1, ks=[1], ffe=2.0 + i) for method in ("joint", "ablation") for i in (0, 1)]
    short += [failed(method, f"short{i}") for method in ("joint", "ablation") for i in (0, 1)]
    table = tables.cost(run_of(experiment(["joint", "ablation"], ks=(1, 3)), both + short))
    assert [(row.method, row.n, row.numbers[0].mean) for row in table.rows] == [
        ("joint, k = 1", 2, 2.5),
        ("joint, k = 1, 3", 2, 10.5),
        ("ablation, k = 1", 2, 2.5),
        ("ablation, k = 1, 3", 2, 5.5),
    ]
    assert not any("means over" in note and "of 4" in note for note in table.notes)
    assert not any(row.partial for row in table.rows)


def test_k_that_were_added_later_are_a_search_of_their_own(run_of):
    cells = [cell("joint", "p1", k=k, ks=[1, 2], ffe=47.0) for k in (1, 2)]
    cells += [cell("joint", "p1", k=k, ks=[3, 4], ffe=49.0) for k in (3, 4)]
    table = tables.cost(run_of(experiment(["joint"], ks=(1, 2, 3, 4)), cells))
    assert [(row.method, row.numbers[0].mean) for row in table.rows] == [
        ("joint, k = 1, 2", 47.0),
        ("joint, k = 3, 4", 49.0),
    ]


def test_rows_of_the_same_k_are_compared_on_the_prompts_that_they_share(run_of):
    cells = [cell("a", f"p{i}", k=1, ks=[1], ffe=float(i)) for i in range(4)]
    cells += [cell("b", f"p{i}", k=1, ks=[1], ffe=float(i)) for i in range(2)]
    cells += [cell("c", f"p{i}", k=k, ks=[1, 2], ffe=9.0) for i in (0,) for k in (1, 2)]
    table = tables.cost(run_of(experiment(["a", "b", "c"], ks=(1, 2)), cells))
    found = [(row.method, row.n, row.numbers[0].mean) for row in table.rows]
    assert found == [("a, k = 1", 2, 0.5), ("b, k = 1", 2, 0.5), ("c, k = 1, 2", 1, 9.0)]
    assert any("Prompts without a result: b, k = 1: 2" in note for note in table.notes)


def starts(*loads):
    """A start of the command each, a day apart, with the load of the machine where it is known."""
    return [session() | {"date": f"2026-11-{20 + i}T00:00:00+00:00", "machine": {"cores": 2, "load": load}}
            for i, load in enumerate(loads)]  # fmt: skip


@pytest.mark.parametrize(
    ("sessions", "changes", "why"),
    [
        (starts(0.1), {}, None),
        (starts(0.1, 0.1), {"date": "2026-11-21T05:00:00+00:00"}, "2 starts of the command"),
        (starts(0.1), {"worker": "host:2"}, "2 processes"),
        (starts(1.7), {}, "1.7 cores busy"),
        (starts(None), {}, None),
    ],
)
def test_seconds_of_different_starts_or_loads_are_marked(tmp_path, sessions, changes, why):
    first = {"date": "2026-11-20T05:00:00+00:00"}
    cells = [cell("a", **first), cell("b", **(first | changes))]
    run = read_run(write_run(tmp_path / "run", experiment(["a", "b"]), cells, sessions=sessions))
    table = tables.cost(run)
    assert table.columns[2].title == ("seconds" if why is None else "seconds ‡")
    assert [note for note in table.notes if "not comparable" in note] == ([] if why is None else [table.notes[1]])
    assert why is None or why in table.notes[1]
    assert "ddag" in typesetting.latex(table) or why is None


def test_latex_takes_metrics_and_decimals(run_of):
    table = tables.faithfulness(run_of(experiment(["joint", "random"]), six_by_two()), 3)
    narrow = typesetting.narrowed(table, ["kl", "pr"], 1)
    assert [column.key for column in narrow.columns] == ["kl", "pr"]
    text = typesetting.latex(narrow)
    assert r"\textbf{0.4} {\scriptsize $\pm$ 0.1}" in text and "0.400" not in text
    assert typesetting.narrowed(table) == table
    cost = tables.cost(run_of(experiment(["joint", "random"]), six_by_two()))
    assert len(typesetting.narrowed(cost, ["kl"]).columns) == 3


def test_iterations_read_the_trace_and_an_ended_search_keeps_its_value(run_of):
    long = [[0, -1.0, 1, 1.0], [1, -2.0, 2, 2.0], [4, -3.0, 3, 3.0], [12, -9.0, 4, 4.0]]
    short = [[0, -1.0, 1, 1.0], [3, -4.0, 2, 2.0]]
    prompts = ("p1", "p2", "p3", "p4", "p5", "p6")
    cells = [cell(name, p, trace=steps) for p in prompts for name, steps in (("long", long), ("short", short))]
    cells += [cell("none"), failed("none", "p2")]
    table = tables.iterations(run_of(experiment(["long", "short", "none"]), cells), 3)
    assert [column.title for column in table.columns] == ["1", "5", "10"]
    assert {row.method: [entry.mean for entry in row.numbers] for row in table.rows} == {
        "long": [-2.0, -3.0, -3.0],
        "short": [-1.0, -4.0, -4.0],
    }
    assert number(table, "long", "iteration_1").best
    assert number(table, "short", "iteration_10").best


def test_the_value_before_the_first_step_is_unknown():
    trace = [[2, -1.0, 5, 3.0], [4, -2.0, 6, 4.0]]
    assert [trace_value(trace, at) for at in (1, 2, 3, 4, 99)] == [None, -1.0, -1.0, -2.0, -2.0]
    assert trace_value(trace, 5, column=2) == -1.0


def test_estimate_of_nothing_and_of_one():
    assert estimate([]) is None
    assert estimate([0.5]) == (0.5, None, 1)


def test_csv_gives_back_every_number(run_of):
    table = tables.faithfulness(run_of(experiment(["joint", "random"]), six_by_two()), 3)
    lines = list(csv.DictReader(io.StringIO(typesetting.csv_text(table))))
    line = next(item for item in lines if (item["method"], item["column"]) == ("joint", "pr"))
    assert float(line["mean"]) == number(table, "joint", "pr").mean
    assert float(line["standard_error"]) == number(table, "joint", "pr").spread
    assert (line["n"], line["best"], line["better"]) == ("6", "1", "lower")
    assert len(lines) == 2 * len(table.columns)


@pytest.mark.parametrize("label", [HOSTILE, "a|b", "50% & more_of $it$ \\ {x}", "two\nlines"])
def test_names_break_no_form(run_of, label):
    run = run_of(experiment(["joint", label]), [cell("joint"), cell(label), cell("joint", "p2"), cell(label, "p2")])
    for table in tables.all_tables(run):
        rows = [line for line in typesetting.markdown(table).splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in rows} == {len(table.columns) + 4}
        body = typesetting.latex(table).split("\\midrule", 1)[1].split("\\bottomrule")[0].splitlines()
        rows = [line for line in body if " & " in line.replace("\\&", "")]
        assert len(rows) == len(table.rows)
        assert all(line.endswith(" \\\\") for line in rows)
        assert {line.replace("\\&", "").count("&") for line in rows} == {len(table.columns) + 2}
        read = list(csv.DictReader(io.StringIO(typesetting.csv_text(table))))
        assert label in {line["method"] for line in read} or visible(label) in {line["method"] for line in read}


@pytest.mark.parametrize("label", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_no_name_is_a_formula_in_csv(run_of, label):
    run = run_of(experiment([label, "-1.5"]), [cell(label), cell("-1.5")])
    seen: set[str] = set()
    for table in tables.all_tables(run):
        names = {line["method"] for line in csv.DictReader(io.StringIO(typesetting.csv_text(table)))}
        seen |= names
        assert not {name for name in names if name.lstrip()[:1] in tuple("=+-@＝")} - {"-1.5"}
    assert f"'{visible(label)}" in seen


@pytest.mark.parametrize("char", ["\x1b", "\u202e", "\u3164", "\u2800", "\u200b", "\ufe00", "\U000e0041", "\x85"])
def test_unseen_characters_are_visible_in_every_form(run_of, char):
    run = run_of(experiment([f"a{char}b"]), [cell(f"a{char}b"), cell(f"a{char}b", "p2")])
    for form in (typesetting.markdown, typesetting.latex, typesetting.csv_text):
        for table in tables.all_tables(run):
            assert char not in form(table)
            assert char.encode("unicode_escape").decode()[1:] in form(table)


def test_latex_takes_no_name_for_a_width(run_of):
    """`\\midrule` takes a "[" that follows it for the beginning of its own argument."""
    cells = [cell("[a]", f"p{i}", data="[b]") for i in range(2)]
    text = typesetting.latex(tables.faithfulness(run_of(experiment(["[a]"], data=("[b]",)), cells), 3))
    assert "\\midrule\n{}[b] & [a] & 2" in text


def test_latex_escapes_what_it_must():
    escaped = typesetting._latex("a_b & 5 % {x} $y$ #1 ~ ^ \\end ↓ ± −1")
    assert escaped == (
        r"a\_b \& 5 \% \{x\} \$y\$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}end "
        r"$\downarrow$ $\pm$ $-$1"
    )
