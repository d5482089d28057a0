"""Which rows are computed together, and which cached beginning each batch starts from.

A row is a prompt with some positions taken away. Sorted, rows form a tree: two rows are the same up to the first
position that one has and the other has not. The plan follows, from every branch, the way that most rows take; the row
at its end is computed first and alone, its cache kept, and every row that leaves this way later starts where it leaves
it. So a batch of leave-one-out masks costs about half of each prompt, and a branch pays for a cache of its own where
the tokens it saves outweigh the forward it costs. Every other row begins with the cache that goes furthest. The rest is
cut into batches of least cost: rows that start and end at like places go together, whatever cache each begins with.

Works on positions and numbers of tokens alone: no model, no ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold and what a forward costs.

    Attributes:
        rows: rows in a batch.
        tokens: tokens in a batch of more than one row, if that matters.
        launch: what a forward costs by itself, in tokens: weights are read once, whatever the number of rows.
        new_bases: rows whose cache may be kept.
    """

    rows: int
    tokens: int | None
    launch: int
    new_caches: int


@dataclass(frozen=True)
class Batch:
    """Rows to compute in one forward.

    Attributes:
        rows: their numbers.
        bases: the cached row that each of them begins with: those given come first, then those that this plan keeps, in
            order.
        start: how many tokens every row takes from its base.
        keep: the only row's cache is a base of later batches.
    """

    rows: tuple[int, ...]
    prefix_caches: tuple[int, ...]
    start: int
    keep: bool = False


@dataclass
class _PlannedRows:
    """Rows as the planner sees them, and the best base of each so far."""

    visible: Bool[np.ndarray, "rows positions"]
    tokens: Int[np.ndarray, "rows positions+1"]
    """How many tokens a row has before each position."""
    lengths: Int[np.ndarray, "rows"]
    base: Int[np.ndarray, "rows"] = field(init=False)
    start: Int[np.ndarray, "rows"] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        self.base = np.zeros(len(self.visible), dtype=int)
        self.start = np.zeros(len(self.visible), dtype=int)

    def shared(self, rows: Int[np.ndarray, "some"], base: Bool[np.ndarray, "extent"]) -> Int[np.ndarray, "some"]:
        """Tokens at the beginning of each row that a base has, too; the last token is always the row's own."""
        import numpy as np

        common = _same_at_first(self.visible[rows, : len(base)], base)
        return np.minimum(self.tokens[rows, common], self.tokens[rows, -1] - 1).clip(min=0)

    def use(self, rows: Int[np.ndarray, "some"], base: int, start: Int[np.ndarray, "some"]) -> None:
        """Let rows begin with a base where that is further than what they have."""
        better = start > self.start[rows]
        self.base[rows[better]], self.start[rows[better]] = base, start[better]


def plan(
    visible: Bool[np.ndarray, "rows positions"],
    prefix_caches: Sequence[Bool[np.ndarray, "_"]],
    limits: BatchLimits,
    *,
    compact: bool,
    after: int,
) -> list[Batch]:
    """Batches that compute every row once, those whose cache is kept first.

    Args:
        visible: which positions of the prompt each row has.
        bases: the same of rows whose caches are there, up to where each is known. The first is that of nothing, or of
            what all rows begin with.
        limits: what a batch may hold.
        compact: positions a row has not take no token (otherwise they are filled with something else).
        after: tokens behind the prompt, the same for all rows.
    """
    import numpy as np

    n_rows, n_positions = visible.shape
    tokens = np.zeros((n_rows, n_positions + 1), dtype=int)
    tokens[:, 1:] = visible.cumsum(axis=1) if compact else np.arange(1, n_positions + 1)
    rows = _PlannedRows(visible, tokens, tokens[:, -1] + after)
    everything = np.arange(n_rows)
    for number, base in enumerate(prefix_caches):
        rows.use(everything, number, rows.shared(everything, base))
    first = _kept_rows(rows, len(prefix_caches), limits)
    done = {row for batch in first for row in batch.rows}
    return first + _cheapest_batches(rows, [row for row in range(n_rows) if row not in done], limits)


