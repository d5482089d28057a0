"""Runs of a tiny benchmark, continued, grown and refused: every cell once, the same numbers always."""

import json
import multiprocessing
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import tiny_bench
from jopa.benchmark.cells import ModelCache
from jopa.benchmark.experiment import MethodSpec
from jopa.benchmark.records import read_run
from jopa.benchmark.run import RunProgress, run_bench, serial_map
from jopa.errors import InputFileError, ModelError, SettingError
from jopa.evaluation.regeneration import Evaluator
from jopa.method import Method, Ranking, RankingMethod, Selection
from jopa.methods import make_method
from jopa.model.loading import load
from jopa.reports.benchmark_report import without_retired
from jopa.storage import locked, read_lines
from tiny_bench import JOURNALS, cells, keys, model_of

pytestmark = pytest.mark.usefixtures("loaded")


# What a run leaves ----------------------------------------------------------------------------------------------------


def test_one_record_a_cell(reference, home):
    run = read_run(reference)
    expected = [
        ("tiny", "mine", f"p{number}", method.name, k, 0)
        for number in range(len(tiny_bench.PROMPTS))
        for method in tiny_bench.METHODS
        for k in (1, 2)
    ]
    assert keys(cells(reference)) == expected
    assert run.failed == ()
    assert [key[2] for key in run.examples] == ["p0", "p1", "p2", "p3"]
    assert run.plan == tiny_bench.experiment(home).to_dict()
    files = {"experiment.json", "lock", "sessions.jsonl", *(f"{name}.jsonl" for name in JOURNALS)}
    assert {path.name for path in reference.iterdir()} <= files


def test_a_record_says_what_was_done(reference):
    cell = next(cell for cell in cells(reference) if keys([cell])[0][2:5] == ("p0", "jopa", 2))
    example = read_run(reference).examples["tiny", "mine", "p0"]
    assert cell["method"] == make_method("jopa", steps=6).settings
    assert (cell["search_removal"], cell["removal"]) == ("zero", "delete")
    assert cell["removed_texts"] == [example.prompt.units[unit].text for unit in cell["removed"]]
    assert (cell["units"], cell["output_tokens"]) == (11, len(example.output.ids))
    assert cell["output"] == example.output.text
    assert cell["metrics"]["log_likelihood"] == cell["log_prob_removed"]
    assert cell["metrics"]["sentence_bert"] is None
    assert cell["ks"] == [2]
    assert len(cell["trace"]) == 7
    assert cell["trace"][-1][1] <= cell["trace"][0][1]
    assert cell["scores"] is None
    assert cell["evaluations"] > 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", cell["date"])
    assert cell["worker"].endswith(f":{os.getpid()}")
    assert example.language_model["dtype"] == "float32"
    (session,) = read_run(reference).sessions
    assert session.data[0].kept == session.data[0].read == 4
    assert session.machine["cores"] >= 1


def test_the_search_is_graded_under_the_removal_it_used(reference, llama):
    import jopa

    example = read_run(reference).examples["tiny", "mine", "p0"]
    prompt = jopa.build_prompt(llama.tokenizer, tiny_bench.PROMPTS[0])
    said = example.output
    output = jopa.Output(said.ids, said.text, said.target)
    for cell in cells(reference)[:8]:
        for removal, value in (
            (cell["search_removal"], cell["search_log_prob_removed"]),
            (cell["removal"], cell["log_prob_removed"]),
        ):
            problem = jopa.Problem(jopa.ModelScorer(llama, prompt, output, removal))
            assert value == pytest.approx(problem.log_prob(cell["removed"]), abs=1e-4)


def test_progress_counts_every_cell(home, tmp_path):
    seen: list[RunProgress] = []
    outcome = run_bench(tiny_bench.experiment(home, limit=2), tmp_path / "run", on_progress=seen.append)
    assert seen[0] == RunProgress(0, 0, 16)
    assert seen[-1] == RunProgress(
        16, 0, 16, answers=2, searches=len(read_lines(tmp_path / "run" / "selections.jsonl"))
    )
    assert [progress.searches for progress in seen if progress.answers and not progress.done][:3] == [0, 1, 2]
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (outcome.done, outcome.failed, outcome.before, outcome.left) == (16, 0, 0, 0)


