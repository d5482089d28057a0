"""When a joint search helps: how much more it finds than cheaper methods, and whether one can tell beforehand.

    python analysis/when_joint_helps.py runs/table1 [--figure docs/images/results/when-joint-helps]

For each prompt that the joint search and a cheaper method both finished:

    gain       joint effect of the joint search's set less that of the method's set, in nats and as a share of the
               former
    synergy    of the joint search's set: its joint effect less the sum of its units' effects alone
    overlap    how far leave-one-out's k best units are redundant: 1 − their joint effect / the sum of
               their effects alone (below 0: they support one another). Leave-one-out and one more forward tell it, so
               it is known before any search

Prompts are parted at the median of the synergy, and of the overlap. Rank correlations and differences have bootstrap
intervals over prompts. Runs no model; prints Markdown, and draws gain against overlap.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopa.benchmark.records import FinishedCell, read_run
from jopa.reports.drawing import save

JOINT, ALONE = "joint", "ablation"
RIVALS = ("ablation", "shapley", "context-cite", "interactions", "jopa")
RESAMPLES = 10_000
EQUAL = 0.01
"""Nats: effects that differ by no more than this are called the same."""
TINY = 0.05
"""Nats: leave-one-out effects that sum to less than this have no meaningful overlap."""


class Pair(NamedTuple):
    """A prompt that two methods finished.

    Attributes:
        data: its data set.
        gain: joint effect of the joint search's set less the other method's, in nats.
        share: the gain as a share of the joint search's joint effect.
        synergy: of the joint search's set, as a share of its joint effect.
        overlap: of leave-one-out's units; see the module's head.
    """

    data: str
    gain: float
    share: float
    synergy: float
    overlap: float


def main() -> None:
    """Print the tables, and draw the figure if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `jopa bench` with joint and ablation")
    parser.add_argument("--figure", type=Path, help="where to draw, without an ending")
    arguments = parser.parse_args()
    cells = [cell for folder in arguments.runs for cell in read_run(folder).done]
    print("\n".join(tables(cells)))
    if arguments.figure is not None:
        draw(pairs(cells, ALONE), arguments.figure)


def pairs(cells: Sequence[FinishedCell], rival: str) -> list[Pair]:
    """The prompts that joint, leave-one-out and the rival finished, whatever the model and k."""
    found: dict[tuple[str, str, str, int], dict[str, FinishedCell]] = {}
    for cell in cells:
        key = cell.key
        if key.method in (JOINT, ALONE, rival) and key.seed == 0:
            found.setdefault((key.model, key.data, key.example, key.k), {})[key.method] = cell
    made = []
    for (_, data, _, _), by_method in found.items():
        if not {JOINT, ALONE, rival} <= by_method.keys():
            continue
        ours, alone, other = (by_method[name] for name in (JOINT, ALONE, rival))
        joint, sum_alone = effect(ours), math.fsum(alone.individual)
        if joint < TINY or sum_alone < TINY:
            continue
        gain = joint - effect(other)
        made.append(Pair(data, gain, gain / joint, ours.synergy / joint, 1 - effect(alone) / sum_alone))
    return made


def surpassed(cells: Sequence[FinishedCell]) -> tuple[int, list[float]]:
    """How many prompts joint and others ended, and by how many nats the best other set does more, where it does."""
    found: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for cell in cells:
        key = cell.key
        if key.seed == 0:
            found.setdefault((key.model, key.data, key.example, key.k), {})[key.method] = effect(cell)
    compared = [effects for effects in found.values() if JOINT in effects and len(effects) > 1]
    gains = [max(effects.values()) - effects[JOINT] for effects in compared]
    return len(compared), [gain for gain in gains if gain > EQUAL]


def effect(cell: FinishedCell) -> float:
    """The joint effect of a cell's set, in nats."""
    return cell.log_prob - cell.log_prob_removed


