"""What one setting of a search does to its work and to what it finds: curves from a run of `hyperparameters.toml`.

    python analysis/hyperparameters.py runs/hyperparameters [--figure docs/images/results/hyperparameters]

Each variant differs in one setting from the method's own defaults. Shown are, on the prompts that both finished, the
joint effect less that of the defaults (nats, 95 % bootstrap interval over prompts) and the work in full-forward
equivalents. The figure draws the joint effect of every variant against its work, numbers of one setting joined by a
line. Runs no model; prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopa.benchmark.records import FinishedCell, read_run
from jopa.reports.drawing import save

RESAMPLES = 10_000


class Variant(NamedTuple):
    """A method with one setting changed.

    Attributes:
        method: its name.
        setting: the changed setting; empty for the defaults.
        value: its value.
        difference: joint effect less that of the defaults, a number a prompt.
        effect: mean joint effect, in nats.
        ffe: mean work.
        default_ffe: mean work of the defaults on the same prompts.
    """

    method: str
    setting: str
    value: Any
    difference: np.ndarray
    effect: float
    ffe: float
    default_ffe: float


def main() -> None:
    """Print the table, and draw the figure if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a folder of `jopa bench`")
    parser.add_argument("--figure", type=Path, help="where to draw, without an ending")
    arguments = parser.parse_args()
    found = variants(read_run(arguments.run).done)
    print("\n".join(table(found)))
    if arguments.figure is not None:
        draw(found, arguments.figure)


def variants(cells: Sequence[FinishedCell]) -> list[Variant]:
    """Every label of the run beside the label that is its method's name, which has the defaults."""
    by_label: dict[str, dict[tuple, FinishedCell]] = {}
    for cell in cells:
        key = cell.key
        by_label.setdefault(key.method, {})[key.model, key.data, key.example, key.k, key.seed] = cell
    made = []
    for found in by_label.values():
        method = str(next(iter(found.values())).method["name"])
        defaults = by_label.get(method, {})
        both = [(cell, defaults[key]) for key, cell in found.items() if key in defaults]
        if not both:
            continue
        own, base = both[0][0].method, both[0][1].method
        changed = [name for name in own if own[name] != base.get(name)]
        setting = changed[0] if changed else ""
        effects = np.array([cell.joint for cell, _ in both])
        made.append(
            Variant(
                method,
                setting,
                own.get(setting, ""),
                effects - np.array([base.joint for _, base in both]),
                float(effects.mean()),
                float(np.mean([cell.ffe for cell, _ in both])),
                float(np.mean([base.ffe for _, base in both])),
            )
        )
    return made


def table(found: Sequence[Variant]) -> Iterator[str]:
    """One row a variant."""
    heads = ["method", "setting", "prompts", "joint effect less the defaults', nats", "better / same / worse", "FFE"]
    yield f"| {' | '.join(heads)} | FFE of the defaults |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for one in found:
        if not one.setting:
            continue
        n, d = len(one.difference), one.difference
        drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        low, high = np.percentile(d[drawn].mean(axis=1), (2.5, 97.5))
        more, less = int((d > 1e-3).sum()), int((d < -1e-3).sum())
        cells = [one.method, f"{one.setting} = {one.value}", n, f"{d.mean():+.2f} ({low:+.2f} to {high:+.2f})"]
        cells += [f"{more} / {n - more - less} / {less}", f"{one.ffe:.0f}", f"{one.default_ffe:.0f}"]
        yield f"| {' | '.join(map(str, cells))} |"


def draw(found: Sequence[Variant], stem: Path) -> None:
    """Mean joint effect against mean work, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    defaults = {one.method: one for one in found if not one.setting}
    for (method, setting), marker in zip(
        dict.fromkeys((one.method, one.setting) for one in found if one.setting), "osD^vP*X", strict=False
    ):
        mine = [one for one in found if (one.method, one.setting) == (method, setting)]
        numeric = all(isinstance(one.value, int | float) for one in mine)
        if numeric and method in defaults:
            mine = sorted([*mine, defaults[method]], key=lambda one: one.ffe)
        places = [one.ffe for one in mine], [one.effect for one in mine]
        axes.plot(*places, marker=marker, linestyle="-" if numeric else "", label=f"{method}: {setting}")
    axes.set_xlabel("work, full-forward equivalents")
    axes.set_ylabel("mean joint effect, nats")
    axes.legend(frameon=False, fontsize=9)
    stem.parent.mkdir(parents=True, exist_ok=True)
    save(figure, stem.name, stem.parent)


if __name__ == "__main__":
    main()
