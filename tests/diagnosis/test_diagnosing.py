"""Diagnoses of a model: the numbers redone, the parts of an answer, the command."""

import json
import math

import pytest
import torch

import jopa
import tiny_models
from jopa.diagnosis.diagnosing import diagnose
from jopa.errors import LimitError
from jopa.explanation.searching import smallest_sufficient
from jopa.problem import SENDING_LIMIT
from jopa.prompt.answer_parts import Part, parts_of, sentences_of
from table_scorer import TableScorer, TableWhiteBoxScorer

# A tiny model


@pytest.fixture(scope="module")
def found(llama):
    return diagnose(
        "tell me about the rain . write a story about green birds", model=llama, unit=[(0, 24), (24, 56)],
        output="there was rain . green birds met", removal="delete",
    )  # fmt: skip


def test_every_number_is_that_of_a_removal_done_anew(found, llama):
    prompt = jopa.build_prompt(llama.tokenizer, found.prompt, unit=[(0, 24), (24, 56)])
    output = jopa.Output(found.output_ids, found.output, found.target)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete", reuse_prefix=False)
    keep = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    rows = scorer.log_probs(keep).double()
    assert found.log_prob == pytest.approx(float(rows[0].sum()), abs=1e-4)
    assert found.log_prob_removed == pytest.approx(float(rows[3].sum()), abs=1e-4)
    for unit in (0, 1):
        fall = rows[0] - rows[1 + unit]
        assert found.table[unit] == pytest.approx([float(fall[p.start : p.end].sum()) for p in found.parts], abs=1e-4)


TOKENS = ["Sure", "!", " The", " dog", " costs", " 3", ".", "5", ".", " ", "\n", "x", " =", " 1", "\n"]


def parts(target):
    ends = [len("".join(TOKENS[: i + 1])) for i in range(len(TOKENS))]
    return parts_of("".join(TOKENS), ends, target)


def test_sentences_tile_the_target_with_whole_tokens():
    assert parts((0, len(TOKENS))) == (
        Part("Sure!", 0, 2),
        Part("The dog costs 3.5.", 2, 11),
        Part("x = 1", 11, 15),
    )
    assert parts((1, 4)) == (Part("Sure!", 1, 2), Part("The dog costs 3.5.", 2, 4))


def test_bytes_of_one_character_stay_together():
    text = "Hi. 犬."
    assert parts_of(text, [2, 3, 4, 4, 5, 6], (0, 6)) == (Part("Hi.", 0, 3), Part("犬.", 3, 6))


def test_a_model_s_output_is_cut_by_what_its_tokens_show(llama):
    ids = llama.encode_continuation("there was rain")
    assert sentences_of(jopa.Output(ids, "there was rain", (1, 3)), llama.decode) == (Part("there was rain", 1, 3),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"band": (0.0, 1.05)}, "the band must reach from above 0"),
        ({"band": (1.01, 1.05)}, "and hold 1, got 1.01 to 1.05"),
        ({"removal": "burn"}, "unknown removal 'burn'"),
        ({"requests": (2,)}, "requests must name some of the prompt's"),
        ({"options": jopa.PromptOptions(language="deutsch!")}, "the language must be a code"),
        ({"unit": "syllable"}, "unknown unit 'syllable'"),
    ],
)
def test_bad_settings_are_named(llama, settings, message):
    with pytest.raises(jopa.SettingError, match=message):
        diagnose("tell me about the rain", model=llama, **settings)


# The smallest sufficient set


def needs_three(removed):
    """Two tokens' worth of one: units 1, 3 and 4 together take the answer away; any one alone takes a little."""
    return -1.0 - 0.1 * len(removed & {1, 3, 4}) - 3.0 * ({1, 3, 4} <= removed)


