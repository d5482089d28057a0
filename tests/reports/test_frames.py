"""Results as data frames: one row a unit."""

import sys
from dataclasses import replace

import pytest

import jopa
from report_pages import attribution

pandas = pytest.importorskip("pandas")


def test_an_attribution_is_a_row_a_unit():
    frame = attribution().to_frame()
    columns = ["unit", "text", "start", "end", "message", "document", "removed", "rank", "effect", "score"]
    assert list(frame.columns) == columns
    assert frame.message.isna().all() and frame.document.isna().all()
    assert list(frame.text) == ["Tell", " a", " story", " of", " doctors"]
    assert list(frame.removed) == [False, False, True, False, True]
    assert frame["rank"].isna().sum() == 3 and frame["rank"][4] == 1
    assert frame.effect[2] == 3.25 and frame.effect.isna().sum() == 3
    every = replace(attribution(), effects=(0.1, 0.2, 3.25, 0.4, 9.5), scores=(1.0, 2.0, 3.0, 4.0, 5.0)).to_frame()
    assert not every.effect.isna().any() and list(every.score) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_comparison_is_a_row_a_method_and_unit():
    other = replace(attribution(), method={"name": "other"})
    frame = jopa.to_frame([attribution(), other])
    assert len(frame) == 10
    assert list(frame.method.unique()) == ["some-search", "other"]


def test_half_a_surrogate_pair_of_a_record_becomes_an_escape():
    found = attribution()
    unit = replace(found.units[0], text="\ud83d")
    assert jopa.to_frame(replace(found, units=(unit, *found.units[1:]))).text[0] == "\\ud83d"


def test_without_pandas_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(jopa.SettingError, match="pip install pandas"):
        attribution().to_frame()


def test_pages_come_from_one_function():
    assert jopa.to_html(attribution()) == attribution().to_html()
    assert "<title>Mine</title>" in jopa.to_html([attribution(), attribution()], title="Mine")


def test_a_line_about_a_result_prints_no_control_characters():
    found = replace(attribution(), model={"id": "\x1b[31mred\u202e"}, method={"name": "\x07bell"})
    assert found.to_json() and "\\x1b[31mred\\u202e" in repr(found) and "\\x07bell" in repr(found)
