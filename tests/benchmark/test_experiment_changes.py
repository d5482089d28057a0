"""How one version of an experiment follows another in the folder of a run."""

import json
from dataclasses import replace

import pytest
from experiment_files import WHOLE, on_record, read

from jopa.benchmark.experiment import DataSpec, Experiment, MethodSpec, merged
from jopa.benchmark.model_spec import ModelSpec
from jopa.errors import SettingError
from jopa.methods import make_method


@pytest.fixture
def old(tmp_path) -> Experiment:
    return read(tmp_path, WHOLE)


def after(before: Experiment, now: Experiment) -> dict:
    return merged(on_record(before), now.to_dict())


def test_the_same_again_changes_nothing(old):
    assert after(old, old) == on_record(old)


def test_a_data_set_without_a_prompt_on_record_may_change(old):
    moved = changed(old, "path")
    assert merged(on_record(old), moved.to_dict(), begun={"other"}) == on_record(moved)
    with pytest.raises(SettingError, match="mix results"):
        merged(on_record(old), moved.to_dict(), begun={"alpaca"})


def test_additions_are_allowed(old):
    new = replace(
        old,
        title="more",
        models=(*old.models, ModelSpec("third", "x/y")),
        data=(*old.data, DataSpec("aqua")),
        methods=(*old.methods, MethodSpec("random", make_method("random"), "delete")),
        ks=(1, 2, 3, 4),
        seeds=(0, 7, 8),
        baseline="ablation",
    )
    assert after(old, new) == on_record(new)


def test_what_changes_no_result_is_free(old):
    new = replace(
        old,
        models=(replace(old.models[0], device="cuda", batch_size=64), old.models[1]),
        data=(replace(old.data[0], limit=3), replace(old.data[1], limit=9)),
        methods=(replace(old.methods[0], ks=None), old.methods[1]),
    )
    assert after(old, new) == on_record(new)


def changed(old: Experiment, what: str) -> Experiment:
    first_model, first_data, first_method = old.models[0], old.data[0], old.methods[0]
    paper = make_method("jopa", initial="random", steps=21)
    changes = {
        "unit": {"unit": "line"},
        "removal": {"removal": "zero"},
        "max_new_tokens": {"max_new_tokens": 51},
        "sentence_bert": {"sentence_bert": True},
        "id": {"models": (replace(first_model, id="meta-llama/Llama-3"), old.models[1])},
        "revision": {"models": (replace(first_model, revision="def"), old.models[1])},
        "dtype": {"models": (replace(first_model, dtype=None), old.models[1])},
        "path": {"data": (replace(first_data, path="x.jsonl"), old.data[1])},
        "seed": {"data": (replace(first_data, seed=4), old.data[1])},
        "prefill": {"data": (replace(first_data, prefill=None), old.data[1])},
        "settings": {"methods": (replace(first_method, method=paper), old.methods[1])},
        "search removal": {"methods": (replace(first_method, removal="zero"), old.methods[1])},
        "name": {"methods": (replace(first_method, method=make_method("random")), old.methods[1])},
    }
    return replace(old, **changes[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("unit", "unit: 'word' became 'line'"),
        ("removal", "removal: 'hide' became 'zero'"),
        ("max_new_tokens", "generation: {'max_new_tokens': 50} became {'max_new_tokens': 51}"),
        ("sentence_bert", "sentence_bert: False became True"),
        ("id", "models 'llama-2-7b', id: 'meta-llama/Llama-2-7b-chat-hf' became 'meta-llama/Llama-3'"),
        ("revision", "models 'llama-2-7b', revision: 'abc' became 'def'"),
        ("dtype", "models 'llama-2-7b', dtype: 'float16' became None"),
        ("path", "data 'alpaca', path: None became 'x.jsonl'"),
        ("seed", "data 'alpaca', seed: 3 became 4"),
        ("prefill", "data 'alpaca', prefill: '' became None"),
        ("settings", "methods 'w/o initialization', settings: {'steps': 20"),
        ("search removal", "methods 'w/o initialization', removal: 'delete' became 'zero'"),
        ("name", "methods 'w/o initialization', name: 'jopa' became 'random'"),
    ],
)
def test_what_would_mix_results_is_refused(old, what, message):
    with pytest.raises(SettingError, match="changed in a way that would mix results") as caught:
        after(old, changed(old, what))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_differs_is_named(old):
    with pytest.raises(SettingError) as caught:
        after(old, replace(changed(old, "unit"), max_new_tokens=9, models=changed(old, "id").models))
    assert all(name in str(caught.value) for name in ("unit: ", "max_new_tokens", "models 'llama-2-7b', id"))


def test_a_folder_of_another_schema_is_refused(old):
    with pytest.raises(SettingError, match="schema: 2 became 1"):
        merged({**on_record(old), "schema": 2}, old.to_dict())


def test_what_is_left_out_stays_on_record_as_retired_and_may_return_only_as_it_was(old):
    less = replace(old, models=old.models[1:], data=old.data[1:], methods=old.methods[1:], baseline=None)
    retired = json.loads(json.dumps(after(old, less)))
    assert [entry["name"] for entry in retired["models"]] == ["bundled", "llama-2-7b"]
    for part, entry in (("models", old.models[0].name), ("data", "alpaca"), ("methods", "w/o initialization")):
        key = "label" if part == "methods" else "name"
        assert {item[key]: item.get("retired", False) for item in retired[part]}[entry] is True
        assert sum(item.get("retired", False) for item in retired[part]) == 1
    assert merged(retired, less.to_dict()) == retired  # and stays so
    assert merged(retired, old.to_dict()) == on_record(old)  # it comes back
    with pytest.raises(SettingError, match="methods 'w/o initialization', settings"):
        merged(retired, changed(old, "settings").to_dict())
    with pytest.raises(SettingError, match="models 'llama-2-7b', id"):
        merged(retired, changed(old, "id").to_dict())


def test_a_data_file_may_move_and_sets_that_are_not_worked_on_stay_as_they_are():
    old = {**dict.fromkeys(("schema", "unit", "removal", "generation", "sentence_bert")), "models": [], "methods": []}
    entries = [{"name": "a", "path": "here/a.jsonl", "seed": 0}, {"name": "b", "path": "here/b.jsonl", "seed": 0}]
    old["data"] = entries
    moved = {**old, "data": [{**entries[0], "path": "there/a.jsonl"}, {**entries[1], "path": None}]}
    assert merged(old, moved, ["a"])["data"] == [moved["data"][0], entries[1]]
    with pytest.raises(SettingError, match=r"data 'b', path: 'here/b\.jsonl' became None"):
        merged(old, moved)
    other = {**old, "data": [{**entries[0], "path": "here/other.jsonl"}, entries[1]]}
    with pytest.raises(SettingError, match="data 'a', path"):
        merged(old, other)
