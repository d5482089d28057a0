"""A benchmark run as tables, figures and one page: `jopa report DIR`.

    DIR/report/index.html      everything on one self-contained page
    DIR/report/cells.csv       one row a cell, nothing rounded
    DIR/report/tables/         each table as Markdown, CSV and LaTeX
    DIR/report/figures/        each figure as PNG and SVG
    DIR/report/explanations/   single explanations, one page a cell

Only tables and figures that the records can fill are written. Names, errors and model outputs are text from strangers
and are escaped. Reads records; runs no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

from jopa.benchmark.measuring import with_plugin_metrics
from jopa.benchmark.records import CellKey, CellRecord, ExampleRecord, FinishedCell, Run, SessionData, read_run
from jopa.errors import InputFileError, SettingError
from jopa.evaluation.metrics import METRICS
from jopa.method import TraceStep
from jopa.reports import typesetting
from jopa.reports.attribution_html import to_html
from jopa.reports.cells_csv import cells_csv
from jopa.reports.comparisons import comparison_tables
from jopa.reports.drawing import missing_glyphs_in_one_warning, save
from jopa.reports.figures import Picture, all_figures, main_k
from jopa.reports.tables import all_tables, labels
from jopa.reports.typesetting import Table
from jopa.reports.wording import environment
from jopa.results.attribution import Attribution
from jopa.storage import staged_folder, write_text

EXPLANATIONS = 300
"""Pages of single explanations that a report writes, unless told otherwise."""
MAX_DECIMALS = 9
_ERRORS = 50  # different errors that the page lists


class LinkedPrompt(NamedTuple):
    """A prompt whose explanations have pages: for each method, the text and address of each link."""

    model: str
    data: str
    example: str
    prompt: str
    links: dict[str, list[tuple[str, str]]]


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    explanations: int = EXPLANATIONS,
    metrics: Sequence[str] = (),
    decimals: int | None = None,
) -> tuple[Path, ...]:
    """Write the tables, figures and the page of a run; safe while the run is in progress.

    Args:
        folder: what `jopa bench` wrote.
        out: where to write; `folder/report` if not given.
        explanations: the most pages of single explanations, whole prompts in turn from each model and data set
            (every cell of a prompt, or none); at least one prompt of each if it is not 0.
        metrics: the metrics that LaTeX tables show, in this order; empty for all.
        decimals: of the numbers in LaTeX tables; by default as many as a column needs.

    Returns:
        What was written, the page first.

    Raises:
        InputFileError: there is no run, or it has no cell yet, or the files cannot be written.
        SettingError: matplotlib is not installed, no table has a metric, or the decimals are out of range.
    """
    if decimals is not None and not 0 <= decimals <= MAX_DECIMALS:
        raise SettingError(f"decimals must be from 0 to {MAX_DECIMALS}, got {decimals}")
    run = with_plugin_metrics(without_retired(read_run(folder)))
    if not run.cells:
        raise InputFileError(f"the run in '{folder}' has no finished cell yet: go on with 'jopa bench' first")
    out = folder / "report" if out is None else out
    tables = (*all_tables(run), *comparison_tables(run))
    _require_metrics(metrics, tables)
    pictures = all_figures(run)
    with staged_folder(out) as staged:
        for name in ("tables", "figures", "explanations"):
            (staged / name).mkdir()
        written = [path for table in tables for path in _write_table(table, staged / "tables", metrics, decimals)]
        with missing_glyphs_in_one_warning():
            figures = [(picture, *save(picture.drawing, picture.stem, staged / "figures")) for picture in pictures]
        linked = [_write_prompt(run, cells, staged / "explanations") for cells in chosen_prompts(run, explanations)]
        page = write_text(staged / "index.html", to_page(run, tables, figures, linked))
        pages = [staged / address for item in linked for links in item.links.values() for _, address in links]
        cells = write_text(staged / "cells.csv", cells_csv(run))
        paths = [page, cells, *written, *(path for _, *drawn in figures for path in drawn), *pages]
    return tuple(out / path.relative_to(staged) for path in paths)


def without_retired(run: Run) -> Run:
    """The run without the cells and examples that its experiment no longer names.

    An experiment names models, data sets, methods, seeds, the k of each method, and the prompts that the last start of
    the command kept of each data set.
    """
    experiment = run.experiment
    parts = (experiment.models, experiment.data, experiment.methods)
    models, data, methods = ({entry.label for entry in part if entry.retired} for part in parts)
    ks = {entry.label: entry.ks or experiment.ks for entry in experiment.methods}
    kept = {item.name: set(item.ids) for item in data_sets(run) if item.ids is not None}

    def is_kept(model: str, data_set: str, example: str) -> bool:
        return model not in models and data_set not in data and example in kept.get(data_set, {example})

    def unnamed_part(key: CellKey) -> str:
        """What of a key the experiment no longer names; empty for a cell of the experiment."""
        unnamed = {
            "entry": key.model in models or key.data in data or key.method in methods,
            "prompt": not is_kept(*key[:3]),
            "seed": key.seed not in experiment.seeds,
            "k": key.k not in ks.get(key.method, experiment.ks),
        }
        return next((part for part, is_unnamed in unnamed.items() if is_unnamed), "")

    cells: dict[str, list[CellRecord]] = defaultdict(list)
    for cell in run.cells:
        cells[unnamed_part(cell.key)].append(cell)
    prompts = Counter(data_set for data_set, _ in {cell.key[1:3] for cell in cells["prompt"]})
    left_ks = sorted({(cell.key.k, cell.key.method) for cell in cells["k"]})
    return replace(
        run,
        cells=tuple(cells[""]),
        examples={names: example for names, example in run.examples.items() if is_kept(*names)},
        not_shown=(
            *(f"{n} prompt{'s' if n > 1 else ''} of {data_set}" for data_set, n in sorted(prompts.items())),
            *(f"seed {seed}" for seed in sorted({cell.key.seed for cell in cells["seed"]})),
            *(f"k = {k} of {', '.join(m for _, m in of_k)}" for k, of_k in groupby(left_ks, key=lambda pair: pair[0])),
        ),
    )


def to_page(
    run: Run, tables: Sequence[Table], figures: Sequence[tuple[Picture, Path, Path]], linked: Sequence[LinkedPrompt]
) -> str:
    """The page that holds all of it; figures are drawn in it, links lead to the files beside it."""
    from markupsafe import Markup

    k = main_k(run)
    names = {column.key for table in tables for column in table.columns}
    drawn = [
        (
            picture,
            f"figures/{picture.stem}",
            Markup(inline_svg(svg.read_text(encoding="utf-8"))),
        )  # escaped by its maker
        for picture, _, svg in figures
    ]
    return (
        environment()
        .get_template("benchmark.html.j2")
        .render(
            title=run.experiment.title,
            run=run,
            tables=[table for table in tables if table.k in (k, None)],
            other_tables=[table for table in tables if table.k not in (k, None)],
            blocks=typesetting.blocks,
            entry=typesetting.entry,
            method_name=typesetting.method_name,
            figures=drawn,
            metrics=[metric for name, metric in METRICS.items() if name in names],
            facts=run_facts(run),
            data=data_sets(run),
            models=language_models(run),
            errors=errors(run)[:_ERRORS],
            n_errors=len(errors(run)),
            linked=[(group, list(items)) for group, items in groupby(linked, key=lambda item: (item.model, item.data))],
            n_pages=sum(len(links) for item in linked for links in item.links.values()),
        )
    )


def inline_svg(text: str) -> str:
    """The drawing of an SVG file as an element of a page: without what is around it, no wider than it reads well."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)  # would style the whole page
    body = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", body, count=1)
    return re.sub(r'(<svg[^>]*?) width="([\d.]+)pt"', r'\1 style="max-width:\2pt"', body, count=1)