@pytest.mark.parametrize("name", ["joint", "jopa", "exhaustive", "ablation"])
def test_the_smallest_sufficient_set_is_found(name):
    problem = jopa.Problem(TableWhiteBoxScorer(6, needs_three))
    settings = {"budget": 200} if name in ("joint", "jopa") else {}
    selection = smallest_sufficient(problem, jopa.make_method(name, **settings), 0.5, 5)
    assert set(selection.removed) == {1, 3, 4}
    record = selection.details["until_pr"]
    assert record["reached"] is True
    assert [step["k"] for step in record["tried"]] == [1, 2, 3]
    assert [step["pr"] for step in record["tried"]] == pytest.approx([math.exp(-0.1), math.exp(-0.2), math.exp(-3.3)])
    if name in ("joint", "exhaustive"):
        assert [step["certificate"] for step in record["tried"]] == ["optimal"] * 3
    assert "PR falls below 0.5 with 3 of at most 5 units" in selection.stop


def test_it_says_so_when_no_set_is_sufficient():
    problem = jopa.Problem(TableScorer(6, lambda removed: -1.0 - 0.1 * len(removed) + 0.5 * (len(removed) == 3)))
    selection = smallest_sufficient(problem, jopa.make_method("exhaustive"), 0.5, 3)
    record = selection.details["until_pr"]
    assert record["reached"] is False
    assert len(selection.removed) == 2  # three together do less
    assert "no set of up to 3 units was found that brings PR below 0.5" in selection.stop


class LimitedTable(TableScorer):
    """Stops a search over six units after every pair."""

    def log_probs(self, keep):
        if any(len(keep[0]) - int(row.sum()) > 2 for row in keep):
            raise LimitError("no more")
        return super().log_probs(keep)


def test_a_search_that_the_limit_ended_says_so_whatever_set_it_gives():
    def pairs_do_less(removed):
        return -1.0 - 0.2 * (len(removed) == 1) - 0.1 * (len(removed) == 2)

    problem = jopa.Problem(LimitedTable(6, pairs_do_less))
    selection = smallest_sufficient(problem, jopa.make_method("exhaustive"), 1e-9, 5)
    assert len(selection.removed) == 1
    assert [step["k"] for step in selection.details["until_pr"]["tried"]] == [1, 2]
    assert selection.stop.endswith(f"; {SENDING_LIMIT}")


class FewMasks(TableScorer):
    """Takes a number of masks and no more."""

    def __init__(self, n_units, log_prob, most):
        super().__init__(n_units, log_prob)
        self.most = most

    @property
    def ffe_left(self):
        return self.most - self.ffe

    def reserve(self, masks):
        """Keeps nothing."""

    def log_probs(self, keep):
        if len(keep) > self.ffe_left:
            raise LimitError("no more")
        return super().log_probs(keep)


@pytest.mark.parametrize(
    ("name", "most", "tried"),
    [("exhaustive", 4, [1]), ("exhaustive", 9, [1, 2]), ("ablation", 4, [1]), ("greedy", 4, [1]), ("trac-llm", 6, [1])],
)
def test_what_was_scored_before_the_limit_is_an_answer_also_without_a_selection(name, most, tried):
    def log_prob(removed):
        return -1.0 - 0.1 * len(removed) - 0.2 * (1 in removed)

    problem = jopa.Problem(FewMasks(6, log_prob, most))
    selection = smallest_sufficient(problem, jopa.make_method(name), 1e-9, 5)
    record = selection.details["until_pr"]
    assert [step["k"] for step in record["tried"]] == tried and not record["reached"]
    assert selection.stop.endswith(f"; {SENDING_LIMIT}")
    scored = {units: score for units, score in problem.scored.items() if 1 <= len(units) <= 5}
    assert problem.log_prob(selection.removed) == pytest.approx(min(scored.values()))


def test_a_set_that_was_scored_before_the_limit_may_be_sufficient():
    problem = jopa.Problem(FewMasks(6, needs_three, 10))
    selection = smallest_sufficient(problem, jopa.make_method("exhaustive"), 0.95, 5)
    assert selection.removed == (1,) and selection.details["until_pr"]["reached"]
    with pytest.raises(LimitError):
        smallest_sufficient(jopa.Problem(FewMasks(6, needs_three, 1)), jopa.make_method("exhaustive"), 0.5, 5)


def test_the_lowest_of_very_small_ratios_is_found():
    problem = jopa.Problem(TableScorer(6, lambda removed: -1.0 - 13.0 * len(removed)))
    selection = smallest_sufficient(problem, jopa.make_method("exhaustive"), 1e-30, 3)
    assert len(selection.removed) == 3  # PR 1e-17, below 2e-6 of one unit