def no_work(*_):
    pytest.fail("there was nothing to do")


def test_a_finished_run_has_nothing_to_do(home, tmp_path):
    wanted = tiny_bench.experiment(home, limit=1)
    run_bench(wanted, tmp_path)
    before = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in JOURNALS}
    outcome = run_bench(wanted, tmp_path, mapper=no_work)
    assert (outcome.done, outcome.failed, outcome.before) == (0, 0, 8)
    assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in JOURNALS} == before
    assert len(read_run(tmp_path).sessions) == 2


def test_additions_do_only_what_is_new(home, tmp_path):
    """A method, a k, a seed and a prompt more: no cell, no search, no output a second time."""
    first, second = make_method("random"), make_method("ablation")
    steps = [
        tiny_bench.experiment(home, [first], limit=1, ks=(1,)),
        tiny_bench.experiment(home, [first, second], limit=1, ks=(1,)),
        tiny_bench.experiment(home, [first, second], limit=1, ks=(1, 2)),
        tiny_bench.experiment(home, [first, second], limit=1, ks=(1, 2), seeds=(0, 5)),
        tiny_bench.experiment(home, [first, second], limit=3, ks=(1, 2), seeds=(0, 5)),
    ]
    known = 0
    for wanted, total in zip(steps, (1, 2, 4, 8, 24), strict=True):
        outcome = run_bench(wanted, tmp_path)
        assert (outcome.done, outcome.before) == (total - known, known)
        known = total
    found = keys(cells(tmp_path))
    assert len(found) == len(set(found)) == 24
    searches = [(*record.values(),)[:5] + tuple(record["ks"]) for record in read_lines(tmp_path / "selections.jsonl")]
    assert len(searches) == len(set(searches))
    assert len(read_lines(tmp_path / "examples.jsonl")) == 3
    assert len({cell["removed"][0] for cell in cells(tmp_path) if cell["key"]["method"] == "random"}) > 1


def test_part_of_an_experiment(home, tmp_path, reference):
    outcome = run_bench(tiny_bench.experiment(home), tmp_path, methods=["ablation", "random"], sets=["mine"])
    assert outcome.done == 16
    assert {cell["key"]["method"] for cell in cells(tmp_path)} == {"ablation", "random"}
    assert run_bench(tiny_bench.experiment(home), tmp_path).done == 16
    assert sorted(keys(cells(tmp_path))) == sorted(keys(cells(reference)))
    for option in ({"methods": ["nothing"]}, {"sets": ["nothing"]}):
        with pytest.raises(SettingError, match=r"the experiment has no .* 'nothing'"):
            run_bench(tiny_bench.experiment(home), tmp_path / "other", **option)


def test_what_is_left_out_again_does_not_count_in_reports(home, tmp_path):
    """A seed, a k and prompts of an earlier start; and all of them named again."""
    method = make_method("random")

    def shown(**settings):
        run_bench(tiny_bench.experiment(home, [method], **settings), tmp_path)
        run = without_retired(read_run(tmp_path))
        examples = {names[2] for names in run.examples}
        return {cell.key[4:] for cell in run.cells}, {cell.key.example for cell in run.cells}, examples

    every = {f"p{number}" for number in range(len(tiny_bench.PROMPTS))}
    _, (first,), _ = shown(limit=1, ks=(1, 2), seeds=(0, 1))
    assert shown(ks=(1, 2), seeds=(0,)) == ({(1, 0), (2, 0)}, every, every)
    assert shown(ks=(2,), seeds=(0,)) == ({(2, 0)}, every, every)
    assert shown(limit=1, ks=(2,), seeds=(1,)) == ({(2, 1)}, {first}, {first})
    assert shown(ks=(1, 2), seeds=(0,))[0] == {(1, 0), (2, 0)}
    run = without_retired(read_run(tmp_path))
    assert run.not_shown == ("seed 1",)


