"""A table as Markdown, CSV and LaTeX.

Markdown and LaTeX are for reading: means with their spread or interval, the best in bold. CSV is for programs: one
number a line with nothing rounded. Names come from strangers: each form escapes them, shows unseen characters, and
CSV has no formula that a spreadsheet would run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

from jopa.reports.wording import one_line, visible

LESS, MORE = "●", "○"
"""Marks of a difference whose interval leaves out zero: less, and more faithful than the baseline."""
PARTIAL, APART, NOTHING = "†", "‡", "—"

Spread = Literal["standard_error", "standard_deviation", "interval", "none"]


@dataclass(frozen=True)
class Number:
    """One entry: a mean over `n` prompts (or seeds), with its spread or its interval.

    Attributes:
        mean: the value.
        spread: standard error or deviation; None where there is none.
        n: what the mean is over.
        low: lower end of the 95 % interval.
        high: its upper end.
        best: it is significantly better than all others of the group.
        mark: `LESS`, `MORE` or nothing.
    """

    mean: float
    spread: float | None
    n: int
    low: float | None = None
    high: float | None = None
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """A column of numbers: its key in CSV, its title, the better direction if any, and decimals to show.

    Numbers that are `above_zero` are never shown as 0: a p-value is "< 0.001".
    """

    key: str
    title: str
    better: str | None = None
    digits: int = 3
    above_zero: bool = False

    @property
    def heading(self) -> str:
        """The title with an arrow in the better direction."""
        return self.title + {"lower": " ↓", "higher": " ↑", None: ""}[self.better]


@dataclass(frozen=True)
class Row:
    """A method on a data set; `numbers` has one entry a column, `n` counts the prompts (or seeds) behind them."""

    model: str
    data: str
    method: str
    n: int
    numbers: tuple[Number | None, ...]
    partial: bool = False


@dataclass(frozen=True)
class Table:
    """A table to be written; rows of a model and data set stand together.

    Attributes:
        stem: its file name without the ending.
        title: one line.
        columns: what the numbers are.
        rows: all rows.
        spread: what follows the mean.
        notes: what a reader has to know, one sentence or more each.
        counted: what `n` counts.
        k: how many units were removed, where that is one number.
    """

    stem: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    spread: Spread
    notes: tuple[str, ...]
    counted: str = "prompts"
    k: int | None = None


MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")
"""Characters that Markdown reads as markup."""
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "−": "$-$", "—": "---", "–": "--", "…": r"\dots{}",
    LESS: r"$\bullet$", MORE: r"$\circ$", PARTIAL: r"\dag{}", APART: r"\ddag{}",
}  # fmt: skip


class Entry(NamedTuple):
    """A number as a reader sees it: the mean, what follows it, and its mark."""

    mean: str
    spread: str = ""
    mark: str = ""
    best: bool = False


def entry(number: Number | None, column: Column, table: Table) -> Entry:
    """A number in the column's decimals, with a true minus sign."""
    if number is None:
        return Entry(NOTHING)
    signed = table.spread == "interval"
    mean = _digits(number.mean, column, signed=signed)
    if table.spread == "none":
        return Entry(mean, "", number.mark, number.best)
    if not signed:
        spread = NOTHING if number.spread is None else _digits(number.spread, column)
        return Entry(mean, f"± {spread}", number.mark, number.best)
    if number.low is None or number.high is None:
        return Entry(mean, f"[{NOTHING}]", number.mark)
    return Entry(mean, f"[{_digits(number.low, column)}, {_digits(number.high, column)}]", number.mark)


def _digits(value: float, column: Column, *, signed: bool = False) -> str:
    least = 10.0**-column.digits
    if column.above_zero and value < least / 2:
        return f"< {least:.{column.digits}f}"
    rounded = round(value, column.digits) + 0.0  # no minus zero
    return f"{rounded:{'+' if signed and rounded else ''},.{column.digits}f}".replace("-", "−")


def blocks(table: Table) -> list[tuple[str, list[tuple[str, list[Row]]]]]:
    """The rows by model, and within a model by data set."""
    return [
        (model, [(data, list(rows)) for data, rows in groupby(of_model, key=lambda row: row.data)])
        for model, of_model in groupby(table.rows, key=lambda row: row.model)
    ]


def method_name(row: Row) -> str:
    """The row's method, with a mark where it finished too few prompts to be compared."""
    return row.method + (f" {PARTIAL}" if row.partial else "")