def test_one_nested_run_answers_every_k():
    one = jopa.Problem(TableScorer(6, needs_three))
    smallest_sufficient(one, jopa.JointSearch(budget=41), 0.5, 3)
    assert one.evaluations <= 42  # 1 + 6 + 15 + 20: nothing twice, nothing beyond


def tried(a):
    assert a.details is not None
    return a.details["until_pr"]


def test_explain_takes_until_pr(llama):
    prompt = "write a story about the doctor and his patient"
    answer, half = jopa.Generation(4), jopa.SearchOptions(until_pr=0.5, max_k=2)
    a = jopa.explain(prompt, model=llama, method="exhaustive", search=half, output=answer)
    record = tried(a)
    assert a.k == len(a.removed)
    assert record["tried"][a.k - 1]["pr"] == pytest.approx(a.probability_ratio, rel=1e-5)
    assert record["reached"] == (a.probability_ratio < 0.5)
    assert jopa.Attribution.from_json(a.to_json()) == a
    never = jopa.SearchOptions(until_pr=1e-30, max_k=2)
    b = jopa.explain(prompt, model=llama, method="exhaustive", search=never, output=answer)
    assert tried(b)["reached"] is False
    never = jopa.SearchOptions(until_pr=1e-30)
    c = jopa.explain("write a story", model=llama, method="ablation", search=never, output=answer)
    assert [step["k"] for step in tried(c)["tried"]] == [1, 2, 3]  # all units, fewer than 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"until_pr": 0.0}, "until_pr must be above 0 and at most 1, got 0"),
        ({"until_pr": 1.5}, "until_pr must be above 0 and at most 1, got 1.5"),
        ({"until_pr": 0.5, "max_k": 0}, "max_k must be at least 1, got 0"),
        ({"max_k": 4}, "max_k limits the search for until_pr"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
    ],
)
def test_bad_limits_are_named(settings, message):
    with pytest.raises(jopa.SettingError, match=message):
        jopa.SearchOptions(**settings)


# The command line


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`jopa explain` with the tiny model in this process; returns exit code, stdout and stderr."""
    from jopa import cli
    from jopa.model import loading

    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny_models.language_model("llama"))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["jopa", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_the_command_diagnoses_by_sentence(run, tmp_path):
    text = "tell me about the rain\nwrite a story about green birds"
    files = ("--json", tmp_path / "d.json", "--html", tmp_path / "d.html")
    code, out, _ = run("explain", text, "--diagnose", "--band", "0.9:1.1", "--max-new-tokens", 6, *files)
    assert code == 0
    assert "Requests" in out
    record = json.loads((tmp_path / "d.json").read_text())
    assert len(record["prompt"]["units"]) == 2
    assert record["band"] == [0.9, 1.1]
    assert "</html>" in (tmp_path / "d.html").read_text()


def test_the_command_says_when_no_k_is_enough(run):
    options = ("--until-pr", "1e-30", "--max-k", 2, "--method", "ablation", "--max-new-tokens", 4)
    code, out, err = run("explain", "write a story about the doctor", *options)
    assert code == 0  # that there is none is an answer
    assert "no set of up to 2 units was found that brings PR below 1e-30" in err
    assert "not reached" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--diagnose", "--budget", 5], 2, "leave out --budget"),
        (["--diagnose", "--until-pr", 0.5], 2, "leave out --until-pr"),
        (["--diagnose", "--k", 3], 2, "leave out --k"),
        (["--diagnose", "--method", "joint"], 2, "leave out --method"),
        (["--diagnose", "--band", "wide"], 1, "cannot read the band 'wide'"),
        (["--until-pr", 0.5, "--k", 2], 2, "--until-pr finds k: leave out --k"),
        (["--band", "0.9:1.1"], 2, "--band needs --diagnose"),
        (["--max-k", 3], 1, "max_k limits the search for until_pr"),
    ],
)
def test_bad_options_are_one_clear_line(run, arguments, code, message):
    got, out, err = run("explain", "write a story", *arguments)
    assert got == code
    assert message in err
    assert not out
