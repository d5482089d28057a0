"""ProxySPEX through shapiq; and how its sets are read off the interactions, against brute force."""

from itertools import combinations

import pytest
import torch

import jopa
from jopa import errors
from jopa.methods import proxy_spex
from jopa.methods.proxy_spex import ProxySPEX
from jopa.testing import TableScorer


def brute_force(terms, n_units, k):
    def effect(removed):
        return sum(value for term, value in terms.items() if set(term) & set(removed))

    return max(combinations(range(n_units), k), key=lambda removed: (effect(removed), [-unit for unit in removed]))


@pytest.mark.parametrize("enumerable", [200_000, 0])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_set_of_the_interactions(monkeypatch, enumerable, seed):
    random = torch.Generator().manual_seed(seed)
    terms: dict[tuple[int, ...], float] = {
        (unit,): float(torch.rand((), generator=random)) + unit / 7 for unit in range(0, 10, 2)
    }
    terms |= {(2, 6): -0.5, (4, 8): 0.7}
    monkeypatch.setattr(proxy_spex, "_ENUMERABLE", enumerable)
    assert proxy_spex.best_set(terms, 12, 3) == brute_force(terms, 12, 3)


def test_units_in_no_term_fill_the_set_up():
    assert proxy_spex.best_set({(5,): 1.0, (3, 5): 0.5}, 9, 4) == (0, 1, 2, 5)


@pytest.mark.parametrize("missing", ["shapiq", "lightgbm"])
def test_a_missing_package_is_one_line_before_any_work(monkeypatch, missing):
    monkeypatch.setattr(errors, "find_spec", lambda package: None if package == missing else object())
    table = TableScorer(9, lambda removed: -1.0)
    with pytest.raises(jopa.SettingError, match=rf"package {missing}: pip install 'jopa\[proxyspex\]'"):
        ProxySPEX().run(jopa.Problem(table), 2)
    assert table.asked == []


def test_it_finds_a_pair_that_only_both_carry():
    pytest.importorskip("shapiq")
    pytest.importorskip("lightgbm")
    table = TableScorer(12, lambda removed: -1.0 - 5.0 * (removed >= {2, 7}) - 0.1 * (4 in removed))
    selection = ProxySPEX(ablations=120).run(jopa.Problem(table), 2)
    assert set(selection.removed) == {2, 7}
    assert selection.details["predicted_effect"] == pytest.approx(5.0, abs=1.0)
    assert len(table.asked) == 120


def test_scores_that_are_all_alike_are_no_error():
    pytest.importorskip("shapiq")
    pytest.importorskip("lightgbm")
    selection = ProxySPEX().run(jopa.Problem(TableScorer(12, lambda removed: -5.0)), 3)
    assert selection.stop.startswith("the trees found no effect in 128 masks (shapiq: ")


def test_a_fault_of_the_packages_is_no_finding(monkeypatch):
    sparse = pytest.importorskip("shapiq.approximator.sparse")
    pytest.importorskip("lightgbm")

    def broken(*_, **__):
        raise ValueError("no such index")

    monkeypatch.setattr(sparse.ProxySPEX, "approximate", broken)
    with pytest.raises(ValueError, match="no such index"):
        ProxySPEX().run(jopa.Problem(TableScorer(12, lambda removed: -float(len(removed)))), 3)
