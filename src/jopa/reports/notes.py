"""The sentences below a table: what its marks mean, what it is over, and what it cannot show.

Sees rows and groups of records; knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jopa.reports.estimates import Group
from jopa.reports.inference import MIN_PROMPTS
from jopa.reports.typesetting import PARTIAL, Row


def bold(found: Sequence[Group]) -> str:
    """When a mean is bold."""
    compared = (len(group.common(i)) for group in found if len(group.full) > 1 for i in range(group.n_measures))
    return (
        "Bold: better than every other compared method of its group, and each paired 95 % bootstrap interval of the "
        f"difference over prompts leaves out zero.{few_prompts_note(filter(None, compared))}"
    )


def few_prompts_note(numbers_of_prompts: Iterable[int]) -> str:
    """What is to be said where a comparison has so few prompts that it can show nothing; empty elsewhere."""
    if min(numbers_of_prompts, default=MIN_PROMPTS) >= MIN_PROMPTS:
        return ""
    return (
        f" Fewer than {MIN_PROMPTS} prompts cannot show a difference at 5 % (five differences of one sign have "
        "p = 0.06), so nothing is bold or marked there."
    )


def left_out(found: Sequence[Group]) -> list[str]:
    """One note for each group in which not every method finished every prompt, and one that explains the mark."""
    notes = []
    for group in found:
        n, shared = len(group.prompts), [p for p in group.prompts if all(p in group.finished[m] for m in group.full)]
        missing = []
        for method in group.methods:
            lost, failed = n - len(group.finished[method]), len(group.failed[method])
            if lost:
                missing.append(f"{method}: {lost}" + (f" ({failed} failed)" if failed else ""))
        if missing:
            notes.append(
                f"{group.model}, {group.data}: means over {len(shared)} of {n} prompts, those that the compared "
                f"methods all finished. Prompts without a result: {'; '.join(missing)}."
            )
        elif any(len(group.common(i)) != len(shared) for i in range(group.n_measures)):
            notes.append(f"{group.model}, {group.data}: some records lack a metric; its mean is over the others.")
    if any(method not in group.full for group in found for method in group.methods if group.finished[method]):
        notes.append(
            f"{PARTIAL} finished less than half as many prompts as another method: its mean is over those of the "
            "compared prompts that it has, and it is never called best."
        )
    return notes


def partial_note(rows: Iterable[Row]) -> list[str]:
    """What the mark of partial rows means in a table of differences, if there is one."""
    if not any(row.partial for row in rows):
        return []
    return [
        f"{PARTIAL} finished less than half as many prompts as another method: it is compared on those that it has."
    ]