def _kept_rows(rows: _PlannedRows, n_bases: int, limits: BatchLimits) -> list[Batch]:
    """Rows to compute alone, since what others save by starting from their caches is more than that costs."""
    import numpy as np

    kept: list[Batch] = []
    if len(rows.visible) < 2 or not limits.new_caches:
        return kept
    order = np.lexsort(rows.visible.T[::-1])
    ordered = rows.visible[order]
    common = _same_at_first(ordered[1:], ordered[:-1])
    groups = [(0, len(order))]
    while groups and len(kept) < limits.new_caches:
        first, last = groups.pop()
        spine, branches = _widest_way(common, first, last)
        groups += branches
        group = order[first:last]
        start = rows.shared(group, rows.visible[order[spine]])
        saved = (start - rows.start[group]).clip(min=0)
        saved[spine - first] = 0
        # Its own forward, and as a rule one more for those that begin with it and would have filled other batches.
        if saved.sum() > 2 * limits.launch:
            row = int(order[spine])
            kept.append(Batch((row,), (int(rows.base[row]),), int(rows.start[row]), keep=True))
            others = group != row
            rows.use(group[others], n_bases + len(kept) - 1, start[others])
    return kept


def _same_at_first(
    rows: Bool[np.ndarray, "some positions"], others: Bool[np.ndarray, "*some positions"]
) -> Int[np.ndarray, "some"]:
    """How many positions, from the first on, two rows have in common."""
    import numpy as np

    return np.logical_and.accumulate(rows == others, axis=1).sum(axis=1)


def _widest_way(common: Int[np.ndarray, "_"], first: int, last: int) -> tuple[int, list[tuple[int, int]]]:
    """From the branch of sorted rows [first, last): the row at the end of the way that most rows take, and the
    branches of several rows that leave it. `common[i]` is where rows i and i + 1 part."""
    branches = []
    while last - first > 1:
        middle = first + int(common[first : last - 1].argmin()) + 1
        without, having = (first, middle), (middle, last)
        wide, narrow = (having, without) if last - middle >= middle - first else (without, having)
        if narrow[1] - narrow[0] > 1:
            branches.append(narrow)
        first, last = wide
    return first, branches


def _cheapest_batches(rows: _PlannedRows, rest: list[int], limits: BatchLimits) -> list[Batch]:
    """These rows in batches of least cost, with the better of two ways to sort them."""
    lengths, start = rows.lengths, rows.start
    by_start = sorted(rest, key=lambda i: (start[i], lengths[i]))
    by_length = sorted(rest, key=lambda i: (lengths[i], start[i]))
    ways = [
        _partition(order, lengths[order].tolist(), start[order].tolist(), limits) for order in (by_start, by_length)
    ]
    parts = min(ways, key=lambda way: way[0])[1]
    return [Batch(tuple(part), tuple(rows.base[part].tolist()), int(start[part].min())) for part in parts]


def _partition(
    order: list[int], ends: list[int], starts: list[int], limits: BatchLimits
) -> tuple[int, list[list[int]]]:
    """Cut a sequence of rows where that costs least: (cost in tokens, parts). A batch costs one launch, and for each
    of its rows the distance from the first start to the last end."""
    best = [0]
    cut = [0]
    for last in range(1, len(order) + 1):
        cheapest, where = None, last - 1
        begin, end = starts[last - 1], ends[last - 1]
        for first in range(last - 1, max(-1, last - 1 - limits.rows), -1):
            begin, end = min(begin, starts[first]), max(end, ends[first])
            size = (last - first) * (end - begin)
            if limits.tokens is not None and size > limits.tokens and last - first > 1:
                break
            cost = best[first] + limits.launch + size
            if cheapest is None or cost < cheapest:
                cheapest, where = cost, first
        assert cheapest is not None
        best.append(cheapest)
        cut.append(where)
    parts = []
    last = len(order)
    while last:
        parts.append(order[cut[last] : last])
        last = cut[last]
    return best[-1], parts[::-1]
