"""Experiment files: everything they may hold, and every way to get them wrong."""

import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from experiment_files import SMALL, WHOLE, on_record, read

from jopa.benchmark.experiment import DataSpec, Experiment, MethodSpec, merged, read_experiment
from jopa.benchmark.model_spec import ModelSpec
from jopa.datasets.sources import DATASETS
from jopa.errors import InputFileError, SettingError
from jopa.methods import make_method

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def test_the_whole_form(tmp_path):
    paper = make_method("jopa", initial="random", steps=20)
    ablation = make_method("ablation")
    experiment = read(tmp_path, WHOLE)
    assert experiment == Experiment(
        title="Table 1: faithfulness at k = 3",
        models=(
            ModelSpec("llama-2-7b", "meta-llama/Llama-2-7b-chat-hf", "abc", "cpu", "float16", 4),
            ModelSpec("bundled"),
        ),
        data=(
            DataSpec("alpaca", limit=110, seed=3, prefill=""),
            DataSpec("mine", path=str(tmp_path / "prompts/mine.jsonl")),
        ),
        methods=(
            MethodSpec("w/o initialization", paper, "delete", (5, 2)),
            MethodSpec("ablation", ablation, ablation.preset_removal),
        ),
        ks=(3, 1),
        seeds=(0, 7),
        unit="word",
        removal="hide",
        baseline="w/o initialization",
        max_new_tokens=50,
        sentence_bert=False,
    )
    assert experiment.ks_of(experiment.methods[0]) == (2, 5)
    assert experiment.ks_of(experiment.methods[1]) == (1, 3)


def test_defaults(tmp_path):
    experiment = read(tmp_path, SMALL)
    assert experiment.models == (ModelSpec("bundled", None, None, None, None, None),)
    assert experiment.data == (DataSpec("alpaca", None, None, 0, None),)
    assert experiment.methods == (MethodSpec("random", make_method("random"), "delete", None),)
    assert (experiment.seeds, experiment.unit, experiment.removal) == ((0,), "token", "delete")
    assert (experiment.baseline, experiment.max_new_tokens, experiment.sentence_bert) == (None, 100, True)


def test_a_method_searches_with_its_own_removal_by_default(tmp_path):
    paper = read(tmp_path, SMALL.replace('"random"', '"jopa"')).methods[0]
    assert paper.removal == "zero"  # the paper's search; its evaluation deletes


def test_a_file_saved_with_a_byte_order_mark(tmp_path):
    assert read(tmp_path, "\ufeff" + SMALL).title == "t"


def test_an_absolute_path_stays(tmp_path):
    text = SMALL.replace('name = "alpaca"', 'name = "mine"\npath = "/data/p.jsonl"')
    assert read(tmp_path, text).data[0].path == "/data/p.jsonl"


METHOD = '[[methods]]\nname = "random"\n'

