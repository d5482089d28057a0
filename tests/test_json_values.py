"""JSON that is checked as it is read, and values as JSON can hold them."""

import json

import numpy as np
import pytest
import torch

from jopa.json_values import MAX_DEPTH, encoded, json_value, parse_json, require_plain


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 200_000])
def test_deep_nesting_is_refused(depth):
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(opened * depth + "1" + closed * depth)
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="not finite"):
        require_plain([{"a": (float("nan"),)}])


def test_numbers_and_arrays_of_numpy_and_torch_are_python_s_own():
    theirs = {
        **{name: kind(2) for name, kind in (("a", np.int64), ("b", np.float32), ("c", np.longdouble), ("d", np.uint8))},
        **{"e": np.arange(2), "f": torch.ones(1, 2), "g": np.array(3), "h": np.bool_(True), "i": np.str_("é")},
    }
    ours = {"a": 2, "b": 2.0, "c": 2.0, "d": 2, "e": [0, 1], "f": [[1.0, 1.0]], "g": 3, "h": True, "i": "é"}
    assert json_value(theirs) == ours and repr(json_value(theirs)) == repr(ours)
    assert json.loads(encoded(theirs)) == ours


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": np.complex64(1)}, {"a": [float("nan")]}, {"a": np.array([np.inf])}, {("a", 1): 2}]
)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        encoded(json_value(value))


def test_a_value_inside_itself_is_refused():
    value: dict = {}
    value["itself"] = value
    with pytest.raises(ValueError, match="nested too deep"):
        json_value(value)
