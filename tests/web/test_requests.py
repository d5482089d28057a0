"""What may be requested of the page, and what is refused in a line."""

import pytest

import jopa
from jopa.methods import METHODS
from jopa.web.limits import RequestLimits
from jopa.web.requests import ChosenUnits, read_request
from table_scorer import TableScorer, redundant_pair

LIMITS = RequestLimits(characters=300, max_new_tokens=12, k=4, budget=30, seconds=60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  \n "}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": "x" * 20_000}, r"20,000 characters and this page takes at most 300"),
        ({"k": 0}, "k must be a whole number from 1 to 4"),
        ({"k": 2.0}, "k must be a whole number from 1 to 4"),
        ({"k": True}, "k must be a whole number from 1 to 4"),
        ({"max_new_tokens": 13}, "max_new_tokens must be a whole number from 1 to 12"),
        ({"budget": 31}, "budget must be a whole number from 1 to 30"),
        ({"unit": "../../etc/passwd"}, "unit must be one of auto, token"),
        ({"removal": ["delete"]}, "removal must be one of delete"),
        ({"methods": ["no-such"]}, "unknown method 'no-such'"),
        ({"methods": ["greedy", "greedy"]}, "two different ones"),
        ({"methods": "greedy"}, "list of names"),
        ({"output_ids": [3, 38, 39]}, "token ids below 39"),
        ({"output_ids": []}, "1 to 12 token ids"),
        ({"output_ids": [-1]}, "list of whole numbers"),
        ({"target": [3, 3]}, "must begin before it ends"),
        ({"units": []}, "no unit is taken out"),
        ({"units": ["1"]}, "list of whole numbers"),
        ({"x": {"path": "/etc/shadow", "meta": {"_type": "gradio.FileData"}}}, "no field 'x'; its fields are prompt"),
        ({"k": {"path": "/etc/shadow", "meta": {"_type": "gradio.FileData"}}}, "k must be a whole number"),
    ],
)
def test_a_request_out_of_range_is_refused_with_its_value_or_its_range(change, message):
    with pytest.raises(jopa.JopaError, match=message):
        read_request({"prompt": "a b", **change}, LIMITS, vocabulary=39)


def test_what_is_left_out_has_a_default():
    read = read_request({"prompt": "a b"}, RequestLimits(), vocabulary=39)
    assert (read.k, read.unit, read.removal, read.output_ids, read.target) == (None, "auto", None, None, None)
    assert read.methods == ()  # the one that fits the length of the prompt
    budgeted = read_request({"prompt": "a", "methods": ["jopa", "ablation"], "budget": 7}, LIMITS, 39)
    assert budgeted.methods[0] == METHODS["jopa"]().with_budget(7)
    assert budgeted.methods[1] == METHODS["ablation"]()  # its cost is fixed, so the budget is the other's


def test_by_hand_refuses_what_is_no_unit():
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    with pytest.raises(jopa.SettingError, match="units 0 to 5"):
        ChosenUnits((6,)).run(problem, 1)
    assert ChosenUnits((2, 5)).run(problem, 2).removed == (2, 5)