def run_facts(run: Run) -> list[tuple[str, str]]:
    """How the run was made, as terms and plain words."""
    experiment, sessions = run.experiment, run.sessions
    settings = [
        f"{method.label}: {', '.join([method.name, f'search removal {method.removal}', *_pairs(method.settings)])}"
        for method in experiment.methods
        if not method.retired
    ]
    parts = {"models": experiment.models, "data": experiment.data, "methods": experiment.methods}
    retired = [f"{part} {entry.label}" for part, entries in parts.items() for entry in entries if entry.retired]
    not_shown = ", ".join([*retired, *run.not_shown])
    versions = sessions[-1].versions if sessions else {}
    return [
        ("Cells", f"{len(run.done):,} finished, {len(run.failed):,} failed"),
        ("k", ", ".join(map(str, experiment.ks))),
        ("Seeds", ", ".join(map(str, experiment.seeds))),
        ("Unit", experiment.unit),
        ("Removal", f"{experiment.removal} (of the evaluation)"),
        ("Generation", ", ".join(_pairs(experiment.generation))),
        ("Methods", "\n".join(settings)),
        *([("Not shown", f"on record, but no longer in the experiment: {not_shown}")] if not_shown else []),
        ("Baseline", experiment.baseline or "none: no differences are told"),
        ("Versions", " · ".join(_pairs(versions, " "))),
        *(
            (f"Start {number}", f"{start.date}\n{start.command}\n{', '.join(_pairs(start.machine, ' '))}")
            for number, start in enumerate(sessions, start=1)
        ),
    ]


def data_sets(run: Run) -> list[SessionData]:
    """Each data set as the last start that loaded it describes it."""
    return list({item.name: item for session in run.sessions for item in session.data}.values())


def language_models(run: Run) -> list[tuple[str, str]]:
    """The name of each model and what it was."""
    found = {
        (example.model, " · ".join(value for value in example.language_model.values() if value))
        for example in run.examples.values()
    }
    return sorted(found)


def errors(run: Run) -> list[tuple[str, int]]:
    """Each different error of cells, with how often it came, the most frequent first."""
    return Counter(f"{_place(cell)}: {cell.error}" for cell in run.failed).most_common()


