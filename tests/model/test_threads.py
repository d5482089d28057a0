"""How many threads are used follows from the cores that are idle."""

import os

import psutil
import pytest
import torch

import jopa
from jopa.model import threads
from jopa.model.threads import follow_other_work, use_threads


@pytest.fixture
def machine(monkeypatch):
    """A machine whose cores are busy to these percentages, where torch would use as many threads as cores."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_in_use", None)

    def made(*percentages):
        monkeypatch.setattr(psutil, "cpu_percent", lambda **_: list(percentages))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(percentages))), raising=False)
        torch.set_num_threads(len(percentages))

    yield made
    torch.set_num_threads(before)


@pytest.fixture
def other_work(monkeypatch):
    """Sets how many cores other processes keep busy from now on; every forward looks."""
    monkeypatch.setattr(threads, "_PERIOD", 0.0)
    return lambda cores: monkeypatch.setattr(threads.OtherWork, "cores", lambda _self: cores)


@pytest.mark.parametrize(
    ("percentages", "expected"), [((1.0, 3.0), 2), ((99.0, 3.0), 1), ((99.0, 98.0), 1), ((99.0, 0.0, 0.0, 70.0), 2)]
)
def test_busy_cores_are_left_to_others(machine, percentages, expected):
    machine(*percentages)
    chosen = use_threads()
    assert chosen.n == torch.get_num_threads() == expected
    assert f"of {len(percentages)} cores were busy" in str(chosen)


def test_what_is_asked_for_is_done(machine, monkeypatch, other_work):
    machine(99.0, 99.0)
    assert str(use_threads(2)) == "2; as asked for"
    with pytest.raises(jopa.SettingError, match="threads must be at least 1, got 0"):
        use_threads(0)
    other_work(2.0)
    follow_other_work()
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert str(use_threads()) == "2; OMP_NUM_THREADS says so"


@pytest.mark.parametrize(("cores", "expected"), [(0.2, 4), (0.5, 3), (1.2, 3), (2.5, 1), (9.0, 1)])
def test_work_that_begins_later_is_left_its_cores(machine, other_work, cores, expected):
    machine(0.0, 0.0, 0.0, 0.0)
    chosen = use_threads()
    other_work(cores)
    follow_other_work()
    assert torch.get_num_threads() == chosen.n == expected
    other_work(0.0)
    follow_other_work()
    assert torch.get_num_threads() == 4
    assert str(chosen) == ("4; 0 of 4 cores were busy with other work" if expected == 4
                           else f"{expected} to 4; as many as cores were idle")  # fmt: skip


def test_scores_and_answers_follow_it(machine, other_work, llama):
    prompt = jopa.build_prompt(llama.tokenizer, "write a story about the doctor")
    scorer = llama.scorer(prompt, jopa.Output((5, 6), "a b", (0, 2)), "delete")
    machine(0.0, 0.0)
    use_threads()
    for work in (
        lambda: llama.generate_ids(prompt.ids, jopa.Generation(2)),
        lambda: scorer.log_probs(torch.ones(1, len(prompt.units), dtype=torch.bool)),
    ):
        for cores, expected in ((1.0, 1), (0.0, 2)):
            other_work(cores)
            work()
            assert torch.get_num_threads() == expected


def test_the_number_stays_where_nobody_let_it_be_chosen(machine, other_work):
    machine(0.0, 0.0)
    other_work(2.0)
    follow_other_work()
    assert torch.get_num_threads() == 2
