"""`jopa` in this process, with a tiny model."""

import sys

import pytest

import tiny_models


@pytest.fixture
def run(tmp_path_factory, monkeypatch, capsys):
    """Run `jopa` with the tiny model and a cache of its own; returns exit code, stdout and stderr."""
    from jopa import cli
    from jopa.model import loading, threads

    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny_models.language_model("llama"))
    monkeypatch.setattr(threads, "use_threads", lambda asked=None: threads.Threads(asked or 1, "made up"))
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path_factory.mktemp("cache")))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jopa", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call