# Methods that share a run, and methods that fail ----------------------------------------------------------------------


@dataclass(frozen=True)
class Counted(RankingMethod):
    """Ranks the units from the last to the first."""

    name: ClassVar[str] = "counted"
    summary: ClassVar[str] = "counts its runs"
    cost: ClassVar[str] = "1"
    runs: ClassVar[list[int]] = []

    def rank(self, problem, *, seed=0):
        self.runs.append(seed)
        problem.log_prob([0])
        return Ranking(tuple(float(unit) for unit in range(problem.n_units)), "counted")


@dataclass(frozen=True)
class Faulty(Method):
    """Fails in its own way: a NaN among its details, or an error that is none of ours."""

    name: ClassVar[str] = "faulty"
    summary: ClassVar[str] = "fails"
    cost: ClassVar[str] = "0"
    how: str = "nan"

    def run(self, problem, k, *, seed=0):
        if self.how == "nan":
            return Selection((0,), "done", details={"error": float("nan")})
        raise ZeroDivisionError("a fault\nof two lines")


def test_one_ranking_answers_every_k(home, tmp_path):
    Counted.runs.clear()
    run_bench(tiny_bench.experiment(home, [Counted()], limit=2, ks=(3, 1, 2), seeds=(4, 5)), tmp_path)
    assert Counted.runs == [4, 5, 4, 5]  # two prompts, two seeds
    for cell in cells(tmp_path):
        assert cell["ks"] == [1, 2, 3]
        assert cell["evaluations"] == 2
        assert set(cell["removed"]) == {cell["units"] - 1 - i for i in range(cell["key"]["k"])}


def test_a_search_that_answers_one_k_runs_once_for_each(home, tmp_path):
    run_bench(tiny_bench.experiment(home, [make_method("greedy")], limit=1, ks=(1, 2)), tmp_path)
    assert [record["ks"] for record in read_lines(tmp_path / "selections.jsonl")] == [[1], [2]]


def test_failures_are_recorded_and_the_run_goes_on(home, tmp_path):
    too_large = MethodSpec("too large", make_method("exhaustive", limit=5), "delete")
    nan, fault = MethodSpec("nan", Faulty(), "delete"), MethodSpec("fault", Faulty("raise"), "delete")
    wanted = tiny_bench.experiment(home, [make_method("ablation"), make_method("random")], limit=2, ks=(1, 99))
    wanted = replace(wanted, methods=(too_large, nan, fault, *wanted.methods))
    outcome = run_bench(wanted, tmp_path)
    assert (outcome.done, outcome.failed) == (4, 16)
    done = {(cell.key.method, cell.key.k) for cell in read_run(tmp_path).done}
    assert done == {("ablation", 1), ("random", 1)}  # a k that fits does not suffer from one that does not
    reasons = {(cell.key.method, cell.key.k): cell.error for cell in read_run(tmp_path).failed}
    assert re.match(r"SettingError: k must be between 1 and the prompt's \d+ units, got 99", reasons["ablation", 99])
    assert reasons["fault", 1] == "ZeroDivisionError: a fault of two lines"
    assert reasons["nan", 1].startswith("ScoringError: method 'faulty' gave a selection that cannot be used: 'details'")
    assert "sets" in reasons["too large", 1]
    assert all("\n" not in reason for reason in reasons.values())

    again = run_bench(wanted, tmp_path, mapper=no_work)
    assert (again.done, again.failed, again.before, again.left) == (0, 0, 20, 16)
    retried = run_bench(wanted, tmp_path, retry_failed=True)
    assert (retried.done, retried.failed, retried.before, retried.left) == (0, 16, 4, 0)
    found = Counter(keys(cells(tmp_path)))
    assert Counter(found.values()) == {1: 4, 2: 16}
    assert len(read_run(tmp_path).cells) == 20


