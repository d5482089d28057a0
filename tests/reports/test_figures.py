"""Figures from records: what is drawn equals the tables, and nothing covers anything else."""

import sys
import warnings
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from jopa.benchmark.records import read_run
from jopa.errors import SettingError
from jopa.reports import drawing, figures, tables
from jopa.reports.drawing import Bars, Curve, Panel, draw_bars, draw_lines, save, style
from jopa.reports.estimates import Estimate
from synthetic_run import HOSTILE, cell, experiment, failed, made_up_run, write_run

TWELVE = [f"method number {i} with a long name_{i}" for i in range(11)] + ["$x^2$ & a name far too long to be shown"]


def curves_of(picture):
    """Every line of a drawing as (title of its panel, x, y)."""
    return [
        (axes.get_title(), list(line.get_xdata()), list(line.get_ydata()))
        for axes in picture.drawing.axes
        for line in axes.lines
    ]


def test_bars_are_the_numbers_of_the_table(tmp_path):
    run = read_run(made_up_run(tmp_path, ["joint", "random"], n=4))
    (picture,) = figures.comparisons(run)
    table = tables.faithfulness(run, 3)
    assert table is not None
    drawn = [[bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] for axes in picture.drawing.axes]
    assert len(drawn) == len(table.columns)
    for i, widths in enumerate(drawn):
        numbers = [row.numbers[i] for row in table.rows]
        assert widths == pytest.approx([number.mean if number else None for number in numbers])
    assert [axes.get_title() for axes in picture.drawing.axes] == [column.heading for column in table.columns]
    assert "joint" in picture.caption


def test_pr_against_k_uses_the_prompts_that_were_finished_at_every_k(tmp_path):
    cells = [
        *[cell("a", "p0", k=1, pr=0.8), cell("a", "p0", k=2, pr=0.6)],
        *[cell("a", "p1", k=1, pr=0.6), cell("a", "p1", k=2, pr=0.2)],
        *[cell("a", "p2", k=1, pr=0.1), failed("a", "p2", k=2)],
    ]
    run = read_run(write_run(tmp_path, experiment(["a"], ks=(1, 2)), cells))
    (picture,) = figures.pr_by_k(run)
    ((title, x, y),) = curves_of(picture)
    assert (title, x, y) == ("alpaca (2 prompts)", [1, 2], pytest.approx([0.7, 0.4]))


def test_one_k_makes_no_figure_of_k_and_no_trace_no_convergence(tmp_path):
    run = read_run(write_run(tmp_path, experiment(["a"]), [cell("a"), cell("a", "p2")]))
    assert [picture.stem for picture in figures.all_figures(run)] == ["comparison-tiny-alpaca-k3"]


def test_convergence_is_the_mean_of_what_the_searches_held(tmp_path):
    traces = {"p0": [[0, -1.0, 2, 3.0], [2, -5.0, 4, 5.0]], "p1": [[0, -3.0, 4, 3.0], [1, -7.0, 6, 4.0]]}
    cells = [cell("a", name, trace=trace) for name, trace in traces.items()]
    run = read_run(write_run(tmp_path, experiment(["a"]), cells))
    (picture,) = figures.convergence(run)
    by_axis = dict(zip(figures.AXES, curves_of(picture), strict=True))
    _, steps, values = by_axis[0]
    assert (steps[0], steps[-1]) == (0, 2)
    assert (values[0], values[-1]) == (pytest.approx(-2.0), pytest.approx(-6.0))
    assert values[len(values) // 2 + 1] == pytest.approx((-1.0 - 7.0) / 2)  # just after step 1
    _, evaluations, values = by_axis[2]
    assert (evaluations[0], evaluations[-1]) == (4, 6)  # before 4 evaluations, p1 held no set
    assert (values[0], values[-1]) == (pytest.approx((-5.0 - 3.0) / 2), pytest.approx(-6.0))


def boxes(artists, drawing):
    renderer = FigureCanvasAgg(drawing).get_renderer()
    return [artist.get_window_extent(renderer) for artist in artists if artist.get_text()]


@pytest.mark.parametrize("methods", [["joint", "random"], TWELVE], ids=["two", "twelve"])
def test_no_text_covers_another(tmp_path, methods):
    run = read_run(made_up_run(tmp_path, methods, n=3, ks=(1, 3), data=("alpaca", "tldr_news")))
    for picture in figures.all_figures(run):
        FigureCanvasAgg(picture.drawing).draw()
        texts = [text for legend in picture.drawing.legends for text in legend.get_texts()]
        for axes in picture.drawing.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
            for place, axis in enumerate((axes.xaxis, axes.yaxis)):
                low, high = sorted(axis.get_view_interval())
                ticks = [text for text in axis.get_ticklabels() if text.get_visible()]
                texts += [text for text in ticks if low <= text.get_position()[place] <= high]
        found = boxes(texts, picture.drawing)
        width, height = picture.drawing.get_size_inches() * picture.drawing.dpi
        for i, box in enumerate(found):
            assert box.x0 >= -1
            assert box.y0 >= -1
            assert box.x1 <= width + 1
            assert box.y1 <= height + 1
            assert not any(box.overlaps(other) for other in found[i + 1 :]), picture.stem


def test_methods_differ_in_more_than_colour():
    looks = [drawing._line_style(method, TWELVE, TWELVE[0]) for method in TWELVE]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == len(TWELVE)
    assert len({look["marker"] for look in looks}) == len(TWELVE)


def test_files_are_whole_and_the_same_each_time(tmp_path):
    values = tuple(Estimate(v, 0.1, 3) for v in (0.5, 0.4))
    panel = Panel("t", "k", "PR", (Curve("a", (1, 2), values), Curve("b", (1, 2), values)), at=(1, 2))
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        with style():
            picture = draw_lines([panel], ["a", "b"], "a", columns=1)
        written.append([path.read_bytes() for path in save(picture, "x", folder)])
    assert written[0] == written[1]
    png, svg = written[0]
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) >= 6 * 150
    assert ElementTree.fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize("label", [HOSTILE, "$\\frac{1}{$", "_hidden", "a-->b<!--", "$$", "two\nlines"])
