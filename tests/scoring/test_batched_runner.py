"""Several prompts at a time: every search has its own scores and its own count, whoever shares its forwards."""

import time

import pytest
import torch

import jopa
import tiny_bench
import tiny_models
from jopa.benchmark.run import batched_map, run_bench, serial_map
from jopa.choices import REMOVALS
from jopa.errors import ScoringError, SettingError
from jopa.methods import make_method
from jopa.scoring import batch_input
from jopa.scoring import batched_runner as runner_module
from jopa.scoring import forward as forward_module
from jopa.scoring.batched_runner import BatchedRunner
from jopa.scoring.probe import probe_of
from jopa.storage import read_lines
from slow_reference import keep_masks, reference

CASES = (  # of different lengths, before, in and behind the prompt
    (None, "write a story about the doctor and his patient", "once upon time there was a doctor"),
    ("please tell me what you think of green birds", "once upon time there was a day in the rain", "two people met"),
    ("in rain", "tell me what the people said of the doctor who met you", "that one day two people met his patient"),
)
CALLS = (
    [(), (0,), (1,), (2,), (3,), (4,), (5,)],
    [(1, 4)],
    [(1, 3), (2, 4), (1, 4)],
    [(0, 1, 2)],
    [(1, 5), (1, 2)],
)


def calls(case):
    """The sets that a search asks for; every case has others."""
    shift = CASES.index(case)
    return [[tuple(unit + shift for unit in removed) for removed in sets] for sets in CALLS]


@pytest.fixture
def parts(monkeypatch):
    """The parts of each forward that a batched runner runs."""
    seen = []

    def forward(model, parts):
        seen.append(parts)
        return batch_input.forward(model, parts)

    monkeypatch.setattr(runner_module, "forward", forward)
    return seen


def asked(model, case, removal, runner, n_calls=None, **settings):
    """What a search that asks for these sets, call by call, is told; and its scorer."""
    system, text, answer = case
    prompt = jopa.build_prompt(model.tokenizer, text, system=system if model.tokenizer.chat_template else None)
    ids = tuple(tiny_models.VOCABULARY.get(word, 0) for word in answer.split())
    output = jopa.Output(ids, answer, (0, len(ids)))
    scorer = jopa.ModelScorer(model, prompt, output, removal, runner=runner, **settings)
    scores = [scorer.log_probs(keep_masks(len(prompt.units), sets)) for sets in calls(case)[:n_calls]]
    yield case, prompt, output, scorer, scores


def by_case(found):
    """What was found for each case; searches of a batched runner end in any order."""
    return sorted(found, key=lambda it: CASES.index(it[0]))


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("chat", [True, False])
def test_scores_and_work_are_those_of_each_alone(tiny, removal, chat, parts):
    model = tiny if chat else tiny_models.language_model(tiny.id.removeprefix("tiny-"), chat=False)
    alone = [found for case in CASES for found in asked(model, case, removal, None)]
    runner = BatchedRunner(3)
    shared = by_case(runner.work(asked(model, case, removal, runner) for case in CASES))
    for (case, prompt, output, one, _), (*_, other, scores) in zip(alone, shared, strict=True):
        for sets, rows in zip(calls(case), scores, strict=True):
            for removed, row in zip(sets, rows, strict=True):
                expected = reference(model, prompt, output, removal, removed)
                assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0), (removal, removed)
        mine, theirs = one.work, other.work
        for count in ("evaluations", "forwards", "tokens", "padding", "reused"):
            assert getattr(mine, count) == getattr(theirs, count), count
    assert max(len(rows) for rows in parts) == 3
    begins = [{rows.begin for rows in group} for group in parts]
    assert max(map(len, begins)) > 1 or not probe_of(model).crops_caches, (
        "no forward had beginnings of different lengths"
    )


def test_which_forwards_are_shared_is_the_same_every_time(llama, parts):
    runs = []
    for _ in range(2):
        runner = BatchedRunner(2)
        list(runner.work(asked(llama, case, "delete", runner) for case in CASES))
        runs.append([[rows.tokens for rows in group] for group in parts])
        parts.clear()
    assert runs[0] == runs[1]
    assert max(map(len, runs[0])) == 2  # never more than there are members


def test_a_batch_size_holds_for_all_rows_of_a_forward(llama, parts):
    runner = BatchedRunner(3)
    list(runner.work(asked(llama, case, "delete", runner, batch_size=4) for case in CASES))
    sizes = [sum(len(rows.prefix_caches) for rows in group) for group in parts]
    assert max(sizes) == 4
    assert any(len(group) > 1 for group in parts)


def test_forwards_that_would_be_mostly_padding_stay_apart(llama, parts, monkeypatch):
    monkeypatch.setattr(forward_module, "LAUNCH_TOKENS", {"cpu": 0, "cuda": 0})
    runner = BatchedRunner(3)
    list(runner.work(asked(llama, case, "zero", runner) for case in CASES))
    assert all(len({rows.width for rows in group}) == 1 for group in parts)


def tight(monkeypatch, most):
    """Let memory suffice for so many rows in a forward."""
    sizes = []

    def forward(model, parts):
        sizes.append(sum(len(rows.prefix_caches) for rows in parts))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no room")
        return batch_input.forward(model, parts)

    monkeypatch.setattr(runner_module, "forward", forward)
    return sizes


