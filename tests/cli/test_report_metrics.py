"""`jopa report --metrics`: names that are given twice, and no names."""

import pytest

from synthetic_run import cell, experiment, write_run


@pytest.fixture
def folder(tmp_path):
    names = ["p1", "p2", "p3"]
    methods = ["joint", "random"]
    return write_run(tmp_path / "run", experiment(methods), [cell(m, name) for name in names for m in methods])


def test_a_metric_that_is_named_twice_is_one_column(run, folder):
    code, _out, err = run("report", folder, "--metrics", "kl,pr, kl")
    assert code == 0, err
    latex = (folder / "report" / "tables" / "faithfulness-k3.tex").read_text()
    assert latex.count("KL $") == latex.count("PR $") == 1
    assert latex.index("KL $") < latex.index("PR $")


@pytest.mark.parametrize("names", ["", ",", " , "])
def test_no_metric_is_not_all_of_them(run, folder, names):
    code, _out, err = run("report", folder, "--metrics", names)
    assert code == 1
    assert "--metrics names none; give one or more, as --metrics pr,kl, or leave it out for all" in err
    assert not (folder / "report").exists()
