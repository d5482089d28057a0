"""The planted problems of `jopa.testing`, and a problem of one of them."""

import jopa
from jopa.testing import TableScorer, TableWhiteBoxScorer, best_sets, redundant_pair
from jopa.testing.table_scorers import LogProb

__all__ = ["TableScorer", "TableWhiteBoxScorer", "best_sets", "problem", "redundant_pair"]


def problem(n_units: int, log_prob: LogProb) -> jopa.Problem:
    return jopa.Problem(TableWhiteBoxScorer(n_units, log_prob))