MISTAKES = [
    # of the file's own entries
    ("", "title = 3", "'title' of the experiment must be of type str, got 3"),
    ("", "kss = [1]", "the experiment has no entry 'kss': it may have title, models"),
    ("title", None, "the experiment lacks 'title'"),
    ("ks", None, "the experiment lacks 'ks'"),
    ("ks", "ks = 3", "'ks' of the experiment must be of type list, got 3"),
    ("ks", "ks = []", "needs at least one entry under 'ks'"),
    ("ks", "ks = [0]", "each of 'ks' must be at least 1, got 0"),
    ("ks", "ks = [1.5]", "'ks' must be whole numbers, got 1.5"),
    ("ks", "ks = [true]", "'ks' must be whole numbers, got True"),
    ("ks", "ks = [2, 2]", "'2' stands twice under 'ks'"),
    ("", "seeds = []", "needs at least one entry under 'seeds'"),
    ("", "seeds = ['0']", "'seeds' must be whole numbers, got '0'"),
    ("", "seeds = [1, 1]", "'1' stands twice under 'seeds'"),
    ("", "seeds = [-1]", "each of 'seeds' must be from 0 to 4294967295, got -1"),
    ("", "seeds = [0, 4294967296]", "each of 'seeds' must be from 0 to 4294967295, got 4294967296"),
    ("", "unit = 'letter'", "'unit' must be one of token, word, sentence, line, paragraph, auto, got 'letter'"),
    ("", "removal = 'burn'", "unknown removal 'burn': choose one of delete, zero, hide"),
    ("", "baseline = 'joint'", "'baseline' must be the label of a method (random), got 'joint'"),
    ("", "max_new_tokens = 0", "'max_new_tokens' must be at least 1, got 0"),
    ("", "max_new_tokens = true", "'max_new_tokens' of the experiment must be of type int, got True"),
    ("", "sentence_bert = 1", "'sentence_bert' of the experiment must be of type bool, got 1"),
    ("", "models = []", "needs at least one entry under 'models'"),
    # of models
    ("end", "[[models]]\nid = 'x'", "[[models]] 1 lacks 'name'"),
    ("end", "[[models]]\nname = 'x'\n[[models]]\nname = 'x'", "'x' stands twice under 'models'"),
    ("end", "[[models]]\nname = 'x'\ngpu = 1", "[[models]] 1 has no entry 'gpu'"),
    ("end", "[[models]]\nname = 'x'\nid = 7", "'id' of [[models]] 1 must be of type str, got 7"),
    ("end", "[[models]]\nname = 'x'\nbatch_size = 0", "'batch_size' of model 'x' must be at least 1, got 0"),
    ("end", "[models]\nname = 'x'", "'models' of the experiment must be of type list"),
    ("end", "[[models]]\nname = ''", "an entry under 'models' has the name ''"),
    # of data
    ("end", "[[data]]\nname = ''\npath = 'x'", "an entry under 'data' has the name ''"),
    ("data", "data = [3]", "'data' must be tables: write [[data]]"),
    ("data", None, "the experiment lacks 'data'"),
    ("end", "[[data]]\nname = 'alpaca'", "'alpaca' stands twice under 'data'"),
    ("end", "[[data]]\npath = 'x'", "[[data]] 2 lacks 'name'"),
    ("end", "[[data]]\nname = 'x'\nlimit = 0", "the limit of data set 'x' must be at least 1, got 0"),
    ("end", "[[data]]\nname = 'x'\nlimit = '5'", "'limit' of [[data]] 2 must be of type int, got '5'"),
    ("end", "[[data]]\nname = 'x'\nsplit = 'train'", "[[data]] 2 has no entry 'split'"),
    # of methods
    ("end", METHOD + "label = ''", "an entry under 'methods' has the name ''"),
    ("methods", None, "the experiment lacks 'methods'"),
    ("end", METHOD, "'random' stands twice under 'methods'"),
    ("end", "[[methods]]\nlabel = 'x'", "[[methods]] 2 lacks 'name'"),
    ("end", "[[methods]]\nname = 'guess'", "unknown method 'guess': choose one of"),
    ("end", METHOD + "label = 'x'\nbudget = 3", "[[methods]] 2 has no entry 'budget'"),
    ("end", METHOD + "label = 'x'\nremoval = 'burn'", "unknown removal 'burn': choose one of delete, zero, hide"),
    ("end", METHOD + "label = 'x'\nks = []", "'ks' of method 'x' must be different numbers, got []"),
    ("end", METHOD + "label = 'x'\nks = [2, 2]", "'ks' of method 'x' must be different numbers, got [2, 2]"),
    ("end", METHOD + "label = 'x'\nks = [-1]", "each of 'ks' must be at least 1, got -1"),
    ("end", METHOD + "label = 'x'\nks = ['a']", "'ks' of 'random' must be whole numbers, got 'a'"),
    ("end", METHOD + "label = 'x'\nsettings = 3", "'settings' of [[methods]] 2 must be of type dict, got 3"),
    ("end", METHOD + "label = 'x'\nsettings = {a = 1}", "method 'random' has no setting 'a'"),
    ("end", METHOD + "label = 'x'\nsettings = {name = 'y'}", "settings of method 'random' have no entry 'name'"),
    ("end", METHOD + "label = 'x'\nsettings = {budget = 5}", "method 'random' takes no budget"),
    ("end", "[[methods]]\nname = 'jopa'\nsettings = {steps = 'x'}", "setting 'steps' of method 'jopa'"),
    ("end", "[[methods]]\nname = 'jopa'\nsettings = {steps = -1}", "steps must be at least 0, got -1"),
    ("end", "[[methods]]\nname = 'jopa'\nsettings = {budget = 'x'}", "the budget of method 'jopa' must be"),
]


def spoilt(where: str, line: str | None) -> str:
    """The small experiment with a line more at its top or end, or instead of an entry."""
    if where == "end":
        return f"{SMALL}{line}\n"
    if where in ("data", "methods"):
        kept = re.sub(rf"\[\[{where}\]\]\nname = .*\n", "", SMALL)
        return f"{line or ''}\n{kept}"
    kept = "".join(text + "\n" for text in SMALL.splitlines() if not where or not text.startswith(f"{where} ="))
    if line and line.startswith("title"):
        kept = kept.replace('title = "t"\n', "")
    return f"{line or ''}\n{kept}"