def test_retry_redoes_only_what_failed(home, tmp_path, monkeypatch):
    wanted = tiny_bench.experiment(home, [make_method("random"), Faulty("raise")], limit=2, ks=(1,))
    run_bench(wanted, tmp_path)
    first = cells(tmp_path)
    monkeypatch.setattr(Faulty, "run", lambda _self, _problem, k, *, seed=0: Selection((2,), "mended"))
    outcome = run_bench(wanted, tmp_path, retry_failed=True)
    assert (outcome.done, outcome.failed) == (2, 0)
    assert cells(tmp_path)[:4] == first
    assert {key[3] for key in keys(cells(tmp_path)[4:])} == {"faulty"}
    assert read_run(tmp_path).failed == ()
    assert len(read_run(tmp_path).cells) == 4


def test_a_set_that_cannot_be_evaluated_fails_alone(home, tmp_path, monkeypatch):
    """Whatever the error: one of torch's, which is none of ours, must not end the run."""
    evaluate = Evaluator.evaluate

    def out_of_memory(self, sets):
        if any(len(units) == 2 for units in sets):
            raise torch.OutOfMemoryError("no memory left")
        return evaluate(self, sets)

    monkeypatch.setattr(Evaluator, "evaluate", out_of_memory)
    wanted = tiny_bench.experiment(home, [make_method("ablation")], limit=2)
    outcome = run_bench(wanted, tmp_path)
    assert (outcome.done, outcome.failed) == (2, 2)
    assert all(cell.error == "OutOfMemoryError: no memory left" for cell in read_run(tmp_path).failed)
    monkeypatch.undo()
    monkeypatch.setattr("jopa.benchmark.cells.load", lambda source, **_: model_of(str(source)))
    monkeypatch.setattr(type(wanted.methods[0].method), "rank", no_work)  # the search itself is on record
    assert run_bench(wanted, tmp_path, retry_failed=True).done == 2


def test_a_prompt_that_does_not_fit_fails_alone(home, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"id": "long", "prompt": "rain " * 200})
        + "\n"
        + json.dumps({"id": "short", "prompt": tiny_bench.PROMPTS[0]})
    )
    wanted = tiny_bench.experiment(home, [make_method("random")])
    wanted = replace(wanted, data=(replace(wanted.data[0], path=str(tmp_path / "p.jsonl")),))
    outcome = run_bench(wanted, tmp_path / "run")
    assert (outcome.done, outcome.failed) == (2, 2)
    assert all("context of 128 tokens" in cell.error for cell in read_run(tmp_path / "run").failed)
    assert list(read_run(tmp_path / "run").examples) == [("tiny", "mine", "short")]


def test_a_model_that_cannot_be_loaded_ends_the_run(home, tmp_path, monkeypatch):
    monkeypatch.undo()
    wanted = tiny_bench.experiment(home)
    wanted = replace(wanted, models=(replace(wanted.models[0], id=str(tmp_path)),))
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        run_bench(wanted, tmp_path / "run")
    assert cells(tmp_path / "run") == []


def test_a_worker_holds_one_model_at_a_time(home, monkeypatch):
    loads = []
    monkeypatch.setattr("jopa.benchmark.cells.load", lambda source, **_: loads.append(source) or model_of(source))
    models, spec = ModelCache(), tiny_bench.experiment(home).models[0]
    assert models.model(spec) is models.model(replace(spec))
    other = models.model(replace(spec, id="other"))
    assert other.id == "other"
    assert loads == [spec.id, "other"]


