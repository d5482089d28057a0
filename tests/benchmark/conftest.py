"""A tiny benchmark of a model that is loaded once, and the records of a run that nothing interrupted."""

from pathlib import Path

import pytest

import tiny_bench
from jopa.benchmark.run import run_bench


@pytest.fixture(scope="module")
def home(tmp_path_factory, llama) -> Path:
    return tiny_bench.save(tmp_path_factory.mktemp("bench"), llama)


@pytest.fixture
def loaded(llama, home, monkeypatch):
    """The model is loaded once, not once a run; its name is that of its folder."""
    monkeypatch.setattr("jopa.benchmark.cells.load", lambda source, **_: tiny_bench.model_of(str(source)))


@pytest.fixture(scope="module")
def reference(home, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jopa.benchmark.cells.load", lambda source, **_: tiny_bench.model_of(str(source)))
        run_bench(tiny_bench.experiment(home), folder)
    return folder
