"""`jopa explain --config FILE.toml`: the same names as the options; the command line wins."""

import json

import pytest

import jopa

PROMPT = "write a story about the doctor and his patient"


@pytest.fixture
def config(tmp_path):
    """A configuration file of this text."""

    def write(text):
        path = tmp_path / "explain.toml"
        path.write_text(text)
        return path

    return write


def explained(run, *arguments):
    code, out, err = run("explain", *arguments, "--json", "-")
    assert code == 0, err
    return jopa.Attribution.from_json(out)


def test_options_come_from_the_file_and_the_command_line_wins(run, config):
    path = config('k = 2\nunit = "word"\nmax-new-tokens = 3\nall_effects = true\nset = ["budget=8"]\nseed = 5\n')
    a = explained(run, PROMPT, "--config", path)
    assert (a.k, a.details["unit"], a.method["budget"], a.seed, len(a.output_ids)) == (2, "word", 8, 5, 3)
    assert a.effects is not None
    assert explained(run, "--config", path, "--k", 1, "--seed", 6, PROMPT).seed == 6


def test_a_table_stands_for_a_repeatable_option(run, config):
    path = config('max-new-tokens = 3\nmethod = "jopa"\n[set]\nsteps = 4\ninitial = "random"\n')
    assert explained(run, PROMPT, "--config", path).method["initial"] == "random"


def test_the_prompt_of_the_command_line_replaces_that_of_the_file(run, config, tmp_path):
    (tmp_path / "p.txt").write_text("write a story")
    path = config(f"max-new-tokens = 3\nk = 1\nfile = {json.dumps(str(tmp_path / 'p.txt'))}\n")
    assert explained(run, "--config", path).prompt == "write a story"
    assert explained(run, "--config", path, PROMPT).prompt == PROMPT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-new-token = 3", "names 'max-new-token', which is no option: did you mean 'max-new-tokens'?"),
        ("colour = 3", "names 'colour', which is no option: see"),
        ("config = 'x'", "names 'config', which is no option"),
        ("k = true", "expected a value, not true or false"),
        ("plain = 1", "expected true or false"),
        ("set = 'budget=1'", "expected a list of texts"),
        ("k = [1]", "expected one value"),
        ("k = ", "is no TOML"),
    ],
)
def test_what_a_file_cannot_say_is_one_line(run, config, text, message):
    code, out, err = run("explain", PROMPT, "--config", config(text))
    assert (code, out) == (1, "")
    assert message in err and len(err.splitlines()) == 1
    assert "cannot read" in run("explain", PROMPT, "--config", config(text).parent / "none.toml")[2]


def test_a_value_out_of_range_is_named_as_on_the_command_line(run, config):
    code, _, err = run("explain", PROMPT, "--config", config('k = "many"'))
    assert code == 2
    assert "--k" in err and "valid int" in err