# Refusals -------------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_changed_experiment_is_refused_and_leaves_the_folder_as_it_was(home, tmp_path):
    wanted = tiny_bench.experiment(home, [make_method("random")], limit=1)
    run_bench(wanted, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"mix results \(generation: .*max_new_tokens': 5.* became .*6"):
        run_bench(replace(wanted, max_new_tokens=6), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "p0", "prompt": "tell me"}, "example 'p0' of data set 'mine' is not the one on record; the data"),
        ({"id": "p0", "prompt": tiny_bench.PROMPTS[0], "system": "you think"}, "what stands around its prompt"),
    ],
)
def test_changed_data_are_refused(home, tmp_path, record, message):
    path = tmp_path / "p.jsonl"
    path.write_text((home / "prompts.jsonl").read_text())
    wanted = tiny_bench.experiment(home, [make_method("random")])
    wanted = replace(wanted, data=(replace(wanted.data[0], path=str(path)),))
    run_bench(wanted, tmp_path / "run")
    before = contents(tmp_path / "run")
    path.write_text("".join([json.dumps(record) + "\n", *path.read_text().splitlines(keepends=True)[1:]]))
    with pytest.raises(SettingError, match=message):
        run_bench(replace(wanted, ks=(1, 2, 3), title="new"), tmp_path / "run")
    after = contents(tmp_path / "run")
    assert {name: after[f"{name}.jsonl"] for name in JOURNALS} == {name: before[f"{name}.jsonl"] for name in JOURNALS}
    if "the data" in message:  # seen without a model, so that nothing at all has changed
        assert after == before


def test_another_model_under_the_same_name_is_refused(home, tmp_path, monkeypatch):
    wanted = tiny_bench.experiment(home, [make_method("random")], limit=1)
    run_bench(wanted, tmp_path)
    monkeypatch.setattr("jopa.benchmark.cells.load", lambda source, **_: replace(model_of(source), revision="another"))
    with pytest.raises(SettingError, match="come from another model \\(revision None, now another"):
        run_bench(replace(wanted, ks=(1, 2, 3)), tmp_path)
    assert len(cells(tmp_path)) == 2
    with pytest.raises(SettingError, match="come from another model"):  # also where all its prompts are new ones
        run_bench(tiny_bench.experiment(home, [make_method("random")], limit=2), tmp_path)
    assert len(cells(tmp_path)) == 2


def test_other_weights_in_the_same_folder_are_refused(home, tmp_path, monkeypatch):
    """As of a checkpoint that was trained further: a folder has no revision."""
    monkeypatch.setattr("jopa.benchmark.cells.load", load)
    shutil.copytree(home, tmp_path / "home")
    wanted = tiny_bench.experiment(tmp_path / "home", [make_method("random")], limit=1)
    run_bench(wanted, tmp_path / "run")
    weights = tmp_path / "home" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4000:-900] = bytes(3100)
    weights.write_bytes(data)
    with pytest.raises(SettingError, match="come from another model \\(weights "):
        run_bench(replace(wanted, ks=(1, 2, 3)), tmp_path / "run")
    path = tmp_path / "run" / "examples.jsonl"
    record = json.loads(path.read_text())
    del record["language_model"]["weights"]  # as older versions wrote it
    path.write_text(json.dumps(record) + "\n")
    assert run_bench(replace(wanted, ks=(1, 2, 3)), tmp_path / "run").done == 1


def test_a_folder_of_something_else_is_refused(home, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputFileError, match="is no benchmark run and not empty"):
        run_bench(tiny_bench.experiment(home), tmp_path)
    with pytest.raises(InputFileError, match="cannot make the folder"):
        run_bench(tiny_bench.experiment(home), tmp_path / "thesis.tex")


def test_a_run_killed_at_its_very_first_file_goes_on(home, tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / ".experiment.json.k1ll3d.partial").write_text('{"title": "half an exp')
    assert run_bench(tiny_bench.experiment(home, [make_method("random")], limit=1), tmp_path).done == 2


def test_two_runs_on_one_folder_at_once_are_refused(home, tmp_path):
    wanted = tiny_bench.experiment(home, [make_method("random")], limit=1)
    with locked(tmp_path), pytest.raises(InputFileError, match="another run is at work"):
        run_bench(wanted, tmp_path)
    seen = []

    def second(experiment, tasks):
        for line in serial_map(experiment, tasks):
            yield line
            child = multiprocessing.get_context("fork").Process(target=_refused, args=(wanted, tmp_path))
            child.start()
            child.join(30)
            seen.append(child.exitcode)

    assert run_bench(wanted, tmp_path, mapper=second).done == 2
    assert seen
    assert set(seen) == {17}


def _refused(wanted, folder) -> None:
    try:
        run_bench(wanted, folder)
    except InputFileError:
        os._exit(17)
    os._exit(1)
