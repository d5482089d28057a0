"""Fill the tables and pictures of a page from the folders of `jopa bench`, so that its numbers are their output.

    python analysis/results_page.py RUNS docs/results.md

Reports of the runs must be there (`jopa report`). A block of the page begins with a comment that says what belongs
into it and ends with `<!-- end -->`; what stands between is written anew:

    <!-- table table1/faithfulness-k3: BLEU ↓, PR ↓ -->      columns of a table of the report, beside data and method
    <!-- pivot table1/faithfulness-k3: PR ↓ -->              the means of one column, data sets × methods
    <!-- output when_joint_helps.py table1 -->               what a script of this folder prints about runs
    <!-- picture figure6/convergence-bundled-k3: curves -->   a figure of the report, copied beside the page

A block whose run or report is not there stays as it is, and is named. Runs no model.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import dropwhile, takewhile
from pathlib import Path

from jopa.storage import write_text

BLOCK = re.compile(r"(<!-- (table|pivot|output|picture) (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PICTURES = Path("images/results")
"""Where pictures lie, beside the page."""
LABELS = {"data", "method", "prompts", "seeds"}
"""Columns that say what a row is about; always kept."""


class MissingRunError(Exception):
    """What a block asks for is not there."""


def main() -> None:
    """Fill the page; exit with 1 if something that a block asks for is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder whose folders are runs of `jopa bench`")
    parser.add_argument("page", type=Path, help="a Markdown file with blocks")
    arguments = parser.parse_args()
    text, missing = filled(arguments.page.read_text(encoding="utf-8"), arguments.runs, arguments.page.parent)
    write_text(arguments.page, text)
    for each in missing:
        print(f"left as it was: {each}", file=sys.stderr)
    sys.exit(1 if missing else 0)


def filled(page: str, runs: Path, folder: Path) -> tuple[str, list[str]]:
    """The page with its blocks written anew, and what was missing.

    Args:
        page: Markdown.
        runs: the folder of the runs.
        folder: that of the page; pictures are copied below it.
    """
    missing: list[str] = []
    makers: dict[str, Callable[[str], str]] = {
        "table": lambda asked: table(*_named_columns(asked, runs)),
        "pivot": lambda asked: pivot(*_named_columns(asked, runs)),
        "output": lambda asked: output(asked, runs),
        "picture": lambda asked: picture(asked, runs, folder),
    }

    def fill(block: re.Match[str]) -> str:
        head, kind, asked, old, end = block.groups()
        try:
            return f"{head}\n{makers[kind](asked).strip()}\n\n{end}"
        except MissingRunError as error:
            missing.append(str(error))
            return f"{head}{old}{end}"

    return BLOCK.sub(fill, page), missing


def table(rows: list[list[str]], columns: list[str]) -> str:
    """The columns of a report's table that are asked for, beside those that say what a row is about."""
    head = rows[0]
    _require_columns(head, columns)
    kept = [i for i, name in enumerate(head) if name in LABELS or name in columns]
    lines = [[row[i] for i in kept] for row in rows]
    return "\n".join(
        _line(line) for line in [lines[0], ["---" if i < 2 else "--:" for i in range(len(kept))], *lines[1:]]
    )


def pivot(rows: list[list[str]], columns: list[str]) -> str:
    """The means of one column of a report's table: a row a data set, a column a method; bold as in the report."""
    head, (column,) = rows[0], columns
    _require_columns(head, [column])
    at, n_at = head.index(column), head.index("prompts")
    means: dict[str, dict[str, str]] = {}  # of each data set and method
    numbers: dict[str, set[str]] = {}
    data = ""
    for row in rows[1:]:
        data = row[0] or data
        means.setdefault(data, {})[row[1]] = row[at].split(" ± ")[0]
        numbers.setdefault(data, set()).add(row[n_at])
    methods = list(dict.fromkeys(method for own in means.values() for method in own))
    lines = [[f"{column}", "prompts", *methods], ["---", *["--:"] * (len(methods) + 1)]]
    for name, own in means.items():
        lines.append([name, " to ".join(sorted(numbers[name], key=int)), *(own.get(each, "") for each in methods)])
    return "\n".join(_line(line) for line in lines)


def output(asked: str, runs: Path) -> str:
    """What a script of this folder prints; arguments without a dash are runs.

    Raises:
        MissingRunError: a run is not there.
    """
    script, *given = asked.split()
    arguments = [each if each.startswith("-") else str(_run(runs, each)) for each in given]
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def picture(asked: str, runs: Path, folder: Path) -> str:
    """Copy a figure of a report to the page's pictures, and show it.

    Raises:
        MissingRunError: the figure is not there.
    """
    name, _, description = asked.partition(": ")
    found = _of_report(runs, name, "figure", "png")
    copy = folder / PICTURES / f"{name.replace('/', '-')}.png"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, copy)
    return f"![{description}]({PICTURES.as_posix()}/{copy.name})"


def _named_columns(asked: str, runs: Path) -> tuple[list[list[str]], list[str]]:
    """The rows of the table that is asked for, its head first, and the columns to show.

    Raises:
        MissingRunError: the table is not there.
    """
    name, _, columns = asked.partition(": ")
    lines = _of_report(runs, name, "table", "md").read_text(encoding="utf-8").splitlines()
    after = dropwhile(lambda line: not line.startswith("|"), lines)
    rows = list(takewhile(lambda line: line.startswith("|"), after))
    cells = [[cell.strip().replace("\\_", "_") for cell in row.strip("|").split("|")] for row in rows]
    return [cells[0], *cells[2:]], [column.strip() for column in columns.split(",")]


def _of_report(runs: Path, name: str, kind: str, ending: str) -> Path:
    """The file of a report that `RUN/NAME` stands for.

    Raises:
        MissingRunError: it is not there.
    """
    run, _, file = name.rpartition("/")
    found = runs / run / "report" / f"{kind}s" / f"{file}.{ending}"
    if not found.is_file():
        raise MissingRunError(f"the {kind} {name}")
    return found


def _run(runs: Path, name: str) -> Path:
    """The folder of a run.

    Raises:
        MissingRunError: it is not there.
    """
    folder = runs / name
    if not folder.is_dir():
        raise MissingRunError(f"the run {name}")
    return folder


def _require_columns(head: list[str], columns: list[str]) -> None:
    unknown = [column for column in columns if column not in head]
    if unknown:
        raise SystemExit(f"no column {', '.join(unknown)}; there are {', '.join(head)}")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
