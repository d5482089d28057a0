"""The table of costs: hand-made counters, no model; and the engine's own counters, on a tiny one."""

from dataclasses import replace

import pytest
import torch

import jopa
from jopa.scoring.profile import Profile, profile_table
from jopa.scoring.work import Work

WORK = Work(
    evaluations=1200,
    forwards=40,
    backwards=2,
    tokens=6000,
    padding=150,
    reused=2000,
    in_model=7.2,
    seconds={"prefix": 0.5, "scores": 5.5, "gradients": 1.5, "planning": 0.25},
)
PROFILE = Profile(WORK, ffe=73.125, repeats=104, seconds=16.0, loading=3.0, generating=4.0)


def test_every_second_belongs_to_one_phase():
    assert PROFILE.phases == {
        "loading": 3.0,
        "generating": 4.0,
        "scoring": 6.0,  # the prefix is part of it
        "gradients": 1.5,
        "planning": 0.25,
        "other": 1.25,
    }
    assert sum(PROFILE.phases.values()) == PROFILE.seconds


def test_shares_are_those_of_the_counters():
    assert PROFILE.padding == 150 / 6000
    assert PROFILE.saved == 2000 / 8000
    assert PROFILE.in_model == pytest.approx(7.2 / 9.0)  # 16 seconds less loading and generating


def test_the_table_says_all_of_it():
    assert profile_table(PROFILE).splitlines() == [
        "evaluations              1,200  104 repeats were free",
        "forwards                    40  and 2 backwards",
        "tokens processed         6,000  73.1 full forwards (FFE)",
        "tokens saved             2,000  25.0% of those needed, by shared beginnings",
        "padding                    150  2.5% of those processed",
        "loading                 3.00 s  18.8%",
        "generating              4.00 s  25.0%",
        "scoring                 6.00 s  37.5%",
        "gradients               1.50 s  9.4%",
        "planning                0.25 s  1.6%",
        "other                   1.25 s  7.8%",
        "all                    16.00 s  80.0% of search and evidence inside the model",
    ]
    assert all(len(line) <= 80 for line in profile_table(PROFILE).splitlines())


def test_fast_paths_that_were_not_taken_stand_at_the_end():
    profile = Profile(WORK, 1.0, 0, 1.0, slow_paths=("no cached beginning is reused: " + "it is wrong " * 8, "second"))
    lines = profile_table(profile).splitlines()
    assert lines[-1] == "slow path: second"
    assert lines[-3].startswith("slow path: no cached beginning is reused")
    assert all(len(line) <= 80 for line in lines)


def test_the_table_says_what_computed_the_linear_layers():
    profile = replace(PROFILE, products="plain (1), onednn-packed (16, 100, 400)")
    assert profile_table(profile).splitlines()[-1] == "linear layers by  plain (1), onednn-packed (16, 100, 400)"


def test_nothing_done_is_no_division_by_zero():
    table = profile_table(Profile(Work(), ffe=0.0, repeats=0, seconds=0.0))
    assert "nan" not in table
    assert len(table.splitlines()) == 11


def test_a_phase_the_table_does_not_know_is_shown_as_it_is():
    work = Work(seconds={"reading tea leaves": 2.0})
    assert Profile(work, 0.0, 0, seconds=3.0).phases["reading tea leaves"] == 2.0


def test_the_engine_counts_its_time_inside_the_model(llama):
    prompt = jopa.build_prompt(llama.tokenizer, "write a story about the doctor and his patient")
    scorer = jopa.ModelScorer(llama, prompt, jopa.Output((7, 8, 9), "", (0, 3)), "zero")
    keep = ~torch.eye(9, dtype=torch.bool)
    scorer.log_probs(keep)
    after_scores = scorer.work.in_model
    scorer.mask_gradient(keep[0])
    after_gradient = scorer.work.in_model
    scorer.attention()
    assert 0 < after_scores < after_gradient < scorer.work.in_model <= sum(scorer.work.seconds.values())
