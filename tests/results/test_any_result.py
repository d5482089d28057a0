"""Every kind of result has a page and a data frame, and one that nobody draws says so."""

import json
from dataclasses import replace

import pytest

import jopa
from jopa.reports.views import result_frame, result_html
from jopa.results.result import Result
from jopa.results.text_attribution import TextUnit


class Stranger(Result):
    """A result that no report knows."""

    def to_dict(self):
        return {}

    @classmethod
    def from_dict(cls, record):
        return cls()


def test_every_result_is_one_of_those_that_reports_know():
    kinds = {
        jopa.Attribution,
        jopa.TextAttribution,
        jopa.PromptComparison,
        jopa.Diagnosis,
        jopa.Citations,
        jopa.Verdict,
    }
    assert {kind for kind in Result.__subclasses__() if kind.__module__.startswith("jopa.")} == kinds


@pytest.mark.parametrize("view", [result_html, result_frame])
def test_a_kind_that_reports_do_not_know_is_named(view):
    with pytest.raises(TypeError, match="known for Stranger"):
        view(Stranger())


def text_attribution():
    """What a model that gives texts alone may have shown, written down by hand."""
    return jopa.TextAttribution(
        model={"id": "m"},
        prompt="a b",
        units=(TextUnit("a", 0, 1), TextUnit("b", 2, 3)),
        output="o",
        removal="delete",
        k=1,
        removed=(0,),
        measure="rouge",
        similarity=1.0,
        similarity_removed=0.5,
        noise=0.0,
        individual=(0.5,),
        synergy=0.0,
        counterfactual_output="x",
        method={"name": "joint"},
        seed=0,
        evaluations=1,
        ffe=1.0,
        seconds=1.0,
        stop="all sets scored",
        certificate="none",
        versions={},
    )


def test_a_comparison_by_text_similarity_is_read_back():
    pair = (text_attribution(), replace(text_attribution(), seed=5))
    text = jopa.comparison_json(pair)
    assert json.loads(text)["objective"] == "text-similarity"
    assert jopa.comparison_from_json(text) == pair
    with pytest.raises(jopa.InputFileError, match="unknown objective: 'log-likelihood'"):
        jopa.comparison_from_json(text.replace('"objective": "text-similarity"', '"objective": "log-likelihood"', 1))
