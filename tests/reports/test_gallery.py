"""The gallery of a run's records: which examples it picks, and what it shows of them."""

import subprocess
import sys

import pytest

import jopa
import synthetic_run as made
from jopa.benchmark.records import read_run
from jopa.reports.gallery import chosen_examples, extremes, write_gallery

METHODS = ["joint", "ablation"]


def pair_of_cells(name, lead, **more):
    """Both methods' cells of a prompt, the first's joint effect `lead` nats above the other's 4."""
    first = made.cell("joint", name, k=2, **more) | {"log_prob_removed": -6.0 - lead, "removed": [4, 6]}
    first |= {"individual": [0.25, 0.125], "synergy": 4.0 + lead - 0.375, "counterfactual_output": "no *star*\n- list"}
    second = made.cell("ablation", name, k=2, **more) | {"log_prob_removed": -6.0, "removed": [0, 1]}
    return [first, second | {"individual": [2.0, 1.0], "synergy": 1.0}]


def run_folder(folder, leads, extra=(), **plan):
    cells = [cell for name, lead in leads.items() for cell in pair_of_cells(name, lead)]
    return made.write_run(folder, made.experiment(METHODS, **{"ks": (2,), **plan}), [*cells, *extra])


def test_the_largest_median_and_smallest_lead_are_shown(tmp_path):
    folder = run_folder(tmp_path / "run", {"p1": 0.5, "p2": 3.0, "p3": -1.0, "p4": 1.0, "p5": 0.25})
    examples = chosen_examples(read_run(folder), ("joint", "ablation"), 2)
    assert [(e.name, e.reason) for e in examples] == [
        ("p2", "the largest lead"),
        ("p1", "the median lead"),
        ("p3", "the smallest lead"),
    ]
    assert [e.lead for e in examples] == pytest.approx([3.0, 0.5, -1.0])


def test_seeds_and_k_that_were_left_out_are_not_shown(tmp_path):
    """Seed 5 and k = 3 came first on record; the experiment has neither any more."""
    first = [cell for lead in (9.0,) for cell in pair_of_cells("p1", lead, seed=5)]
    first += [made.cell(method, "p1", k=3) for method in METHODS]
    now = pair_of_cells("p1", 0.5)
    folder = made.write_run(tmp_path / "run", made.experiment(METHODS, ks=(2,)), [*first, *now])
    _, text = write_gallery(folder)
    assert "k = 2" in text.read_text().splitlines()[0]
    assert "+0.50 nats" in text.read_text() and "+9.00" not in text.read_text()
    assert "seed 5, k = 3 of ablation, joint" in text.read_text()


def test_one_prompt_may_be_picked_for_several_reasons(tmp_path):
    folder = run_folder(tmp_path / "run", {"p1": 0.5})
    (example,) = chosen_examples(read_run(folder), ("joint", "ablation"), 2)
    assert example.reason == "the largest and median and smallest lead"


def test_of_equal_values_the_first_comes_first_and_the_median_is_the_lower_of_two():
    assert extremes({"a": 1.0, "b": 2.0, "c": 2.0, "d": 0.0}) == {"b": ["largest"], "a": ["median"], "d": ["smallest"]}
    assert extremes({}) == {}


def test_both_pictures_of_an_example_have_one_scale(tmp_path):
    folder = run_folder(tmp_path / "run", {"p1": 6.0})
    (example,) = chosen_examples(read_run(folder), ("joint", "ablation"), 2)
    widest, narrow = (side.bars for side in example.sides)
    # Joint effects of 10 and 4 nats; nothing goes below 0 or above 10.
    assert [(bar.value, bar.start, bar.end) for bar in (widest[-1], narrow[-1])] == [(10.0, 0.0, 1.0), (4.0, 0.0, 0.4)]
    assert [(bar.value, bar.start, bar.end) for bar in narrow[:3]] == [
        (2.0, 0.0, pytest.approx(0.2)),
        (1.0, pytest.approx(0.2), pytest.approx(0.3)),
        (1.0, pytest.approx(0.3), pytest.approx(0.4)),
    ]


def test_a_bar_below_zero_moves_the_zero_of_both_pictures(tmp_path):
    cells = pair_of_cells("p1", 0.0)
    cells[1] |= {"log_prob_removed": -1.0, "individual": [1.0, -2.0], "synergy": 0.0}  # joint effect -1, down from 1
    folder = made.write_run(tmp_path / "run", made.experiment(METHODS, ks=(2,)), cells)
    (example,) = chosen_examples(read_run(folder), ("joint", "ablation"), 2)
    first, second = (side.bars for side in example.sides)
    assert (first[-1].start, first[-1].end) == pytest.approx((0.2, 1.0))  # from -1 to 4: zero is at a fifth
    assert (second[-1].start, second[-1].end) == pytest.approx((0.0, 0.2))