def test_names_are_shown_as_they_are(tmp_path, label):
    values = (Estimate(0.5, None, 1), Estimate(0.4, None, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        warnings.filterwarnings("ignore", message="Glyph")  # a font need not have them
        with style():
            lines = draw_lines([Panel(label, "x", "y", (Curve(label, (1, 2), values),))], ["joint", label], "joint", 1)
            bars = draw_bars(["joint", label], [Bars("PR", values)], "joint")
        for name, picture in (("lines", lines), ("bars", bars)):
            _, svg = save(picture, name, tmp_path)
            ElementTree.fromstring(svg.read_bytes())
            assert b"<script" not in svg.read_bytes()
    (text,) = lines.legends[0].get_texts()
    assert text.get_text().replace("\\$", "$").strip()[:6] == label.replace("\n", " ")[:6]


def test_a_missing_number_is_a_dash(tmp_path):
    with style():
        picture = draw_bars(["a", "b"], [Bars("PR", (Estimate(0.5, 0.1, 3), None))], "a")
    (axes,) = picture.axes
    assert len(axes.patches) == 1
    assert [text.get_text().strip() for text in axes.texts] == ["—"]


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    run = read_run(write_run(tmp_path, experiment(["a"]), [cell("a")]))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install 'jopa\[plots\]'"):
        figures.all_figures(run)


def test_names_that_give_one_file_name_have_files_of_their_own(tmp_path):
    names = [("a/b", "d"), ("a_b", "d"), ("A_b", "d"), ("a", "b-d"), ("a-b", "d")]
    models, sets = (tuple(dict.fromkeys(column)) for column in zip(*names, strict=True))
    cells = [cell("joint", model=model, data=data, pr=0.1 * i + 0.1) for i, (model, data) in enumerate(names)]
    pictures = figures.all_figures(
        read_run(write_run(tmp_path, experiment(["joint"], models=models, data=sets), cells))
    )
    stems = [picture.stem for picture in pictures]
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert "comparison-a_b-d-k3" in stems


@pytest.mark.filterwarnings("default")
def test_characters_without_a_font_are_one_warning_and_the_users_font_is_taken(tmp_path):
    import matplotlib

    def saved():
        with style():
            figure = draw_bars(["中文", "\u16a0"], [Bars("PR", (Estimate(0.5, None, 1),) * 2)], None)
        with drawing.missing_glyphs_in_one_warning():
            for stem in ("a", "b"):
                save(figure, stem, tmp_path)

    with pytest.warns(UserWarning) as caught:
        saved()
    assert [str(item.message).split(":")[0] for item in caught] == ["figures show boxes in place of '中文\u16a0'"]
    with matplotlib.rc_context({"font.family": ["STIXGeneral"]}), style():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]
