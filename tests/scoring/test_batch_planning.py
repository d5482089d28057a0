"""Plans compute every row once, from beginnings that are really shared, at no more than the plain cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jopa.scoring.batch_planning import BatchLimits, plan


def leave_one_out(n):
    return ~np.eye(n, dtype=bool)


def cost(batches, visible, limits, compact, after):
    """Launches and tokens of a plan, in tokens."""
    width = [int(row.sum()) if compact else len(row) for row in visible]
    return sum(
        limits.launch + len(batch.rows) * (max(width[row] for row in batch.rows) + after - batch.start)
        for batch in batches
    )


def check(batches, visible, prefix_caches, limits, compact):
    """Every row once; every base there before its rows, and the same as they are as far as they share it."""
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(visible)))
    known = list(prefix_caches)
    for batch in batches:
        assert len(batch.rows) <= limits.rows
        for row, base_number in zip(batch.rows, batch.prefix_caches, strict=True):
            mine = np.flatnonzero(visible[row]) if compact else visible[row]
            base = np.flatnonzero(known[base_number]) if compact else known[base_number]
            assert len(base) >= batch.start
            assert (mine[: batch.start] == base[: batch.start]).all()
            assert batch.start == 0 or batch.start < len(mine)  # what predicts the first output token is computed
        if batch.keep:
            assert len(batch.rows) == 1
            known.append(visible[batch.rows[0]])
    assert sum(batch.keep for batch in batches) <= limits.new_caches


NOTHING = np.ones(0, dtype=bool)


@pytest.mark.parametrize("compact", [True, False])
def test_leave_one_out_costs_about_half_of_each_prompt(compact):
    visible = leave_one_out(100)
    limits = BatchLimits(rows=4, tokens=None, launch=0, new_caches=1)
    batches = plan(visible, [NOTHING], limits, compact=compact, after=0)
    check(batches, visible, [NOTHING], limits, compact)
    assert [batch.keep for batch in batches].count(True) == 1
    plain = 100 * (99 if compact else 100)
    assert cost(batches, visible, limits, compact, 0) < 0.55 * plain


def test_no_row_is_kept_where_that_saves_less_than_it_costs():
    visible = leave_one_out(10)
    for launch, kept in ((10, 1), (100, 0)):
        limits = BatchLimits(rows=10, tokens=None, launch=launch, new_caches=9)
        batches = plan(visible, [NOTHING], limits, compact=True, after=20)
        assert sum(batch.keep for batch in batches) == kept


def test_swaps_around_one_set_keep_a_row_for_each_way_they_go():
    visible = np.ones((0, 60), dtype=bool)
    removed = {10, 30, 50}
    for out in sorted(removed):
        for into in range(60):
            if into not in removed:
                row = np.ones(60, dtype=bool)
                row[[*(removed - {out}), into]] = False
                visible = np.vstack([visible, row])
    limits = BatchLimits(rows=8, tokens=None, launch=5, new_caches=20)
    batches = plan(visible, [NOTHING], limits, compact=True, after=10)
    check(batches, visible, [NOTHING], limits, True)
    assert cost(batches, visible, limits, True, 10) < 0.7 * len(visible) * 67


def test_rows_begin_with_the_given_base_that_is_most_like_them():
    visible = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]], dtype=bool)
    prefix_caches = [np.ones(1, dtype=bool), np.array([1, 0, 1, 0], dtype=bool), np.ones(6, dtype=bool)]
    limits = BatchLimits(rows=8, tokens=None, launch=0, new_caches=0)
    batches = plan(visible, prefix_caches, limits, compact=False, after=2)
    assert {batch.rows: (batch.prefix_caches, batch.start) for batch in batches} == {(0,): ((1,), 3), (1,): ((2,), 4)}
    batches = plan(visible, prefix_caches, limits, compact=True, after=2)
    assert {batch.rows: (batch.prefix_caches, batch.start) for batch in batches} == {(0,): ((1,), 2), (1,): ((2,), 4)}


def test_rows_of_different_bases_share_a_forward_where_that_costs_less():
    visible = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]], dtype=bool)
    prefix_caches = [NOTHING, np.array([1, 0, 1, 0], dtype=bool), np.ones(6, dtype=bool)]
    for launch, forwards in ((0, {(0,), (1,)}), (2, {(0, 1)})):
        batches = plan(visible, prefix_caches, BatchLimits(8, None, launch, 0), compact=False, after=2)
        assert {batch.rows for batch in batches} == forwards
        assert {number for batch in batches for number in batch.prefix_caches} == {1, 2}
        check(batches, visible, prefix_caches, BatchLimits(8, None, launch, 0), False)


def test_batches_hold_no_more_than_they_may():
    visible = leave_one_out(40)
    limits = BatchLimits(rows=100, tokens=200, launch=10, new_caches=0)
    batches = plan(visible, [NOTHING], limits, compact=True, after=11)
    assert {len(batch.rows) for batch in batches} == {4}
    one = plan(visible, [NOTHING], BatchLimits(rows=100, tokens=7, launch=10, new_caches=0), compact=True, after=11)
    assert [len(batch.rows) for batch in one] == [1] * 40  # a row larger than a batch still goes through


def test_rows_of_like_length_go_together():
    visible = np.ones((20, 50), dtype=bool)
    for row in range(20):
        visible[row, 1 : 1 + 40 * (row % 2)] = False
    limits = BatchLimits(rows=10, tokens=None, launch=5, new_caches=0)
    batches = plan(visible, [NOTHING], limits, compact=True, after=0)
    assert {batch.rows for batch in batches} == {tuple(range(0, 20, 2)), tuple(range(1, 20, 2))}


@given(data=st.data())
def test_any_rows_are_planned_well(data):
    n_positions = data.draw(st.integers(1, 12))
    row = st.lists(st.booleans(), min_size=n_positions, max_size=n_positions).filter(any)
    visible = np.array(data.draw(st.lists(row, min_size=1, max_size=12)), dtype=bool)
    extra = data.draw(st.lists(st.lists(st.booleans(), max_size=n_positions), max_size=3))
    prefix_caches = [NOTHING, *(np.array(base, dtype=bool) for base in extra)]
    limits = BatchLimits(
        rows=data.draw(st.integers(1, 5)),
        tokens=data.draw(st.none() | st.integers(1, 60)),
        launch=data.draw(st.integers(0, 20)),
        new_caches=data.draw(st.integers(0, 4)),
    )
    compact = data.draw(st.booleans())
    after = data.draw(st.integers(0, 5))
    batches = plan(visible, prefix_caches, limits, compact=compact, after=after)
    check(batches, visible, prefix_caches, limits, compact)
    plain = plan(visible, [NOTHING], BatchLimits(1, None, limits.launch, 0), compact=compact, after=after)
    assert cost(batches, visible, limits, compact, after) <= cost(plain, visible, limits, compact, after)


def test_no_rows_are_no_batches():
    assert plan(np.ones((0, 4), dtype=bool), [NOTHING], BatchLimits(3, None, 1, 1), compact=True, after=2) == []
