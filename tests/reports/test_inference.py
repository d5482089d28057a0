"""What comparisons can show: against scipy, a simulation, and small cases worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from jopa.benchmark.records import read_run
from jopa.reports import typesetting
from jopa.reports.comparisons import comparison_tables, corrected, reliability_table, visible
from jopa.reports.inference import holm, reliability, sign_flip_p, visible_difference
from synthetic_run import cell, experiment, made_up_run, write_run


def there(value: Any) -> Any:
    """A value that is not None."""
    assert value is not None
    return value


def test_signs_of_three_prompts_by_hand():
    # 8 patterns; |sum| >= 6 only where all signs agree
    assert sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert sign_flip_p([1.0, -2.0, 3.0]) == pytest.approx(6 / 8)  # |sum| 2 or more: all but ±(1 + 2 − 3) = 0
    assert sign_flip_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("n", [9, 30])
def test_the_sign_flip_test_is_scipys(n):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(n).normal(0.4, 1.0, n)
    many = np.random.default_rng(0)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=many
    ).pvalue
    assert sign_flip_p(values.tolist()) == pytest.approx(expected, abs=1e-9 if n == 9 else 0.01)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_visible_difference_is_found_in_four_of_five_samples():
    stats = pytest.importorskip("scipy.stats")
    unit = np.random.default_rng(1).normal(0.0, 1.0, 12)
    unit = (unit - unit.mean()) / unit.std(ddof=1)
    size = there(visible_difference((unit * 2.0 + 0.3).tolist()))
    drawn = np.random.default_rng(2).normal(size, 2.0, size=(20_000, 12))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert visible_difference([0.5] * 4) == 0.0
    assert visible_difference([0.5, 0.1]) is None


def test_reliability_by_hand_and_by_its_meaning():
    # two methods, three prompts: methods' means 2 and 4, residuals ±1
    found = there(reliability(np.array([[1.0, 2.0, 3.0], [5.0, 4.0, 3.0]])))
    between, residual = 3 * 2 * 1.0, 4.0 / 2  # Σ over methods of (mean − 3)² = 2; residuals −1, 0, 1, 1, 0, −1
    assert found.of_means == pytest.approx(1 - residual / between)
    assert found.of_one == pytest.approx((between - residual) / (between + 2 * residual))
    drawn = np.random.default_rng(0)
    methods = drawn.normal(0, 1.0, size=(400, 1))  # true variance 1, noise 4 a prompt: 1 / (1 + 4 / 25)
    values = methods + drawn.normal(0, 2.0, size=(400, 25)) + drawn.normal(0, 3.0, size=(1, 25))
    found = there(reliability(values))
    assert found.of_means == pytest.approx(25 / 29, abs=0.03)
    assert found.of_one == pytest.approx(1 / 5, abs=0.03)
    assert found.prompts_needed == pytest.approx(16, rel=0.2)
    assert there(reliability(np.ones((3, 4)))).of_means == 0.0
    for rows in (np.full((3, 7), 0.1), np.tile(np.random.default_rng(1).random(9), (3, 1))):  # all chose the same
        assert there(reliability(rows)) == (0.0, 0.0, rows.shape[1])  # means of equal numbers differ by rounding
    assert there(reliability(np.array([[1.0, 2.0], [2.0, 3.0]]))).prompts_needed == 1.0
    assert reliability(np.ones((1, 4))) is None


def test_the_tables_say_what_was_compared(tmp_path):
    run = read_run(made_up_run(tmp_path / "run", ["joint", "near", "far"], n=20))
    first, second, third = comparison_tables(run)
    assert [table.stem for table in (first, second, third)] == ["p-values-k3", "visible-k3", "reliability-k3"]
    places = [column.key for column in first.columns]
    p_far = there(first.rows[1].numbers[places.index("pr")])
    differences = [a - b for a, b in zip(*(series(run, name) for name in ("far", "joint")), strict=True)]
    p_near = sign_flip_p([a - b for a, b in zip(*(series(run, name) for name in ("near", "joint")), strict=True)])
    assert p_far.mean == pytest.approx(holm([p_near, sign_flip_p(differences)])[1])
    assert p_far.mark == typesetting.LESS
    assert there(second.rows[1].numbers[places.index("pr")]).mean == pytest.approx(visible_difference(differences))
    assert "| joint |" not in typesetting.markdown(first)
    assert "± —" not in typesetting.markdown(first)
    assert typesetting.csv_text(first).splitlines()[0] == "model,data,method,column,better,n,mean,mark"
    assert "less faithful" in typesetting.csv_text(first)
    assert there(third.rows[0].numbers[places.index("pr")]).mean > 0.7
    assert r"\begin{table*}" in typesetting.latex(third)


def series(run, method):
    return [one.metrics["pr"] for one in run.done if one.key.method == method]


def test_a_metric_that_cannot_separate_the_methods_is_named(tmp_path):
    drawn = np.random.default_rng(0)
    cells = [
        cell(name, f"p{i}", pr=0.2 + 0.2 * place + 0.01 * drawn.random(), metrics={"bleu": drawn.random()})
        for i in range(10)
        for place, name in enumerate(("joint", "ablation", "random"))
    ]
    run = read_run(write_run(tmp_path, experiment(["joint", "ablation", "random"]), cells))
    table = there(reliability_table(run, 3))
    said = " ".join(table.notes)
    assert "tiny, alpaca: BLEU cannot separate" in said
    only_two = there(reliability(np.array([series(run, name) for name in ("joint", "ablation")])))  # chance is left out
    place = [column.key for column in table.columns].index("pr")
    assert table.rows[0].numbers[place].mean == pytest.approx(only_two.of_means)


def test_without_a_baseline_or_with_one_prompt_there_is_less(tmp_path):
    plan = experiment(["joint", "random"]) | {"baseline": None}
    run = read_run(write_run(tmp_path / "a", plan, [cell("joint"), cell("random")]))
    assert corrected(run, 3) is None and visible(run, 3) is None
    run = read_run(write_run(tmp_path / "b", experiment(["joint", "random"]), [cell("joint"), cell("random")]))
    assert corrected(run, 3) is None and visible(run, 3) is None and reliability_table(run, 3) is None
    assert math.isinf(there(reliability(np.array([[1.0, -1.0], [-1.0, 1.0]]))).prompts_needed)


def test_a_p_value_is_never_shown_as_zero(tmp_path):
    cells = [cell(name, f"p{i}", pr=pr + 0.01 * i) for name, pr in (("a", 0.1), ("b", 0.6)) for i in range(16)]
    table = there(corrected(read_run(write_run(tmp_path / "run", experiment(["a", "b"]), cells)), 3))
    assert "| < 0.001 ● |" in typesetting.markdown(table) and "0.000" not in typesetting.markdown(table)
    assert r"\textless{} 0.001 $\bullet$" in typesetting.latex(table)
    assert ",0.00004" in typesetting.csv_text(table) or ",4.99" in typesetting.csv_text(table)


def test_every_table_explains_the_mark_of_a_method_with_few_prompts(tmp_path):
    cells = [cell(name, f"p{i}", pr=0.5 + 0.01 * i) for name in ("a", "b") for i in range(9)]
    cells += [cell("late", f"p{i}", pr=0.1) for i in range(3)]
    run = read_run(write_run(tmp_path / "run", experiment(["a", "b", "late"]), cells))
    for table in comparison_tables(run)[:2]:
        assert "late †" in typesetting.markdown(table)
        assert any(note.startswith("†") for note in table.notes), table.stem
