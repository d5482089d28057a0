"""Values that tie are ordered by rule: rounding decides nothing."""

import json
import math
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jopa
from jopa.methods.joint import gaussian_process
from jopa.methods.joint.gaussian_process import SubsetGP
from jopa.ordering import NAT, TOLERANCE, LowestSet, first_highest, first_lowest, is_lower, ranked, tolerance
from planted_runs import TABLES, run_table
from table_scorer import TableScorer

NOISE = 1e-9
values = st.lists(st.sampled_from([0.0, 0.1 + 0.2, 0.3, 1.0, 1 / 3, 2.0, -1.0, -0.3, 5.0]), min_size=1, max_size=12)


def noisy(numbers, seed):
    random = torch.Generator().manual_seed(seed)
    return (torch.tensor(numbers).double() + NOISE * torch.randn(len(numbers), generator=random)).tolist()


@given(values, st.integers(0, 99), st.one_of(st.none(), st.integers(0, 12)))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_noise_changes_no_order(numbers, seed, first):
    moved = noisy(numbers, seed)
    assert ranked(numbers, first, least_scale=NAT) == ranked(moved, first, least_scale=NAT)
    assert ranked(numbers)[: len(numbers) if first is None else first] == ranked(numbers, first)
    assert first_highest(moved) == first_highest(numbers) == ranked(numbers, least_scale=NAT)[0]
    assert first_lowest(moved) == first_lowest(numbers)


def test_the_lower_index_first_where_values_tie():
    assert ranked([1.0, 3.0, 1.0 + 1e-9, 3.0 + 1e-9, 2.0]) == [1, 3, 4, 0, 2]
    assert ranked([1.0, 3.0, 1.0 + 1e-9, 3.0 + 1e-9, 2.0], 2) == [1, 3]
    assert ranked([]) == ranked([1.0], 0) == []
    assert ranked([1e-9, 2e-9]) == [1, 0]  # of no known unit: the scale is their own
    assert ranked([1e-9, 2e-9], least_scale=NAT) == [0, 1]
    assert ranked([-math.inf, 1.0, -math.inf, 2.0]) == [3, 1, 0, 2]


def test_ties_do_not_grow_from_one_to_the_next():
    steps = [-0.6 * TOLERANCE * i for i in reversed(range(6))]
    assert ranked(steps, least_scale=NAT) == [4, 5, 2, 3, 0, 1]


def test_a_fall_is_more_than_rounding():
    assert is_lower(-2.001, -2.0)
    assert not is_lower(-2.0 - 1e-6, -2.0)
    assert not is_lower(-1e9 - 1.0, -1e9)
    assert tolerance(-3.0, 2.0) == 3 * TOLERANCE
    assert tolerance(0.1) == TOLERANCE
    assert tolerance(math.inf) == TOLERANCE


@given(st.permutations(list(combinations(range(5), 2))), st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_the_lowest_set_hangs_neither_on_the_order_of_scoring_nor_on_noise(order, seed):
    best = LowestSet()
    for units, noise in zip(order, noisy([0.0] * len(order), seed), strict=True):
        before = best.units
        assert best.add(frozenset(units), -1.0 - 0.5 * (3 in units) + noise) == (best.units != before)
    assert best.units == {0, 3}
    assert best.log_prob == pytest.approx(-1.5)


def test_the_lowest_set_leaves_those_that_no_longer_tie():
    best = LowestSet()
    assert best.add(frozenset({5}), -1.0)
    assert best.add(frozenset({2}), -1.0 + 0.9 * TOLERANCE)
    assert best.add(frozenset({7}), -1.0 - 0.5 * TOLERANCE)  # with this one the second no longer ties, the first does
    assert best.units == {5}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_noise_on_what_is_expected_changes_no_search(name, monkeypatch):
    """Gains and the lowest effects alone, with noise as if another processor had computed them."""
    expected = run_table(name)
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)

        def with_noise(function, random=random):
            def noisy(*arguments):
                value = function(*arguments)
                return value + NOISE * torch.randn(value.shape, generator=random, dtype=torch.double)

            return noisy

        with monkeypatch.context() as patched:
            gain, alone = gaussian_process.expected_improvement, SubsetGP.lowest_alone
            patched.setattr(gaussian_process, "expected_improvement", with_noise(gain))
            patched.setattr(SubsetGP, "lowest_alone", with_noise(alone))
            found = run_table(name)
        assert found == expected


class Noisy(TableScorer):
    """Every odd unit does the same; scores are as exact as a model's."""

    def __init__(self, seed):
        super().__init__(9, lambda removed: -3.0 - 0.1 * sum(unit % 2 for unit in removed))
        self.random = torch.Generator().manual_seed(seed)

    def log_probs(self, keep):
        scores = super().log_probs(keep).double()
        return scores + 1e-7 * torch.randn(scores.shape, generator=self.random)


@pytest.mark.parametrize("name", ["ablation", "greedy", "exhaustive", "joint"])
def test_noise_on_scores_changes_no_choice(name):
    for seed in range(5):
        problem = jopa.Problem(Noisy(seed))
        selection = jopa.make_method(name).run(problem, 2)
        assert sorted(selection.removed) == [1, 3]
        assert problem.certificate(selection.removed) == ("optimal" if name in ("exhaustive", "joint") else "none")


def test_who_watches_is_told_of_the_set_that_is_chosen():
    told = []
    problem = jopa.Problem(Noisy(0))
    problem.watch(2, told.append)
    selection = jopa.make_method("joint").run(problem, 2)
    assert told[-1].units == selection.removed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for each kind of kernels")
def test_every_processor_and_number_of_threads_gives_the_same():
    """Torch's own kernels for old processors, for AVX2, and for this machine; one thread and two."""
    script, source = Path(__file__).parent / "planted_runs.py", Path(jopa.__file__).parents[1]
    # Threads that wait must not spin: the test processes share the cores.
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, "PYTHONPATH": str(source), **threads}
    command = [sys.executable, str(script), "default", "avx2", "best"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found["best"]["capability"].startswith("AVX"):  # other processors have one kind of kernels for all three
        assert [found[name]["capability"] for name in ("default", "avx2")] == ["DEFAULT", "AVX2"]
    assert [len(it["runs"]) for it in found.values()] == [2, 2, 2]
    expected = found["best"]["runs"][0]
    for capability, it in found.items():
        for n_threads, runs in enumerate(it["runs"], start=1):
            assert runs.keys() == expected.keys()
            for name, run in runs.items():
                assert run == expected[name], (capability, n_threads, name)
