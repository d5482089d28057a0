"""The options of `jopa serve`, as the page gets them; nothing is served."""

import pytest
from typer.testing import CliRunner

from jopa import cli
from jopa.web import server
from jopa.web.limits import RequestLimits


@pytest.fixture
def served(monkeypatch):
    given = {}
    monkeypatch.setattr(server, "serve", lambda load, **settings: given.update(settings))
    return given


def test_the_page_has_limits_and_a_way_to_put_prompts(served):
    options = ["--template-arg", "enable_thinking=false", "--max-tokens", "9000", "--max-seconds", "30"]
    result = CliRunner().invoke(cli.app, ["serve", *options])
    assert result.exit_code == 0, result.output
    assert (served["limits"].tokens, served["limits"].characters, served["limits"].seconds) == (9000, 90_000, 30)
    assert served["options"].template_args == {"enable_thinking": False}
    assert CliRunner().invoke(cli.app, ["serve", "--plain"]).exit_code == 0
    assert served["options"].plain


def test_without_options_the_limits_are_the_usual_ones(served):
    assert CliRunner().invoke(cli.app, ["serve"]).exit_code == 0
    assert served["limits"] == RequestLimits()
    assert not served["options"].rendering