@pytest.mark.parametrize(("where", "line", "message"), MISTAKES, ids=[str(mistake[1:]) for mistake in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_entry(tmp_path, where, line, message):
    text = spoilt(where, line)
    tomllib.loads(text)  # it is TOML: what is wrong is what it says
    with pytest.raises(SettingError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "x.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_a_record_cannot_hold_are_refused(tmp_path):
    """A folder whose experiment holds NaN could not be read again."""

    @dataclass(frozen=True)
    class Weighted(type(make_method("random"))):
        weight: float = 1.0

    wanted = read(tmp_path, SMALL)
    spec = replace(wanted.methods[0], method=Weighted(weight=float("nan")))
    with pytest.raises(SettingError, match="holds what a record cannot hold: Out of range"):
        replace(wanted, methods=(spec,))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputFileError, match=r"cannot read '.*nowhere\.toml': No such file"):
        read_experiment(tmp_path / "nowhere.toml")
    with pytest.raises(InputFileError, match="Is a directory"):
        read_experiment(tmp_path)
    (tmp_path / "x.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(InputFileError, match="is no TOML"):
        read_experiment(tmp_path / "x.toml")
    with pytest.raises(InputFileError, match="is no TOML"):
        read(tmp_path, "title = ")


def test_overrides(tmp_path):
    plain = read(tmp_path, WHOLE)
    assert read(tmp_path, WHOLE, limit=2).data == tuple(replace(spec, limit=2) for spec in plain.data)
    assert read(tmp_path, WHOLE, prefill="Sure").data == tuple(replace(spec, prefill="Sure") for spec in plain.data)
    assert read(tmp_path, WHOLE, prefill="").data[1].prefill == ""
    assert read(tmp_path, WHOLE, max_new_tokens=7) == replace(plain, max_new_tokens=7)
    assert read(tmp_path, WHOLE, model="bundled").models == (ModelSpec("bundled"),)
    assert read(tmp_path, WHOLE, model="org/small").models == (ModelSpec("small", "org/small"),)
    assert read(tmp_path, WHOLE, data={"alpaca": "a.jsonl"}).data == (
        replace(plain.data[0], path="a.jsonl"),
        plain.data[1],
    )
    assert read(tmp_path, WHOLE, data={}) == plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "'max_new_tokens' must be at least 1, got 0"),
    ],
)
def test_overrides_out_of_range(tmp_path, overrides, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        read(tmp_path, WHOLE, **overrides)


def test_the_record_spells_everything_out_and_is_json(tmp_path):
    paper = make_method("jopa", initial="random", steps=20)
    record = read(tmp_path, WHOLE).to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["schema"] == 1
    assert record["generation"] == {"max_new_tokens": 50}
    assert record["ks"] == [3, 1]
    assert record["methods"] == [
        {
            "label": "w/o initialization",
            "name": "jopa",
            "removal": "delete",
            "ks": [5, 2],
            "settings": {name: value for name, value in paper.settings.items() if name != "name"},
        },
        {"label": "ablation", "name": "ablation", "removal": "delete", "ks": None, "settings": {}},
    ]
    assert record["models"][1] == {
        **dict.fromkeys(("id", "revision", "device", "dtype", "batch_size")),
        **dict.fromkeys(("endpoint", "api", "tokenizer", "key_variable", "template_args")),
        **dict.fromkeys(("plain", "trust_remote_code"), False),
        "name": "bundled",
    }


def test_bundled_is_an_id_in_a_file_as_on_the_command_line(tmp_path):
    text = 'title = "t"\nks = [1]\n[[models]]\nname = "m"\nid = "bundled"\n[[data]]\nname = "alpaca"\n'
    assert read(tmp_path, text + '[[methods]]\nname = "random"\n').models[0].id is None


def test_there_are_experiments():
    assert len(FILES) >= 11


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiments_of_this_repository(path):
    experiment = read_experiment(path, limit=2, model="bundled")
    assert experiment.title
    assert all(spec.path or spec.name in DATASETS for spec in experiment.data)
    assert merged(on_record(experiment), experiment.to_dict()) == on_record(experiment)


def test_a_data_set_of_ones_own_may_be_added(tmp_path):
    data = read(tmp_path, SMALL, data={"alpaca": "a.jsonl", "dolly": "x.jsonl"}, limit=3).data
    assert data == (DataSpec("alpaca", "a.jsonl", limit=3), DataSpec("dolly", "x.jsonl", limit=3))