def chosen_prompts(run: Run, most: int) -> list[list[FinishedCell]]:
    """The finished cells of each prompt whose explanations get pages, at most `most` in all.

    Prompts are taken in turn from each model and data set until the next would be too much.
    """
    by_prompt: dict[tuple[str, str], dict[str, list[FinishedCell]]] = {}
    for cell in run.done:
        key = cell.key
        if key[:3] in run.examples:
            by_prompt.setdefault((key.model, key.data), {}).setdefault(key.example, []).append(cell)
    taken: list[list[FinishedCell]] = []
    turns = zip_longest(*(prompts.values() for prompts in by_prompt.values()))
    for turn, prompts in enumerate(turns if most > 0 else ()):
        for cells in filter(None, prompts):
            if turn and sum(map(len, taken)) + len(cells) > most:
                return _in_order(taken, by_prompt)
            taken.append(cells)
    return _in_order(taken, by_prompt)


def joined(example: ExampleRecord, cell: FinishedCell) -> Attribution:
    """The single explanation of a cell, under the evaluation's removal."""
    prompt, output = example.prompt, example.output
    change = (cell.log_prob_removed - cell.log_prob) / (output.target[1] - output.target[0])
    details, method, certificate = dict(cell.details or {}), dict(cell.method), cell.certificate
    if cell.search_removal != cell.removal:
        details["search removal"] = method["search removal"] = cell.search_removal
        certificate = "none"  # what the search proved holds under its own removal
    return Attribution(
        model=example.language_model,
        prompt=prompt.text,
        input_ids=prompt.ids,
        units=prompt.units,
        output=output.text,
        output_ids=output.ids,
        target=output.target,
        removal=cell.removal,
        k=cell.key.k,
        removed=cell.removed,
        log_prob=cell.log_prob,
        log_prob_removed=cell.log_prob_removed,
        probability_ratio=math.exp(min(change, 700.0)),
        individual=cell.individual,
        synergy=cell.synergy,
        counterfactual_output=cell.counterfactual_output,
        method=method,
        seed=cell.key.seed,
        evaluations=cell.evaluations,
        ffe=cell.ffe,
        seconds=cell.seconds,
        trace=tuple(TraceStep(*row) for row in cell.trace),
        stop=cell.stop,
        certificate=certificate,
        versions=example.versions,
        scores=cell.scores,
        details=details or None,
        fixed=prompt.fixed,
        rendered=prompt.rendered,
    )


def _require_metrics(names: Sequence[str], tables: Sequence[Table]) -> None:
    """Refuse names of metrics that no table has."""
    known = list(dict.fromkeys(column.key for table in tables for column in table.columns if column.key in METRICS))
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"the run has no metric '{unknown[0]}': choose of {', '.join(known)}")


def _write_table(table: Table, folder: Path, metrics: Sequence[str], decimals: int | None) -> list[Path]:
    forms = {
        "md": typesetting.markdown(table),
        "csv": typesetting.csv_text(table),
        "tex": typesetting.latex(typesetting.narrowed(table, metrics, decimals)),
    }
    return [write_text(folder / f"{table.stem}.{ending}", text) for ending, text in forms.items()]


def _write_prompt(run: Run, cells: Sequence[FinishedCell], folder: Path) -> LinkedPrompt:
    """Write the page of each cell of a prompt."""
    first = cells[0].key
    example = run.examples[first[:3]]
    links: dict[str, list[tuple[str, str]]] = {}
    several = [len(set(values)) > 1 for values in zip(*(cell.key[4:] for cell in run.done), strict=True)]
    order = {label: place for place, label in enumerate(labels(run))}
    for cell in sorted(cells, key=lambda cell: (order.get(cell.key.method, len(order)), cell.key)):
        key, attribution = cell.key, joined(example, cell)
        write_text(folder / f"{slug(key)}.html", to_html(attribution))
        where = [
            f"{name} = {value}" for name, value, shown in zip(("k", "seed"), key[4:], several, strict=True) if shown
        ]
        text = f"{attribution.probability_ratio:.3f}" + (f" ({', '.join(where)})" if where else "")
        links.setdefault(key.method, []).append((text, f"explanations/{slug(key)}.html"))
    return LinkedPrompt(first.model, first.data, first.example, example.prompt.text, links)


def slug(key: Sequence[str | int]) -> str:
    """A file name for a cell: readable, safe whatever the names hold, and different for different cells."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(map(str, key))).strip("._")[:120]
    return f"{plain}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}"


def _in_order(taken: Iterable[list[FinishedCell]], order: Iterable[tuple[str, str]]) -> list[list[FinishedCell]]:
    """Prompts of one model and data set together."""
    places = list(order)
    return sorted(taken, key=lambda cells: places.index(cells[0].key[:2]))


def _pairs(record: Mapping[str, object], joint: str = " = ") -> list[str]:
    return [f"{name}{joint}{value}" for name, value in record.items() if value is not None]


def _place(cell: CellRecord) -> str:
    key = cell.key
    return f"{key.model}, {key.data}, {key.method}, k = {key.k}"