def test_out_of_memory_together_is_no_reason_to_score_less_at_once_alone(llama, monkeypatch):
    alone = [scores for case in CASES for *_, scores in asked(llama, case, "hide", None)]
    most = 7  # the largest call of one search; what is kept apart from it by the planner is less
    sizes = tight(monkeypatch, most)
    runner = BatchedRunner(3)
    shared = by_case(runner.work(asked(llama, case, "hide", runner) for case in CASES))
    assert max(sizes) > most
    for one, (*_, scorer, other) in zip(alone, shared, strict=True):
        assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(one, other, strict=True))
        assert scorer._forward._batch_size is None


def test_out_of_memory_alone_halves_the_batch_of_that_search(llama, monkeypatch):
    alone = [scores for case in CASES for *_, scores in asked(llama, case, "zero", None)]
    tight(monkeypatch, 2)
    runner = BatchedRunner(3)
    shared = by_case(runner.work(asked(llama, case, "zero", runner) for case in CASES))
    for one, (*_, other) in zip(alone, shared, strict=True):
        assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(one, other, strict=True))


def test_out_of_memory_for_one_row_reaches_the_search_that_asked(llama, monkeypatch):
    tight(monkeypatch, 0)

    def careful(case):
        try:
            yield from asked(llama, case, "delete", runner)
        except ScoringError as error:
            yield str(error)

    runner = BatchedRunner(2)
    assert all("out of memory with one input" in said for said in runner.work(careful(case) for case in CASES))


def test_a_fault_of_sharing_itself_is_not_passed_over(llama, monkeypatch):
    def forward(model, parts):
        if len(parts) > 1:
            raise RuntimeError("shapes do not fit")
        return batch_input.forward(model, parts)

    monkeypatch.setattr(runner_module, "forward", forward)
    runner = BatchedRunner(3)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(runner.work(asked(llama, case, "zero", runner) for case in CASES))


def test_what_the_model_cannot_do_is_the_error_of_the_search_that_asked(tiny):
    """As of an output with a token that the model has not; the others go on."""
    table = tiny.model.get_input_embeddings().num_embeddings

    def beyond(case):
        prompt = jopa.build_prompt(tiny.tokenizer, case[1])
        output = jopa.Output((table + 5, 7), "no such token", (0, 2))
        try:
            jopa.ModelScorer(tiny, prompt, output, "delete", runner=runner).log_probs(
                keep_masks(len(prompt.units), [()])
            )
        except jopa.PromptError as error:
            yield error

    runner = BatchedRunner(3)
    others = [asked(tiny, case, "delete", runner) for case in (CASES[0], CASES[2])]
    found = list(runner.work([others[0], beyond(CASES[1]), others[1]]))
    assert sum(isinstance(it, jopa.PromptError) for it in found) == 1
    assert by_case(it for it in found if isinstance(it, tuple))[1][0] == CASES[2]


def test_an_error_ends_all_and_every_piece_of_work_cleans_up(llama):
    cleaned = []

    def piece(number):
        try:
            yield from asked(llama, CASES[number], "delete", runner, number + 1)
            raise RuntimeError(f"piece {number}")
        finally:
            cleaned.append(number)

    runner = BatchedRunner(3)
    with pytest.raises(RuntimeError, match="piece 0"):
        list(runner.work(piece(number) for number in range(3)))
    assert sorted(cleaned) == [0, 1, 2]
    assert len(list(runner.work(asked(llama, case, "delete", runner) for case in CASES))) == 3  # and it goes on


def test_a_clock_counts_what_a_piece_of_work_did_and_its_share_of_forwards(llama, monkeypatch):
    def slow(model, parts):
        time.sleep(0.05)
        return batch_input.forward(model, parts)

    monkeypatch.setattr(runner_module, "forward", slow)

    def timed(case, idle):
        start = runner.seconds()
        yield from asked(llama, case, "zero", runner)
        time.sleep(idle)
        yield runner.seconds() - start

    runner = BatchedRunner(2)
    started = time.perf_counter()
    *_, busy = (it for it in runner.work([timed(CASES[0], 0.0), timed(CASES[0], 0.3)]) if isinstance(it, float))
    all_seconds = time.perf_counter() - started
    assert busy > 0.3 + 0.025 * len(CALLS)
    assert busy < all_seconds - 0.025 * len(CALLS)


@pytest.mark.parametrize("size", [2, 3])
def test_a_benchmark_of_several_prompts_at_a_time_has_the_same_records(llama, tmp_path, size, parts):
    home = tiny_bench.save(tmp_path, llama)
    methods = [make_method("joint", budget=15), make_method("jopa", steps=6), make_method("ablation")]
    wanted = tiny_bench.experiment(home, methods)
    for name, mapper in (("alone", serial_map), ("shared", batched_map(size))):
        outcome = run_bench(wanted, tmp_path / name, mapper=mapper)
        assert (outcome.done, outcome.failed) == (4 * 3 * 2, 0)
    alone, shared = (
        {tuple(cell["key"].values()): cell for cell in read_lines(tmp_path / name / "cells.jsonl")}
        for name in ("alone", "shared")
    )
    assert alone.keys() == shared.keys()
    for key, cell in alone.items():
        for field in ("removed", "evaluations", "stop", "counterfactual_output"):
            assert cell[field] == shared[key][field], (key, field)
        assert cell["log_prob_removed"] == pytest.approx(shared[key]["log_prob_removed"], abs=1e-4)
        assert shared[key]["seconds"] > 0
    assert max(map(len, parts)) == size
    assert run_bench(wanted, tmp_path / "shared", mapper=batched_map(size)).before == 4 * 3 * 2


def test_settings_out_of_range():
    with pytest.raises(SettingError, match="at least 1 prompt"):
        BatchedRunner(0)
