"""Every kind of result has a page and a data frame, and one that nobody draws says so."""

import pytest

import jopa
from jopa.reports.views import result_frame, result_html
from jopa.results.result import Result


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
