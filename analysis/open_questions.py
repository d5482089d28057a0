"""Questions that the paper leaves open, answered from the records of benchmark runs. Runs no model.

    python analysis/open_questions.py runs/table1 runs/figure5 runs/figure6

1. How do cost and quality of Algorithm 1 depend on T and k?
2. How many proposals does it need?
3. What do its start, its sampling and fresh gradients change?
4. Does a set found under one removal hold under another?
5. How much of a joint effect is not the sum of its parts?
6. Do the new text and the old text's probability tell the same story?
7. What do methods choose?

Prints Markdown. Standard errors and intervals are over prompts.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from jopa.benchmark.records import FinishedCell, read_run

PAPER = "jopa"
STEPS = (0, 1, 5, 10, 20, 50, 100, 200)


def main() -> None:
    """Read the runs and print one section a question."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `jopa bench`")
    cells = [cell for folder in parser.parse_args().runs for cell in read_run(folder).done]
    paper = [cell for cell in cells if cell.method["name"] == PAPER]
    for section in (
        cost_against_length(one_run_each(cell for cell in paper if is_default(cell))),
        proposals_needed(one_run_each(cell for cell in paper if is_default(cell) and len(cell.trace) > STEPS[-1])),
        variants(paper),
        removals(cells),
        synergies(cells),
        text_against_probability(cells),
        favourites(cells),
    ):
        print("\n".join(section), end="\n\n")


def is_default(cell: FinishedCell) -> bool:
    """Whether a search was the paper's own, as long as the authors' code lets it run."""
    method = cell.method
    return (method["initial"], method["sampling"], method["gradients"], method["steps"]) == (
        *("abs", "gradient", "once"),
        200,
    )


def one_run_each(cells: Iterable[FinishedCell]) -> list[FinishedCell]:
    """One cell for each prompt and k: the first seed met."""
    found = {(cell.key.data, cell.key.example, cell.key.k): cell for cell in reversed(list(cells))}
    return list(found.values())