def tables(cells: Sequence[FinishedCell]) -> Iterator[str]:
    """What joint finds beyond each rival: on all prompts, and by what was known before and after."""
    heads = ["against", "prompts", "gain, nats", "share of the effect", "better / same / worse", "low overlap"]
    yield f"| {' | '.join(heads)} | high overlap | ρ(overlap, share) |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for rival in RIVALS:
        rows = pairs(cells, rival)
        if len(rows) < 4:
            continue
        gain, share, overlap = (np.array([getattr(row, name) for row in rows]) for name in ("gain", "share", "overlap"))
        more, less = int((gain > EQUAL).sum()), int((gain < -EQUAL).sum())
        high = overlap > np.median(overlap)
        row = [rival, len(rows), shown(gain), f"{np.mean(share):.0%}", f"{more} / {len(rows) - more - less} / {less}"]
        row += [shown(share[~high], percent=True), shown(share[high], percent=True), correlation(overlap, share)]
        yield f"| {' | '.join(map(str, row))} |"
    yield ""
    n_prompts, gains = surpassed(cells)
    more = f"; elsewhere one does, by at most {max(gains):.2f} nats" if gains else ""
    yield f"No other method's set does more than joint's on {n_prompts - len(gains)} of {n_prompts} prompts{more}."
    yield ""
    rows = pairs(cells, ALONE)
    if len(rows) < 4:
        return
    synergy, share, gain = (np.array([getattr(row, name) for row in rows]) for name in ("synergy", "share", "gain"))
    positive = synergy > np.median(synergy)
    yield f"Synergy of joint's set against the share gained on leave-one-out: ρ = {correlation(synergy, share)}; gain"
    yield f"{shown(gain[positive])} nats above the median of the synergy, {shown(gain[~positive])} below."
    yield ""
    heads = ["overlap of leave-one-out's units at least", "prompts", "share of all gain on them", "mean gain, nats"]
    yield f"| {' | '.join(heads)} | joint is better |"
    yield "|---|--:|--:|--:|--:|"
    overlap = np.array([row.overlap for row in rows])
    for limit in (-math.inf, 0.0, 0.1, 0.2, 0.3, 0.5):
        chosen = overlap >= limit
        if not chosen.any():
            continue
        label = "any" if math.isinf(limit) else f"{limit:.0%}"
        of_all = gain[chosen].sum() / gain.sum() if gain.sum() else math.nan
        yield (
            f"| {label} | {int(chosen.sum())} | {of_all:.0%} | {np.mean(gain[chosen]):.2f} | "
            f"{np.mean(gain[chosen] > EQUAL):.0%} |"
        )


def shown(values: np.ndarray, *, percent: bool = False) -> str:
    """A mean with its 95 % bootstrap interval over prompts."""
    if not len(values):
        return "–"
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    form = "{:.0%}" if percent else "{:.2f}"
    return f"{form.format(values.mean())} ({form.format(low)} to {form.format(high)})"


def correlation(left: np.ndarray, right: np.ndarray) -> str:
    """Spearman's rank correlation with its 95 % bootstrap interval over prompts."""
    from scipy.stats import rankdata

    def spearman(rows: np.ndarray) -> float:
        return float(np.corrcoef(rankdata(left[rows]), rankdata(right[rows]))[0, 1])

    drawn = np.random.default_rng(0)
    values = []
    for _ in range(1000):
        rows = drawn.integers(len(left), size=len(left))
        if len(set(left[rows])) > 1 and len(set(right[rows])) > 1:
            values.append(spearman(rows))
    if not values:
        return "–"
    low, high = np.percentile(values, (2.5, 97.5))
    return f"{spearman(np.arange(len(left))):.2f} ({low:.2f} to {high:.2f})"


def draw(rows: Sequence[Pair], stem: Path) -> None:
    """Share gained on leave-one-out against the overlap, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for data, marker in zip(dict.fromkeys(row.data for row in rows), "osD^vP", strict=False):
        mine = [row for row in rows if row.data == data]
        places = [row.overlap for row in mine], [row.share for row in mine]
        axes.scatter(*places, marker=marker, s=26, alpha=0.75, label=data)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("overlap of leave-one-out's units: 1 − joint effect / sum of the effects alone")
    axes.set_ylabel("gain of the joint search, of its own joint effect")
    axes.set_title(f"What a joint search adds to leave-one-out, {len(rows)} prompts", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    stem.parent.mkdir(parents=True, exist_ok=True)
    save(figure, stem.name, stem.parent)


if __name__ == "__main__":
    main()
