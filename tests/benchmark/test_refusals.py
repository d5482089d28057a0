"""A method refuses an example before the model answers it."""

from dataclasses import replace

import pytest

import tiny_bench
from jopa.benchmark import cells
from jopa.benchmark.experiment import MethodSpec
from jopa.benchmark.records import read_run
from jopa.benchmark.run import run_bench
from jopa.methods import make_method
from jopa.model.language_model import LanguageModel

pytestmark = pytest.mark.usefixtures("loaded")


@pytest.fixture
def answers(monkeypatch):
    """The number of ids of each prompt that the model answered."""
    answered: list[int] = []
    generate_ids = LanguageModel.generate_ids

    def counted(model, ids, *given, **how):
        answered.append(len(ids))
        return generate_ids(model, ids, *given, **how)

    monkeypatch.setattr(LanguageModel, "generate_ids", counted)
    return answered


def test_no_answer_is_generated_where_every_method_refuses(home, tmp_path, answers):
    wanted = tiny_bench.experiment(home, [make_method("exhaustive", limit=5)], limit=1, ks=(2, 99))
    outcome = run_bench(wanted, tmp_path)
    assert (outcome.done, outcome.failed, answers) == (0, 2, [])
    run = read_run(tmp_path)
    reasons = {cell.key.k: cell.error for cell in run.failed}
    assert "sets are more than the limit of 5" in reasons[2]
    assert "k must be between 1 and" in reasons[99]
    assert not run.examples


def test_the_cells_that_are_not_refused_are_done(home, tmp_path, answers):
    refusing = MethodSpec("refuses", make_method("exhaustive", limit=5), "delete")
    wanted = tiny_bench.experiment(home, [make_method("ablation")], limit=1, ks=(1, 99))
    outcome = run_bench(replace(wanted, methods=(refusing, *wanted.methods)), tmp_path)
    assert (outcome.done, outcome.failed, len(answers)) == (1, 3, 1)
    assert [(cell.key.method, cell.key.k) for cell in read_run(tmp_path).done] == [("ablation", 1)]


def test_a_search_on_record_is_evaluated_though_its_method_refuses_now(home, tmp_path, monkeypatch):
    wanted = tiny_bench.experiment(home, [make_method("ablation")], limit=1, ks=(1,))

    def stopped(*_):
        raise RuntimeError("the evaluation is stopped")

    with monkeypatch.context() as patch:
        patch.setattr(cells, "_evaluate_sets", lambda *_: stopped)
        assert run_bench(wanted, tmp_path).failed == 1
    monkeypatch.setattr(type(wanted.methods[0].method), "validate", stopped)
    assert run_bench(wanted, tmp_path, retry_failed=True).done == 1
