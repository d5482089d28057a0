"""Which rows are computed together, and which cached beginning each batch starts from.

A row is a prompt without some positions. Sorted, rows form a tree: two rows are equal up to the first position that
only one of them has. From every branch the plan follows the path that most rows share; the row at its end is computed
first and alone, its cache is kept, and every row that leaves the path later starts there. So a batch of leave-one-out
masks costs about half of each prompt. A branch gets a cache of its own where that saves more tokens than its forward
costs. Every other row begins with the longest cache that fits. The rest is cut into batches of least cost: rows with
similar starts and ends go together, whatever cache each begins with.

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
        launch: the fixed cost of a forward, in tokens: weights are read once, whatever the number of rows.
        new_caches: rows whose cache may be kept.
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
        prefix_caches: for each row the number of the cache that it begins with: the given caches come first, then those
            that this plan keeps, in order.
        start: how many tokens every row takes from its cache.
        keep: the cache of the only row is kept for later batches.
    """

    rows: tuple[int, ...]
    prefix_caches: tuple[int, ...]
    start: int
    keep: bool = False


@dataclass
class _PlannedRows:
    """The rows to plan, and the best cache for each so far."""

    visible: Bool[np.ndarray, "rows positions"]
    tokens: Int[np.ndarray, "rows positions+1"]
    """How many tokens a row has before each position."""
    lengths: Int[np.ndarray, "rows"]
    cache: Int[np.ndarray, "rows"] = field(init=False)
    start: Int[np.ndarray, "rows"] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        self.cache = np.zeros(len(self.visible), dtype=int)
        self.start = np.zeros(len(self.visible), dtype=int)

    def shared(self, rows: Int[np.ndarray, "some"], cache: Bool[np.ndarray, "extent"]) -> Int[np.ndarray, "some"]:
        """Tokens at the beginning of each row that a cached row has, too; never the row's last token."""
        import numpy as np

        common = _same_at_first(self.visible[rows, : len(cache)], cache)
        return np.minimum(self.tokens[rows, common], self.tokens[rows, -1] - 1).clip(min=0)

    def use(self, rows: Int[np.ndarray, "some"], cache: int, start: Int[np.ndarray, "some"]) -> None:
        """Let rows begin with a cache where it is longer than their best one so far."""
        better = start > self.start[rows]
        self.cache[rows[better]], self.start[rows[better]] = cache, start[better]


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
        prefix_caches: the same for the cached rows, up to the length of each cache. The first is empty, or has what all
            rows begin with.
        limits: what a batch may hold.
        compact: positions that a row does not have take no token (otherwise another token fills them).
        after: tokens after the prompt, the same for all rows.
    """
    import numpy as np

    n_rows, n_positions = visible.shape
    tokens = np.zeros((n_rows, n_positions + 1), dtype=int)
    tokens[:, 1:] = visible.cumsum(axis=1) if compact else np.arange(1, n_positions + 1)
    rows = _PlannedRows(visible, tokens, tokens[:, -1] + after)
    everything = np.arange(n_rows)
    for number, cache in enumerate(prefix_caches):
        rows.use(everything, number, rows.shared(everything, cache))
    first = _kept_rows(rows, len(prefix_caches), limits)
    done = {row for batch in first for row in batch.rows}
    return first + _cheapest_batches(rows, [row for row in range(n_rows) if row not in done], limits)


def _kept_rows(rows: _PlannedRows, n_caches: int, limits: BatchLimits) -> list[Batch]:
    """Rows to compute alone, because starting from their caches saves the others more than that costs."""
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
        path_end, branches = _widest_path(common, first, last)
        groups += branches
        group = order[first:last]
        start = rows.shared(group, rows.visible[order[path_end]])
        saved = (start - rows.start[group]).clip(min=0)
        saved[path_end - first] = 0
        # The cost is its own forward, and usually one more for the rows that begin with it.
        if saved.sum() > 2 * limits.launch:
            row = int(order[path_end])
            kept.append(Batch((row,), (int(rows.cache[row]),), int(rows.start[row]), keep=True))
            others = group != row
            rows.use(group[others], n_caches + len(kept) - 1, start[others])
    return kept


def _same_at_first(
    rows: Bool[np.ndarray, "some positions"], others: Bool[np.ndarray, "*some positions"]
) -> Int[np.ndarray, "some"]:
    """How many positions, from the first on, two rows have in common."""
    import numpy as np

    return np.logical_and.accumulate(rows == others, axis=1).sum(axis=1)


def _widest_path(common: Int[np.ndarray, "_"], first: int, last: int) -> tuple[int, list[tuple[int, int]]]:
    """The row at the end of the path that most of the sorted rows [first, last) share, and the branches that leave it.

    Branches have several rows. `common[i]` is the first position in which rows i and i + 1 differ.
    """
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
    return [Batch(tuple(part), tuple(rows.cache[part].tolist()), int(start[part].min())) for part in parts]


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
