"""Prompts with an ambiguous word: the spans, the pairs, and the study that reads a run over them."""

import json
import runpy
from itertools import combinations
from pathlib import Path

import pytest

from jopa.benchmark.records import read_run
from jopa.datasets.ambiguous_words import REQUESTS, WORDS, ambiguous_prompts, jsonl_lines
from synthetic_run import cell, example, experiment, write_run

STUDY = Path(__file__).parents[2] / "analysis" / "ambiguous_words.py"


def test_each_word_stands_once_in_each_of_two_contexts():
    found = list(ambiguous_prompts(seed=3))
    assert len(found) == 2 * len(WORDS) >= 80
    assert len({prompt.id for prompt in found}) == len(found)
    for first, second in zip(found[::2], found[1::2], strict=True):
        word = first.text[slice(*first.word)]
        assert word == second.text[slice(*second.word)]
        assert first.text.split().count(word) == 1
        assert first.text[slice(*first.context)] != second.text[slice(*second.context)]
        assert first.text[: first.context[0]] == second.text[: second.context[0]]  # nothing else tells the senses apart
        assert first.text[first.context[1] :] == second.text[second.context[1] :]
    assert len({word for word, *_ in WORDS}) == len(WORDS)
    assert all(request.count("{}") == 2 for request in REQUESTS)


def test_the_seed_decides():
    assert list(ambiguous_prompts(seed=1)) == list(ambiguous_prompts(seed=1)) != list(ambiguous_prompts(seed=2))
    lines = [json.loads(line) for line in jsonl_lines(5, seed=1)]
    assert [line["id"] for line in lines] == [prompt.id for prompt in ambiguous_prompts(5, seed=1)]


def test_chance_is_the_share_of_all_sets():
    study = runpy.run_path(str(STUDY))
    word, context = {2}, {4, 5, 6}
    draws = [set(chosen) for chosen in combinations(range(9), 3)]
    share = sum(bool(chosen & word) and bool(chosen & context) for chosen in draws) / len(draws)
    assert study["pair_by_chance"](9, 1, 3, 3) == pytest.approx(share)


def test_mcnemar_by_hand():
    study = runpy.run_path(str(STUDY))
    own, other = [True] * 6 + [False], [False] * 5 + [True] * 2
    assert study["mcnemar"](own, other) == pytest.approx(2 * (1 + 6) / 2**6)  # 5 more, 1 fewer of 6
    assert study["mcnemar"](own, own) == 1.0


def test_a_run_is_answered(tmp_path):
    study = runpy.run_path(str(STUDY))
    prompts = list(ambiguous_prompts(6))
    cells, examples = [], []
    for prompt in prompts:
        words = prompt.text.split(" ")
        word = next(i for i in range(len(words)) if len(" ".join(words[:i])) + (i > 0) == prompt.word[0])
        examples.append(example(prompt.id, data="ambiguous", text=prompt.text))
        cells.append(cell("joint", prompt.id, data="ambiguous", k=2) | {"removed": [word, word + 1]})
        cells.append(cell("ablation", prompt.id, data="ambiguous", k=2) | {"removed": [0, word]})
    plan = experiment(["joint", "ablation"], data=("ambiguous",), ks=(2,))
    run = read_run(write_run(tmp_path, plan, cells, examples))
    printed = "\n".join(study["section"](run, {prompt.id: prompt for prompt in prompts}))
    assert "### tiny, k = 2, 6 prompts" in printed
    assert "| joint | 6 (100%) | 6 (100%) | 6 (100%) |" in printed
    assert "| ablation | 6 (100%) | 0 (0%) | 0 (0%) |" in printed
    assert "| 0.0312 |" in printed  # six against none: 2 / 2**6