def cost_against_length(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 1: the exponents of T and k in the masks that N = 200 proposals score, and the shortfall they leave."""
    lines = ["### Cost of Algorithm 1 (N = 200) against T and k", ""]
    masks = np.log([cell.evaluations for cell in cells])
    length, k = np.log([cell.units for cell in cells]), np.log([cell.key.k for cell in cells])
    columns = {"T": length} | ({"k": k} if len(set(k.tolist())) > 1 else {})
    design = np.stack([np.ones(len(cells)), *columns.values()], axis=1)

    def fit(rows: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(design[rows], masks[rows], rcond=None)[0][1:]

    best = fit(np.arange(len(cells)))
    draws = np.random.default_rng(0).integers(len(cells), size=(2000, len(cells)))
    spread = np.quantile([fit(rows) for rows in draws], [0.025, 0.975], axis=0)
    for name, value, low, high in zip(columns, best, *spread, strict=True):
        lines.append(f"- different masks grow as {name}^{value:.2f} (95 % interval {low:.2f} to {high:.2f})")
    lines += ["", "| T | prompts and k | masks of 201 | FFE |", "|---|---|---|---|"]
    ordered = sorted(cells, key=lambda cell: cell.units)
    for third in range(3):
        part = ordered[third * len(ordered) // 3 : (third + 1) * len(ordered) // 3]
        low, high = part[0].units, part[-1].units
        lines.append(
            f"| {low}–{high} | {len(part)} | {mean(c.evaluations for c in part):.0f} | "
            f"{mean(c.ffe for c in part):.0f} |"
        )
    return lines


def proposals_needed(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 2: the share of the whole run's fall of log p that is reached after N proposals."""
    lines = [
        "### Proposals needed",
        "",
        "Share of the fall of log p(y|m⊙x) from the first set to the last of 200 proposals, and prompts that hold",
        "their last set already.",
        "",
        "| N | " + " | ".join(map(str, STEPS)) + " |",
        "|---|" + "---|" * len(STEPS),
    ]
    falls = [(cell.trace, cell.trace[0][1] - cell.trace[200][1]) for cell in cells]
    share = [mean((t[0][1] - t[n][1]) / fall for t, fall in falls if fall > 0) for n in STEPS]
    there = [mean(float(t[n][1] == t[200][1]) for t, _ in falls) for n in STEPS]
    lines.append("| share of the fall | " + " | ".join(f"{100 * value:.0f} %" for value in share) + " |")
    lines.append("| at the last set | " + " | ".join(f"{100 * value:.0f} %" for value in there) + " |")
    return [*lines, "", f"{len(cells)} searches."]


def variants(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 3: log p under the search's removal, each variant minus the paper's, on the same prompt, k and seed."""
    lines = [
        "### Start, sampling, gradients",
        "",
        "log p(y|m⊙x) of the last set, variant minus the paper's, in nats (below 0: the variant is better).",
        "",
        "| variant | prompts | difference | better / same / worse | FFE |",
        "|---|---|---|---|---|",
    ]
    by_label: dict[str, dict[tuple, FinishedCell]] = defaultdict(dict)
    for cell in cells:
        key = cell.key
        if cell.method["steps"] == 200 and cell.search_removal == "zero":
            by_label[key.method][key.data, key.example, key.k, key.seed] = cell
    for label, found in by_label.items():
        both = [(cell, by_label[PAPER][key]) for key, cell in found.items() if key in by_label[PAPER]]
        differences = [own.search_log_prob_removed - base.search_log_prob_removed for own, base in both]
        if label == PAPER or not both:
            continue
        better, worse = sum(d < -1e-3 for d in differences), sum(d > 1e-3 for d in differences)
        lines.append(
            f"| {label} | {len(both)} | {with_error(differences)} | "
            f"{better} / {len(both) - better - worse} / {worse} | {mean(own.ffe for own, _ in both):.0f} |"
        )
    return lines


def removals(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 4: what sets that were found under `zero` do under `zero` and when they are cut out."""
    lines = ["### Found under one removal, judged under another", ""]
    lines += ["| data | method | cells | joint effect under `zero`, nats | under `delete` |", "|---|---|---|---|---|"]
    crossed = [c for c in cells if (c.search_removal, c.removal, c.key.k) == ("zero", "delete", 3)]
    for (data, label), part in grouped(crossed, lambda c: (c.key.data, c.key.method)).items():
        searched = [cell.log_prob - cell.search_log_prob_removed for cell in part]
        deleted = [cell.joint for cell in part]
        lines.append(f"| {data} | {label} | {len(part)} | {with_error(searched)} | {with_error(deleted)} |")
    return lines


def synergies(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 5: the share of the joint effect that is synergy, by method and data set."""
    lines = [
        "### Synergy",
        "",
        "| data | method | cells | joint effect, nats | of it synergy |",
        "|---|---|---|---|---|",
    ]
    for (data, label), part in grouped(cells, lambda c: (c.key.data, c.key.method)).items():
        part = [cell for cell in part if cell.key.k == 3 and cell.removal == "delete"]
        joint = [cell.joint for cell in part]
        if part and sum(joint) > 0:
            share = sum(cell.synergy for cell in part) / sum(joint)
            lines.append(f"| {data} | {label} | {len(part)} | {with_error(joint)} | {100 * share:.0f} % |")
    return lines


def text_against_probability(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 6: rank correlations of PR with text metrics, and how soon a new greedy answer leaves the old one."""
    lines = [
        "### Text against probability",
        "",
        "Rank correlation over cells; cells whose new answer leaves the old one within three words, and PR there.",
        "",
        "| data | cells | PR and BLEU | PR and SentenceBert | leaves within 3 words | PR of those |",
        "|---|---|---|---|---|---|",
    ]
    wanted = [cell for cell in cells if cell.key.k == 3 and cell.metrics["sentence_bert"] is not None]
    for (data,), part in grouped(wanted, lambda c: (c.key.data,)).items():
        pr, bleu, bert = (measured(part, name) for name in ("pr", "bleu", "sentence_bert"))
        early = [c for c in part if c.output.split()[:3] != c.counterfactual_output.split()[:3]]
        lines.append(
            f"| {data} | {len(part)} | {rank_correlation(pr, bleu):.2f} | {rank_correlation(pr, bert):.2f} | "
            f"{100 * len(early) / len(part):.0f} % | {with_error(measured(early, 'pr'))} |"
        )
    return lines


def favourites(cells: Sequence[FinishedCell]) -> list[str]:
    """Question 7: the units that each method chooses in several prompts, over all data sets; a prompt counts once."""
    lines = ["### What methods choose", "", "| method | prompts | chosen in most (prompts) |", "|---|--:|---|"]
    for (label,), part in grouped((c for c in cells if c.key.k == 3), lambda c: (c.key.method,)).items():
        prompts: dict[tuple[str, str], set[str]] = defaultdict(set)
        for cell in part:
            prompts[cell.key.data, cell.key.example] |= {text.strip().lower() for text in cell.removed_texts}
        counts = Counter(text for texts in prompts.values() for text in sorted(texts))
        often = [f"{text or 'line break'} ({count})" for text, count in counts.most_common(6) if count > 1]
        lines.append(f"| {label} | {len(prompts)} | {' · '.join(often) or 'none twice'} |".replace("\n", " "))
    return lines


def measured(cells: Iterable[FinishedCell], metric: str) -> list[float]:
    """The values of a metric, of the cells that have it."""
    return [value for cell in cells if (value := cell.metrics[metric]) is not None]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, ties at their mean rank."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        array = np.asarray(values)
        return (array[:, None] > array).sum(axis=1) + (array[:, None] == array).sum(axis=1) / 2

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def grouped(cells: Iterable[FinishedCell], key: Callable[[FinishedCell], tuple]) -> dict[tuple, list[FinishedCell]]:
    """Cells by key, in the order of first appearance."""
    found: dict[tuple, list[FinishedCell]] = defaultdict(list)
    for cell in cells:
        found[key(cell)].append(cell)
    return found


def mean(values: Iterable[float]) -> float:
    """The mean; not a number of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def with_error(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    if len(values) < 2:
        return f"{mean(values):.2f}"
    return f"{mean(values):.2f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
