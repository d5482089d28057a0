"""Pictures of explanations: each is drawn, light and dark, and shows the numbers of the attribution."""

from dataclasses import replace

import pytest

import jopa

pytest.importorskip("matplotlib")
from jopa.reports.plots import plot_comparison, plot_effects, plot_prompt, plot_search
from jopa.reports.progress import progress_bar


@pytest.fixture(scope="module")
def found(llama):
    return jopa.compare(
        "write a story about\nthe doctor $x_1$ and his patient",
        ["joint", "ablation"],
        k=2,
        model=llama,
        unit="word",
        output=jopa.Generation(max_new_tokens=4),
    )


@pytest.mark.parametrize("dark", [False, True])
def test_every_picture_can_be_written(found, dark, tmp_path):
    figures = [plot_effects(found[0], dark=dark), plot_prompt(found[0], dark=dark), plot_comparison(found, dark=dark)]
    if len(found[0].trace) > 1:
        figures.append(plot_search(found[0], dark=dark))
    for number, figure in enumerate(figures):
        for ending in ("svg", "png"):
            figure.savefig(tmp_path / f"{number}.{ending}")
            assert (tmp_path / f"{number}.{ending}").stat().st_size > 2000
        brightness = sum(figure.get_facecolor()[:3])
        assert brightness < 1 if dark else brightness == 3


def test_a_notebook_shows_the_picture(found):
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(plot_effects(found[0]))
    assert shown["image/png"].startswith(b"\x89PNG")


def test_bars_are_the_effects_and_the_synergy(found):
    a = found[0]
    widths = [patch.get_width() for patch in plot_effects(a).axes[0].patches]
    assert widths == pytest.approx([*a.individual, sum(a.individual), a.joint, a.synergy])


def test_the_map_holds_the_whole_prompt(found):
    shown = [item.get_text() for item in plot_prompt(found[1]).axes[0].texts]
    for word in found[1].prompt.split():
        assert any(word.replace("$", r"\$") in piece for piece in shown), word


def test_what_cannot_be_drawn_is_refused(found):
    with pytest.raises(jopa.SettingError, match="'ablation' left no trace"):
        plot_search(found[1])
    with pytest.raises(jopa.SettingError, match="no explanation to compare"):
        plot_comparison([])
    with pytest.raises(jopa.SettingError, match="only explanations of one prompt and output"):
        plot_comparison([found[0], replace(found[1], removal="zero")])


def test_the_progress_bar_follows_the_work(llama, capsys):
    with progress_bar(leave=True) as progress:
        jopa.explain(
            "write a story", k=1, model=llama, method="ablation", output=jopa.Generation(max_new_tokens=4),
            callbacks=jopa.Callbacks(progress=progress),
        )  # fmt: skip
    assert "100%" in capsys.readouterr().err
