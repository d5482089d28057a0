"""What a run leaves in its folder, read back and checked: records of strangers are refused in one line."""

import json
import re

import pytest

from jopa.benchmark.records import CellKey, cell_key, read_run, read_searches
from jopa.errors import InputFileError
from jopa.json_values import encoded
from synthetic_run import cell, example, experiment, failed, session, write_run


def write_lines(path, *records):
    path.write_bytes(b"".join(encoded(record) + b"\n" for record in records))


def test_read_run_gives_the_last_record_of_each_key_in_first_order(tmp_path):
    cells = [failed("m", "a"), cell("m", "b"), failed("m", "c"), cell("m", "a", synergy=1.5)]
    write_run(tmp_path, experiment(["m"]), cells, sessions=[session(), session(kept=9)])
    run = read_run(tmp_path)
    assert run.experiment.title == "Table 1: made up"
    assert [started.data[0].kept for started in run.sessions] == [3, 9]
    assert list(run.examples) == [("tiny", "alpaca", name) for name in "abc"]
    assert [each.key.example for each in run.cells] == ["a", "b", "c"]
    assert [each.key.example for each in run.done] == ["a", "b"]
    assert run.done[0].synergy == 1.5
    assert [each.error for each in run.failed] == ["ScoringError: NaN"]
    assert cell_key(run.cells[1]) == CellKey("tiny", "alpaca", "b", "m", 3, 0)


def test_what_is_read_is_written_again_as_it_was(tmp_path):
    cells = [cell("m", "a", details={"deep": [1, {"b": None}]}, trace=[[0, -2.0, 1, 1.5]]), failed("m", "b")]
    run = read_run(write_run(tmp_path, experiment(["m"]), cells))
    assert [json.loads(encoded(each)) for each in run.cells] == cells


def test_read_run_of_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps(experiment(["m"])))
    run = read_run(tmp_path)
    assert (run.sessions, run.examples, run.cells) == ((), {}, ())


def test_read_run_of_what_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputFileError, match=r"holds no benchmark run: cannot read 'experiment.json'") as caught:
            read_run(folder)
        assert "jopa bench" in str(caught.value)
        assert str(folder) in str(caught.value)
    for text, message in (
        *(("{", "is no JSON"), ("[1]", "holds no JSON object"), ("\udcff", "is no JSON")),
        *(("{}", "the schema must be 1, got None"), ("[" * 100_000, "nested too deep"), ('{"a": NaN}', "not finite")),
        ('{"schema": 1}', "missing required field 'title'"),
    ):
        (tmp_path / "experiment.json").write_text(text, errors="surrogateescape")
        with pytest.raises(InputFileError, match=message) as caught:
            read_run(tmp_path)
        assert "experiment.json" in str(caught.value)


@pytest.mark.parametrize("part", ["models", "data", "methods", "ks", "seeds"])
def test_an_experiment_with_nothing_in_it_is_refused(tmp_path, part):
    (tmp_path / "experiment.json").write_text(json.dumps(experiment(["m"]) | {part: []}))
    with pytest.raises(InputFileError, match=rf"'.*experiment.json': .*length >= 1 .*{part}"):
        read_run(tmp_path)


BOMB: dict = {}
for _ in range(100):
    BOMB = {"a": BOMB}

HOSTILE_CELLS = [
    ({"schema": 99}, "schema must be 1, got 99"),
    ({"schema": True}, "schema must be 1, got True"),
    ({"schema": 1.0}, "schema must be 1, got 1.0"),
    ({"status": "maybe"}, "'maybe'"),
    ({"status": None}, "status"),
    ({"key": 3}, "key"),
    ({"key": {"model": "m"}}, "key"),
    ({"removed": [999, 0, 1]}, "'removed' must be different units below 9"),
    ({"removed": [1, 1, 2]}, "'removed' must be different units"),
    ({"removed": [-1, 1, 2]}, "removed"),
    ({"removed": [1]}, "'removed' must name k = 3 units"),
    ({"individual": [0.1]}, "'individual' must have 3 numbers, got 1"),
    ({"units": 12, "removed": [0, 1, 11]}, "its prompt of 9 units has not"),
    ({"scores": [1.0]}, "'scores' must have 9 numbers, got 1"),
    ({"log_prob": "low"}, "log_prob"),
    ({"log_prob": True}, "log_prob"),
    ({"log_prob": 7.0}, "log_prob"),
    ({"seconds": -1.0}, "seconds"),
    ({"metrics": {"pr": "0.5"}}, "metrics"),
    ({"metrics": None}, "metrics"),
    ({"certificate": "divine"}, "certificate"),
    ({"trace": [[0, -1.0]]}, "trace"),
    ({"details": BOMB}, "nested too deep"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_CELLS, ids=str)
def test_a_hostile_cell_is_one_line_with_file_and_number(tmp_path, change, message):
    write_run(tmp_path, experiment(["m"]), [cell("m"), cell("m", "p2")])
    write_lines(tmp_path / "cells.jsonl", cell("m"), cell("m", "p2") | change, cell("m", "p3"))
    with pytest.raises(InputFileError) as caught:
        read_run(tmp_path)
    assert message in str(caught.value)
    assert re.search(r"cells.jsonl'(, line 2: | is damaged: line 2)", str(caught.value))


@pytest.mark.parametrize("field", sorted(cell("m").keys() - {"scores", "details"}))
def test_a_cell_without_a_field_is_refused(tmp_path, field):
    write_run(tmp_path, experiment(["m"]), [cell("m")])
    broken = {name: value for name, value in cell("m").items() if name != field}
    write_lines(tmp_path / "cells.jsonl", broken)
    with pytest.raises(InputFileError, match=rf"cells.jsonl', line 1: .*{field}"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": {"text": "a", "ids": [1], "units": [{"text": "a", "start": 0, "end": 9, "positions": [0]}]}},
        {"prompt": {"text": "a", "ids": [1], "units": [{"text": "a", "start": 0, "end": 1, "positions": [5]}]}},
        {"prompt": {"text": "a", "ids": [1], "units": [{"text": "a", "start": 0, "end": 1}]}},
        {"output": {"text": "a", "ids": [1], "target": [0, 2]}},
        {"output": {"text": "a", "ids": [1], "target": [1, 1]}},
        {"output": {"text": "a", "ids": ["1"], "target": [0, 1]}},
        {"language_model": "gpt"},
        {"model": []},
        {"status": "maybe"},
    ],
    ids=str,
)
def test_a_hostile_example_is_one_line_with_file_and_number(tmp_path, change):
    write_run(tmp_path, experiment(["m"]), [], [example("p0"), example() | change])
    with pytest.raises(InputFileError, match=r"examples.jsonl', line 2: "):
        read_run(tmp_path)


def test_hostile_searches_and_sessions(tmp_path):
    write_lines(tmp_path / "selections.jsonl", {"model": "m"})
    with pytest.raises(InputFileError, match=r"selections.jsonl', line 1: .*data"):
        read_searches(tmp_path)
    write_run(tmp_path, experiment(["m"]), [cell("m")], sessions=[session(), session() | {"data": 3}])
    with pytest.raises(InputFileError, match=r"sessions.jsonl', line 2: .*data"):
        read_run(tmp_path)
