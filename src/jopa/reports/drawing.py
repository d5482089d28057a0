"""Lines with bands, and bars, by matplotlib: the appearance of the figures, independent of their content.

Methods differ in colour (Okabe and Ito's, safe for colour-blind readers), line style and marker, so that they can be
told apart in grey print, too. Names come from strangers and are never read as formulas.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError
from jopa.reports.estimates import Estimate
from jopa.reports.wording import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#6B4E16", "#000000")
_BASELINE = "#D55E00"
_LINES = ("--", "-.", ":", (0, (7, 2, 1, 2, 1, 2)), (0, (3, 1.5)))
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "h", "d", "*", "p")
_FONT = "DejaVu Sans"
_NO_GLYPH = re.compile(r"Glyph (\d+) .* missing from font")
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "hatch.linewidth": 0.8,
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Curve:
    """A method's means at several places, with standard errors where there is more than one prompt."""

    method: str
    x: tuple[float, ...]
    values: tuple[Estimate, ...]


@dataclass(frozen=True)
class Panel:
    """Curves of all methods between the same axes."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    at: tuple[int, ...] = ()
    """The only places that have a meaning on the x axis, if not all have."""


@dataclass(frozen=True)
class Bars:
    """A value of each method, drawn from zero."""

    title: str
    values: tuple[Estimate | None, ...]


@contextmanager
def style(more: dict[str, Any] | None = None) -> Iterator[None]:
    """Matplotlib's settings for these figures, for the time of a block.

    What the font of the figures lacks is taken from the fonts that the user named in matplotlib's own settings.

    Raises:
        SettingError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context, rcParams
    except ImportError as error:
        raise SettingError("figures need the package matplotlib: pip install 'jopa[plots]'") from error
    settings: Any = _STYLE | {"font.family": [_FONT, *rcParams["font.family"]]} | (more or {})
    with rc_context(settings):
        yield


@contextmanager
def missing_glyphs_in_one_warning() -> Iterator[None]:
    """Matplotlib's warnings of characters that it has no font for, one each and again for every file, as one."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    glyphs = [_NO_GLYPH.match(str(item.message)) for item in caught]
    for item, glyph in zip(caught, glyphs, strict=True):
        if glyph is None:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    if missing := "".join(dict.fromkeys(chr(int(glyph[1])) for glyph in glyphs if glyph)):
        warnings.warn(
            f"figures show boxes in place of '{missing}': name a font that has them in matplotlib's settings, as "
            "'font.sans-serif: Noto Sans CJK SC' in a file 'matplotlibrc'",
            stacklevel=3,
        )


def save(drawing: Figure, stem: str, folder: Path) -> tuple[Path, Path]:
    """Write the figure as PNG and SVG; the same records give the same bytes."""
    png, svg = folder / f"{stem}.png", folder / f"{stem}.svg"
    with style({"svg.hashsalt": stem}):
        drawing.savefig(png, dpi=DPI, metadata={"Software": None})
        drawing.set_layout_engine("none")  # the layout is done: the SVG does not compute it again
        drawing.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg


def draw_lines(panels: Sequence[Panel], methods: Sequence[str], baseline: str | None, columns: int) -> Figure:
    """Curves with error bands, `columns` panels a row, one legend for all."""
    rows = math.ceil(len(panels) / columns)
    figure, grid = _grid(max(6.0, 3.7 * columns), 3.1 * rows + 0.8, rows, columns)
    known: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=False):
        for curve in panel.curves:
            known[curve.method] = _draw_curve(axes, curve, _line_style(curve.method, methods, baseline))
        axes.set(xlabel=panel.x_label, title=_plain(panel.title, 40))
        axes.margins(x=0.04)
        if panel.at:
            axes.set_xticks(panel.at)
    for axes, panel in zip(grid[::columns], panels[::columns], strict=True):
        axes.set_ylabel(_plain(panel.y_label))
    for axes in grid[len(panels) :]:
        axes.remove()
    order = [method for method in methods if method in known]
    names = [_plain(method, 34) for method in order]
    per_row = max(1, min(len(names), int(figure.get_figwidth() * 11 / (max(map(len, names), default=1) + 8))))
    figure.legend(
        [known[method] for method in order], names, loc="outside lower center", ncols=per_row, frameon=False,
        handlelength=3.4,
    )  # fmt: skip
    return figure


def draw_bars(methods: Sequence[str], panels: Sequence[Bars], baseline: str | None) -> Figure:
    """Horizontal bars from zero, a panel a metric, names of the methods once a row."""
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = [_plain(method, 34) for method in methods]
    left = 0.085 * max(map(len, names))
    figure, grid = _grid(
        left + 2.0 * columns, rows * (0.8 + 0.24 * max(3, len(methods))) + 0.2, rows, columns, sharey=True
    )
    places = range(len(methods))
    for axes, panel in zip(grid, panels, strict=False):
        for place, method, value in zip(places, methods, panel.values, strict=True):
            _draw_bar(axes, place, value, own=method == baseline)
        axes.axvline(0, color="#333333", linewidth=0.8)
        axes.set(title=_plain(panel.title), ylim=(len(methods) - 0.4, -0.6))
        axes.set_yticks(places, names)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _grid(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` inches with a grid of panels, row by row, that do not touch."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.13, h_pad=0.09))
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()


def _draw_curve(axes: Axes, curve: Curve, style: dict[str, Any]) -> Any:
    """One line with its band; what the legend shows of it."""
    means = [value.mean for value in curve.values]
    errors = [value.spread or 0.0 for value in curve.values]
    every = max(1, len(means) // 6)
    (line,) = axes.plot(curve.x, means, **style, markevery=every)
    low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
    axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.11, linewidth=0)
    return line


def _draw_bar(axes: Axes, place: int, value: Estimate | None, *, own: bool) -> None:
    """One bar with its whisker, or a dash where there is no number."""
    if value is None:
        axes.text(0, place, " —", va="center", ha="left", color="#555555")
        return
    face, hatch = (_BASELINE, "") if own else ("#c9d8e6", "////")
    whisker = {"xerr": value.spread, "ecolor": "#222222", "capsize": 2.5} if value.spread is not None else {}
    axes.barh(place, value.mean, 0.72, color=face, edgecolor="#7d2f00" if own else "#5d7f9e", hatch=hatch, **whisker)


def _line_style(method: str, methods: Sequence[str], baseline: str | None) -> dict[str, Any]:
    """Colour, line and marker of a method, the same in every panel; the baseline is thick and solid."""
    size = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    if method == baseline:
        return {"color": _BASELINE, "linestyle": "-", "marker": "o", "linewidth": 2.4, "zorder": 3, **size}
    place = [other for other in methods if other != baseline].index(method)
    looks = {
        name: choices[place % len(choices)]
        for name, choices in (("color", _COLOURS), ("linestyle", _LINES), ("marker", _MARKERS))
    }
    return {**looks, "linewidth": 1.4, **size}


def _plain(text: str, width: int = 60) -> str:
    """Text that matplotlib shows as it is: no formula, no name it would hide, and not too long."""
    if len(text) > width:
        text = f"{text[: width - width // 3 - 1]}…{text[len(text) - width // 3 :]}"
    return (" " if text.startswith("_") else "") + one_line(text).replace("$", r"\$")