def test_each_data_set_has_its_own_examples(tmp_path):
    cells = [c for data in ("alpaca", "mhc") for c in pair_of_cells("p1", 1.0, data=data)]
    folder = made.write_run(tmp_path / "run", made.experiment(METHODS, data=("alpaca", "mhc"), ks=(2,)), cells)
    assert [e.data for e in chosen_examples(read_run(folder), ("joint", "ablation"), 2)] == ["alpaca", "mhc"]


def test_page_and_markdown_show_both_methods(tmp_path):
    folder = run_folder(tmp_path / "run", {"p1": 3.0, "p2": -1.0})
    page, text = write_gallery(folder)
    assert page == folder / "gallery" / "index.html"
    html, markdown = page.read_text(), text.read_text()
    assert html.count('<article class="example">') == 2
    assert html.count('title="removed unit') == 8  # two examples, two methods, two units
    assert "On 1 of these 2 examples joint is no better than ablation." in html
    assert "**the** doctor **his**" not in markdown
    assert "write a story about **the** doctor **and** his patient" in markdown
    assert "**write** **a** story about the doctor" in markdown
    assert "| the | +0.25 |" in markdown
    assert "| joint effect | +7.00 |" in markdown
    assert "- Removal: delete (of the evaluation)" in markdown
    assert "<dt>Removal</dt><dd>delete (of the evaluation)</dd>" in html
    assert "> no \\*star\\*  \n> \\- list" in markdown
    assert "alone:" not in markdown  # there is no cell with k = 1
    assert "The answer without “" not in html


def test_a_better_method_everywhere_is_said_to_be(tmp_path):
    _, text = write_gallery(run_folder(tmp_path / "run", {"p1": 3.0, "p2": 1.0}))
    assert "joint is better than ablation on every prompt of the run" in text.read_text()


def test_the_answer_without_one_unit_is_shown_where_it_is_on_record(tmp_path):
    single = made.cell("ablation", "p1", k=1) | {"removed": [6], "counterfactual_output": "nearly the same"}
    folder = run_folder(tmp_path / "run", {"p1": 3.0}, [single], ks=(1, 2))
    page, text = write_gallery(folder, tmp_path / "out")
    assert text == tmp_path / "out" / "gallery.md"
    assert "The answer without “and” alone:\n\n> nearly the same" in text.read_text()
    assert page.read_text().count("The answer without “and” alone") == 1


def test_hostile_text_is_shown_as_text(tmp_path):
    cells = pair_of_cells("p1", 1.0)
    for cell in cells:
        cell["counterfactual_output"] = made.HOSTILE
    example = made.example("p1", output=made.HOSTILE)
    folder = made.write_run(tmp_path / "run", made.experiment(METHODS, ks=(2,)), cells, [example])
    page, text = write_gallery(folder)
    html, markdown = page.read_text(), text.read_text()
    assert "<script" not in html
    assert "\x1b" not in html + markdown
    assert "\u202e" not in html + markdown
    assert "\\<script\\>" in markdown


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["joint"], "give two methods of the run to compare, got joint: it has joint, ablation"),
        (["joint", "magic"], "got joint, magic"),
        (["joint", "joint"], "got joint, joint"),
        ([], "got none"),
    ],
)
def test_two_methods_of_the_run_are_needed(tmp_path, methods, message):
    folder = run_folder(tmp_path / "run", {"p1": 1.0})
    with pytest.raises(jopa.SettingError, match=message):
        write_gallery(folder, methods=methods)


def test_a_run_without_a_common_prompt_is_refused(tmp_path):
    cells = [pair_of_cells("p1", 1.0)[0], pair_of_cells("p2", 1.0)[1]]
    folder = made.write_run(tmp_path / "run", made.experiment(METHODS, ks=(2,)), cells)
    with pytest.raises(jopa.InputFileError, match="has no prompt that both joint and ablation finished at k = 2"):
        write_gallery(folder)


def test_the_command_prints_what_it_wrote(tmp_path):
    folder = run_folder(tmp_path / "run", {"p1": 1.0})
    command = [sys.executable, "-m", "jopa", "gallery", str(folder), "--methods", "ablation;joint"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(folder / "gallery" / name) for name in ("index.html", "gallery.md")]
    assert "ablation and joint on the same prompts" in (folder / "gallery" / "index.html").read_text()
