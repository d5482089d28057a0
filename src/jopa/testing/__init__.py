"""For authors of methods: scorers without a model, planted problems, and the checks that every method must pass.

from jopa.testing import check_method

def test_my_method():
    check_method(MyMethod())
"""

from jopa.testing.checks import check_method
from jopa.testing.planted import PLANTED, PlantedProblem, best_sets, redundant_pair
from jopa.testing.table_scorers import TableScorer, TableWhiteBoxScorer

__all__ = [
    "PLANTED",
    "PlantedProblem",
    "TableScorer",
    "TableWhiteBoxScorer",
    "best_sets",
    "check_method",
    "redundant_pair",
]