def markdown(table: Table) -> str:
    """The table as Markdown: a pipe table a model, then the notes."""
    parts = [f"### {_markdown(table.title)}"]
    header = ["data", "method", table.counted, *(column.heading for column in table.columns)]
    for model, sets in blocks(table):
        lines = [_pipes(map(_markdown, header)), _pipes(["---", "---", *["---:"] * (len(header) - 2)])]
        for data, rows in sets:
            for place, row in enumerate(rows):
                entries = [entry(*pair, table) for pair in zip(row.numbers, table.columns, strict=True)]
                texts = [
                    " ".join(filter(None, (f"**{e.mean}**" if e.best else e.mean, e.spread, e.mark))) for e in entries
                ]
                name = _markdown(data) if place == 0 else ""
                lines.append(_pipes([name, _markdown(method_name(row)), str(row.n), *texts]))
        parts += [f"**Model: {_markdown(model)}**", "\n".join(lines)]
    return "\n\n".join([*parts, *map(_markdown, table.notes)]) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float for the packages booktabs and graphicx."""
    columns = ["Data", "Method", table.counted.capitalize(), *(column.heading for column in table.columns)]
    lines = []
    for model, sets in blocks(table):
        lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\textbf{{{_latex(model)}}}}} \\"]
        for data, rows in sets:
            lines.append(r"\midrule")
            for place, row in enumerate(rows):
                entries = [entry(*pair, table) for pair in zip(row.numbers, table.columns, strict=True)]
                texts = [_latex_entry(item) for item in entries]
                name = "{}" + _latex(data) if place == 0 else ""  # \midrule reads a "[" that follows it
                lines.append(" & ".join([name, _latex(method_name(row)), str(row.n), *texts]) + r" \\")
    return "\n".join([
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        r"\begin{table*}",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 2)}}}",
        r"\toprule",
        " & ".join(map(_latex, columns)) + r" \\",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{_latex(table.title)}. {' '.join(map(_latex, table.notes))}}}",
        rf"\label{{tab:{table.stem}}}",
        r"\end{table*}",
        "",
    ])  # fmt: skip


def csv_text(table: Table) -> str:
    """The table as CSV, a number a line; an entry without a number has none of its fields."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    spread = {"interval": ["low", "high", "mark"], "none": ["mark"]}.get(table.spread, [table.spread, "best"])
    writer.writerow(["model", "data", "method", "column", "better", "n", "mean", *spread])
    words = {LESS: "less faithful", MORE: "more faithful", "": ""}
    for row in table.rows:
        for number, column in zip(row.numbers, table.columns, strict=True):
            key = [*map(csv_name, (row.model, row.data, row.method, column.key)), column.better]
            if number is None:
                writer.writerow([*key, 0, "", *[""] * len(spread)])
                continue
            rest = [number.spread, int(number.best)]
            if table.spread in ("interval", "none"):
                rest = [*([number.low, number.high] if table.spread == "interval" else []), words[number.mark]]
            writer.writerow([*key, number.n, number.mean, *rest])
    return file.getvalue()


def narrowed(table: Table, metrics: Sequence[str] = (), decimals: int | None = None) -> Table:
    """The table with fewer columns, or with other decimals.

    Args:
        table: the whole table.
        metrics: keys of the columns to keep, in this order; a table that has none of them keeps all. Empty for all.
        decimals: of every number; None for those of the table.
    """
    keys = [column.key for column in table.columns]
    places = [keys.index(name) for name in metrics if name in keys] or list(range(len(keys)))
    columns = [table.columns[i] for i in places]
    if decimals is not None:
        columns = [replace(column, digits=decimals) for column in columns]
    rows = tuple(replace(row, numbers=tuple(row.numbers[i] for i in places)) for row in table.rows)
    return replace(table, columns=tuple(columns), rows=rows)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", one_line(text))


def csv_name(text: str) -> str:
    """A name that a spreadsheet takes for text: an apostrophe stands before what it would run as a formula."""
    shown = visible(text)
    return f"'{shown}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else shown


def _latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def _latex_entry(item: Entry) -> str:
    mean = rf"\textbf{{{_latex(item.mean)}}}" if item.best else _latex(item.mean)
    spread = rf"{{\scriptsize {_latex(item.spread)}}}" if item.spread else ""
    return " ".join(filter(None, (mean, spread, _latex(item.mark))))
