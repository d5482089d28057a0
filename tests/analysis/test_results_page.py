"""A page whose tables come from reports, on a report that is made up."""

import runpy
from pathlib import Path

import pytest

PAGE = runpy.run_path(str(Path(__file__).parents[2] / "analysis" / "results_page.py"))

REPORT = """### Faithfulness with k = 3 tokens removed

**Model: bundled**

| data | method | prompts | BLEU ↓ | PR ↓ |
| --- | --- | ---: | ---: | ---: |
| tldr\\_news | random | 3 | 0.378 ± 0.188 | 0.850 ± 0.066 |
|  | joint | 4 | 0.020 ± 0.004 | **0.507** ± 0.076 |
| alpaca | joint | 3 | 0.057 ± 0.038 | 0.608 ± 0.176 |

Mean ± standard error over prompts.

| another | table |
| --- | --- |
"""


@pytest.fixture
def runs(tmp_path):
    report = tmp_path / "runs" / "table1" / "report"
    for name in ("tables", "figures"):
        (report / name).mkdir(parents=True)
    (report / "tables" / "faithfulness-k3.md").write_text(REPORT)
    (report / "figures" / "convergence-bundled-k3.png").write_bytes(b"a picture")
    return tmp_path / "runs"


def block(head: str, old: str = "old\n") -> str:
    return f"Before.\n\n<!-- {head} -->\n{old}<!-- end -->\n\nAfter.\n"


def test_a_table_shows_the_columns_that_are_asked_for(runs, tmp_path):
    page, missing = PAGE["filled"](block("table table1/faithfulness-k3: PR ↓"), runs, tmp_path)
    assert not missing
    assert page == block(
        "table table1/faithfulness-k3: PR ↓",
        "\n| data | method | prompts | PR ↓ |\n| --- | --- | --: | --: |\n"
        "| tldr_news | random | 3 | 0.850 ± 0.066 |\n|  | joint | 4 | **0.507** ± 0.076 |\n"
        "| alpaca | joint | 3 | 0.608 ± 0.176 |\n\n",
    )
    assert PAGE["filled"](page, runs, tmp_path) == (page, [])


def test_a_pivot_has_a_row_a_data_set_and_a_column_a_method(runs, tmp_path):
    page, _ = PAGE["filled"](block("pivot table1/faithfulness-k3: PR ↓"), runs, tmp_path)
    assert "| PR ↓ | prompts | random | joint |" in page
    assert "| tldr_news | 3 to 4 | 0.850 | **0.507** |" in page
    assert "| alpaca | 3 |  | 0.608 |" in page


def test_a_picture_is_copied_beside_the_page(runs, tmp_path):
    page, _ = PAGE["filled"](block("picture table1/convergence-bundled-k3: log p against work"), runs, tmp_path)
    assert "![log p against work](images/results/table1-convergence-bundled-k3.png)" in page
    assert (tmp_path / "images/results/table1-convergence-bundled-k3.png").read_bytes() == b"a picture"


def test_what_is_not_there_stays_as_it_was_and_is_named(runs, tmp_path):
    for head, named in (
        ("table gemma/table1/faithfulness-k3: PR ↓", "the table gemma/table1/faithfulness-k3"),
        ("picture figure6/convergence: curves", "the figure figure6/convergence"),
        ("output when_joint_helps.py figure5", "the run figure5"),
    ):
        assert PAGE["filled"](block(head), runs, tmp_path) == (block(head), [named])


def test_a_column_that_no_report_has_is_refused(runs, tmp_path):
    with pytest.raises(SystemExit, match="no column ROUGE; there are data, method, prompts, BLEU ↓, PR ↓"):
        PAGE["filled"](block("table table1/faithfulness-k3: ROUGE"), runs, tmp_path)
    with pytest.raises(SystemExit, match=r"ambiguous_words.py: .*holds no benchmark run"):
        PAGE["filled"](block("output ambiguous_words.py table1"), runs, tmp_path)
