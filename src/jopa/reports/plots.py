"""Pictures of explanations for notebooks, papers and slides, by matplotlib; light or dark.

    effects       what each chosen unit does alone, what all do together, and the synergy between them
    prompt        the prompt with each unit's effect as colour
    search        log p of the best set against the model work spent
    comparison    joint effect and cost of several methods on one output

Each function gives a matplotlib `Figure`: a notebook shows it, `figure.savefig("why.svg")` or `"why.png"` writes it.
Texts come from strangers and are never read as formulas. Sees attributions; runs no model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError
from jopa.reports.drawing import style
from jopa.reports.wording import nats, unit_name
from jopa.results.attribution import Attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 7.0
"""Of a figure, in inches."""
_LINE = 84
"""Characters of the prompt on a line of the heat map."""
_MAX_LINES = 60
"""Lines of the prompt that a heat map shows; what follows is left out and counted."""


@dataclass(frozen=True)
class _Colours:
    """One look: what is drawn on, text, faint lines, the chosen units, what they do together, and the opposite."""

    back: str
    text: str
    faint: str
    alone: str
    together: str
    against: str


_LIGHT = _Colours("#ffffff", "#1d1d1f", "#d8d8dc", "#5d7f9e", "#d55e00", "#0072b2")
_DARK = _Colours("#16181d", "#e8e8ea", "#3a3d45", "#8fb3d3", "#ff8a3c", "#56b4e9")


def plot_effects(attribution: Attribution, *, dark: bool = False) -> Figure:
    """Bars of what each chosen unit does alone, of their sum, and of all together; the rest is the synergy.

    Args:
        attribution: the explanation.
        dark: for a dark background.

    Raises:
        SettingError: matplotlib is not installed.
    """
    colours = _DARK if dark else _LIGHT
    names = [unit_name(unit.text, 26) for unit in attribution.chosen]
    alone = math.fsum(attribution.individual)
    rows = [*zip(names, attribution.individual, strict=True), ("sum of these", alone), ("together", attribution.joint)]
    with _figure(colours, 0.34 * len(rows) + 1.1) as (figure, axes):
        for place, (_, value) in enumerate(rows):
            colour = colours.together if place == len(rows) - 1 else colours.alone
            fade = 0.45 if place == len(rows) - 2 else 1.0
            axes.barh(place, value, 0.68, color=colour, alpha=fade)
            _number(axes, place, value, colours)
        together = len(rows) - 1
        axes.barh(
            together, attribution.synergy, 0.68, left=alone, facecolor="none", edgecolor=colours.text, hatch="////",
            linewidth=0.8,
        )  # fmt: skip
        axes.axvline(0, color=colours.text, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="effect of the removal, nats")
        axes.margins(x=0.14)
        axes.tick_params(axis="y", length=0)
        axes.set_title(
            f"PR {attribution.probability_ratio:.3f} · synergy {nats(attribution.synergy, signed=True)} nats (hatched)",
            loc="left",
        )
        axes.grid(visible=False, axis="y")
    return figure


def plot_prompt(attribution: Attribution, *, dark: bool = False) -> Figure:
    """The prompt, its units coloured by what is known of each: effects if they were asked for, else scores, else the
    effects of the chosen units alone. Chosen units are framed.

    Args:
        attribution: the explanation.
        dark: for a dark background.

    Raises:
        SettingError: matplotlib is not installed.
    """
    colours = _DARK if dark else _LIGHT
    values, meaning = _values(attribution)
    largest = max(map(abs, values.values()), default=0.0) or 1.0
    lines = list(_laid_out(attribution))
    shown = lines[:_MAX_LINES]
    with _figure(colours, 0.235 * len(shown) + 0.75) as (figure, axes):
        from matplotlib import rcParams

        fonts = ["DejaVu Sans Mono", *rcParams["font.family"]]
        for row, line in enumerate(shown):
            for column, text, unit in line:
                value = values.get(unit, 0.0) if unit is not None else 0.0
                box = None
                if unit is not None and (value or unit in attribution.removed):
                    strong = min(1.0, abs(value) / largest)
                    box = {
                        "boxstyle": "square,pad=0.12",
                        "facecolor": (colours.together if value >= 0 else colours.against)
                        + f"{round(25 + 190 * strong):02x}",
                        "edgecolor": colours.text if unit in attribution.removed else "none",
                        "linewidth": 0.9,
                    }
                axes.text(
                    column, row, _plain(text), family=fonts, fontsize=7.6, va="center", color=colours.text,
                    bbox=box,
                )  # fmt: skip
        left_out = f" · {len(lines) - len(shown)} more lines" if len(lines) > len(shown) else ""
        axes.set(xlim=(-1, _LINE), ylim=(len(shown) - 0.4, -0.8))
        axes.set_title(f"{meaning}; framed: the chosen units{left_out}", loc="left")
        axes.axis("off")
    return figure


def plot_search(attribution: Attribution, *, dark: bool = False) -> Figure:
    """log p of the set that the search held against the model work spent, in full-forward equivalents.

    Args:
        attribution: the explanation, by a method that searches.
        dark: for a dark background.

    Raises:
        SettingError: the method left no trace, or matplotlib is not installed.
    """
    if len(attribution.trace) < 2:
        raise SettingError(f"method '{attribution.method['name']}' left no trace of a search to draw")
    colours = _DARK if dark else _LIGHT
    with _figure(colours, 2.7) as (figure, axes):
        work = [step.ffe for step in attribution.trace]
        axes.step(
            work, [step.log_prob for step in attribution.trace], where="post", color=colours.together, linewidth=2
        )
        axes.axhline(attribution.log_prob, color=colours.alone, linewidth=1, linestyle="--")
        axes.annotate(
            "nothing removed", (work[-1], attribution.log_prob), ha="right", va="bottom", color=colours.alone,
        )  # fmt: skip
        axes.set(xlabel="model work, full-forward equivalents", ylabel="log p(output), nats")
        axes.set_title(f"{attribution.method['name']}: {attribution.stop}"[:90], loc="left")
        axes.margins(y=0.12)
    return figure


def plot_comparison(attributions: Sequence[Attribution], *, dark: bool = False) -> Figure:
    """The joint effect of what several methods chose, and the model work each spent.

    Args:
        attributions: explanations of one output by several methods, as `compare` gives them.
        dark: for a dark background.

    Raises:
        SettingError: there is none, they explain different outputs, or matplotlib is not installed.
    """
    if not attributions:
        raise SettingError("there is no explanation to compare")
    if len({(a.input_ids, a.output_ids, a.target, a.removal) for a in attributions}) > 1:
        raise SettingError("only explanations of one prompt and output, under one removal, can be compared")
    colours = _DARK if dark else _LIGHT
    best = max(attribution.joint for attribution in attributions)
    names = [_plain(str(attribution.method["name"])) for attribution in attributions]
    with _figure(colours, 0.34 * len(names) + 1.1, columns=2) as (figure, (effect, work)):
        for place, attribution in enumerate(attributions):
            colour = colours.together if attribution.joint == best else colours.alone
            effect.barh(place, attribution.joint, 0.68, color=colour)
            _number(effect, place, attribution.joint, colours)
            work.barh(place, attribution.ffe, 0.68, color=colours.alone)
            work.text(attribution.ffe, place, f" {attribution.ffe:.0f}", va="center", color=colours.text, fontsize=8)
        for axes in (effect, work):
            axes.set(ylim=(len(names) - 0.4, -0.6))
            axes.axvline(0, color=colours.text, linewidth=0.8)
            axes.margins(x=0.16)
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
        effect.set_yticks(range(len(names)), names)
        work.set_yticks(range(len(names)), [""] * len(names))
        effect.set(xlabel="joint effect, nats (more is better)")
        work.set(xlabel="model work, FFE (less is better)")
    return figure


@contextmanager
def _figure(colours: _Colours, height: float, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure of one look with its axes, several if there are several columns, for the time of drawing."""
    looks = {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), colours.back),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), colours.text),
        "axes.titlecolor": colours.text,
        "axes.edgecolor": colours.faint,
        "grid.color": colours.faint,
    }
    with style(looks):
        figure = _figure_class()(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(1, columns)


@cache
def _figure_class() -> type[Figure]:
    """Figures that notebooks show; those of matplotlib alone are shown only where pyplot was set up for it."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that gives notebooks its picture."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=144)
            return picture.getvalue()

    return ShownFigure


def _number(axes: Axes, place: int, value: float, colours: _Colours) -> None:
    """A number at the end of a bar."""
    text, side = (f" {nats(value)}", "left") if value >= 0 else (f"{nats(value)} ", "right")
    axes.text(value, place, text, va="center", ha=side, color=colours.text, fontsize=8)


def _values(attribution: Attribution) -> tuple[dict[int, float], str]:
    """A number for each unit that has one, and what it is."""
    if attribution.effects is not None:
        return dict(enumerate(attribution.effects)), "effect of each unit alone"
    if attribution.scores is not None:
        return dict(enumerate(attribution.scores)), f"scores of '{attribution.method['name']}'"
    return dict(zip(attribution.removed, attribution.individual, strict=True)), "effect of each chosen unit alone"


def _laid_out(attribution: Attribution) -> Iterator[list[tuple[int, str, int | None]]]:
    """The prompt in lines of pieces: column, text and unit; a unit that is longer than a line is cut into several."""
    pieces: list[tuple[str, int | None]] = []
    end = 0
    for index, unit in sorted(enumerate(attribution.units), key=lambda pair: pair[1].start):
        pieces += [(attribution.prompt[end : unit.start], None), (attribution.prompt[unit.start : unit.end], index)]
        end = max(end, unit.end)
    pieces.append((attribution.prompt[end:], None))
    line: list[tuple[int, str, int | None]] = []
    column = 0
    for text, unit in pieces:
        for number, part in enumerate(text.split("\n")):
            if number:
                yield line
                line, column = [], 0
            for word in _words(part):
                if column and column + len(word.rstrip()) > _LINE:
                    yield line
                    line, column = [], 0
                    word = word.lstrip()
                if line and line[-1][2] == unit and unit is not None:
                    start, before, _ = line[-1]
                    line[-1] = (start, before + word, unit)
                elif word:
                    line.append((column, word, unit))
                column += len(word)
    yield line


def _words(text: str) -> Iterator[str]:
    """The text in pieces that may stand at the beginning of a line, each with its blanks before it."""
    word = ""
    for char in text:
        if (char == " " and word.strip()) or len(word) >= _LINE:
            yield word
            word = ""
        word += char
    if word:
        yield word


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is."""
    return "".join(char if char.isprintable() else " " for char in text).replace("$", r"\$")
