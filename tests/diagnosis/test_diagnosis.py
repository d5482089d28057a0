"""What the answer makes of each request: planted tables, a tiny model redone by hand, and what people see."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import jopa
import tiny_models
from jopa.attributing import smallest_sufficient
from jopa.diagnosis.diagnosing import diagnose, measured
from jopa.prompt.answer_parts import Part, parts_of, sentences_of
from jopa.prompt.building import Unit
from jopa.prompt.request_guess import guessed_requests
from jopa.reports.diagnosis_html import diagnosis_html, diagnosis_verdict
from jopa.reports.terminal import diagnosis_view
from table_scorer import TableScorer, TableWhiteBoxScorer

PROMPT = (
    "Create a message to complain about the noise in the neighborhood to friends. "
    "Give me the Python code for filtering results. Please."
)
REQUESTS = (
    "Create a message to complain about the noise in the neighborhood to friends. ",
    "Give me the Python code for filtering results. ",
    "Please.",
)
PARTS = (Part("Hi all <b>!</b>", 0, 2), Part("The noise is \x1b[31mloud.", 2, 3), Part("Bye | now", 3, 6))
BAND = (0.95, 1.05)


class Tokens(TableScorer):
    """Token log-probabilities: −1 each, less what a function of the removed units takes from each of them."""

    def __init__(self, n_units, falls):
        super().__init__(n_units, lambda units: 0.0)
        self.falls = falls

    def log_probs(self, keep):
        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += removed
        return torch.stack([-1.0 - torch.tensor(self.falls(units)) for units in removed])


def complaint(removed):
    """The complaint (unit 0) makes the first two sentences; nobody asked for the code (unit 1) or the plea (2)."""
    falls = [0.0] * 6
    if 0 in removed:
        falls = [1.0, 2.0, 4.0, 0.0, 0.25, -0.25]
    if 2 in removed:
        falls[5] += 0.06
    if removed == {0, 1, 2}:
        falls = [2.0, 2.0, 4.0, 1.0, 1.0, 0.0]
    return falls


def diagnosis(falls=complaint, band=BAND, n=3, prompt=PROMPT, requests=REQUESTS):
    units, start = [], 0
    for position, text in enumerate(requests[:n]):
        units.append(Unit(text, start, start + len(text), (position,)))
        start += len(text)
    known = {"model": {"id": "table", "revision": None, "dtype": "float32", "device": "cpu"}, "prompt": prompt}
    known |= {"input_ids": (1, 2, 3), "units": tuple(units), "output": "Hi all!", "output_ids": (9,) * 6}
    known |= {"removal": "delete", "seed": 0, "versions": {"jopa": "0"}}
    known |= {"requests": tuple(range(n)), "requests_given": False, "cut_off": False}
    return measured(jopa.Problem(Tokens(n, falls)), PARTS, target=(0, 6), band=band, **known)


def test_the_planted_requests_are_told_apart():
    d = diagnosis()
    assert d.log_prob == pytest.approx(-6.0)
    assert d.joint == pytest.approx(10.0)
    assert d.individual == pytest.approx((7.0, 0.0, 0.06))
    assert d.ratios == pytest.approx((math.exp(-7 / 6), 1.0, math.exp(-0.01)))
    assert d.table[0] == pytest.approx((3.0, 4.0, 0.0))
    assert d.per_token[0] == pytest.approx((1.5, 4.0, 0.0))
    assert d.shares == pytest.approx((0.7, 0.0, 0.006))
    assert d.synergy == pytest.approx(2.94)
    assert d.shares is not None
    assert sum(d.shares) + d.synergy / d.joint == pytest.approx(1.0)
    assert d.without_influence == (1, 2)
    assert d.drives == ((1, 0), (), ())  # 4 nats a token, then 1.5
    assert d.drivers == ((0,), (0,), ())
    assert d.together_ratio == pytest.approx(math.exp(-0.01))
    assert d.evaluations == 6  # whole, all, three alone, the two ignored together


def test_the_band_decides_what_is_ignored_and_driven():
    narrow = diagnosis(band=(0.995, 1.0))
    assert narrow.without_influence == (1,)
    assert narrow.together is None


def said(d):
    return "".join(piece.text for piece in diagnosis_verdict(d))


def test_requests_that_stand_in_for_each_other_are_said_to():
    d = diagnosis(lambda removed: [2.0 if {0, 1} <= removed else 0.0] * 6)
    assert d.without_influence == (0, 1, 2)
    assert d.together_ratio == pytest.approx(math.exp(-2))
    assert d.shares == (0.0, 0.0, 0.0)
    assert d.interaction == 1
    assert "some stand in for others" in said(d)


def test_small_effects_that_add_up_are_no_redundancy():
    d = diagnosis(lambda removed: [0.03 * len(removed)] * 6)  # PR 0.97 each, 0.91 all at once
    assert d.without_influence == (0, 1, 2)
    assert d.together_ratio == pytest.approx(math.exp(-0.09))
    assert d.interaction == 0
    assert "stand in" not in said(d) and "counteract" not in said(d)


def test_units_that_counteract_are_the_other_direction():
    d = diagnosis(lambda removed: [0.04 if len(removed) == 1 else 0.0] * 6)
    assert d.interaction == -1
    assert "they counteract one another" in said(d)


def test_a_difference_within_rounding_shows_nothing():
    d = diagnosis(lambda removed: [5e-5 if {0, 1} <= removed else 0.0] * 6, band=(0.99999, 1.0))
    assert d.interaction == 0


def test_every_sentence_ranks_the_units_that_drive_it():
    def falls(removed):
        row = [0.0] * 6
        if 0 in removed:
            row[:3] = [1.07, 1.07, 1.44]  # its mark on the first sentence does not hang on the second
        if 1 in removed:
            row[2] += 0.3  # a fifth of the strongest
            row[0] += 0.6
            row[1] += 0.6
        return row

    d = diagnosis(falls)
    assert d.drivers == ((0, 1), (0,), ())
    assert d.drives == ((1, 0), (0,), ())
    record = json.loads(d.to_json())
    assert [entry["unit"] for entry in record["drivers"][0]] == [0, 1]
    assert record["drivers"][0][1]["nats_per_token"] == pytest.approx(0.6)
    assert "+1.07▲1" in terminal(d) and "+0.60▲2" in terminal(d)


def test_a_cut_off_answer_and_the_guess_are_said():
    d = replace(diagnosis(), cut_off=True, requests=(1,))
    assert "cut off at its limit of 6 tokens" in said(d)
    assert "(1 of 1 requests, guessed)" in said(d)
    assert "no measurable influence on this answer" in said(d)
    assert "guessed" not in said(replace(d, requests_given=True))
    assert "U1" in terminal(d) and "R2" in terminal(d)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (["I am a nurse. ", "Write a poem. ", "Do not use any table. ", "\n"], (1, 2)),
        (["Where is it? ", "It was red."], (0,)),
        (["Das Haus ist alt. ", " "], (0,)),
    ],
)
def test_requests_are_guessed(units, expected):
    assert guessed_requests(units) == expected


def test_there_are_no_shares_of_nothing():
    d = diagnosis(lambda removed: [-0.5 * len(removed)] * 6)  # the answer is likelier without the prompt
    assert d.shares is None
    assert d.without_influence == ()  # it is not unchanged
    assert d.drives == ((), (), ())
    assert json.loads(d.to_json())["shares"] is None
    assert "No unit drives a sentence." in diagnosis_html(d)


def test_a_sentence_that_one_request_drives_is_told_though_the_rest_makes_up_for_it():
    d = diagnosis(lambda removed: [3.0, 0.0, 0.0, -1.0, -1.0, -1.0] if 0 in removed else [0.0] * 6)
    assert 0 in d.without_influence
    assert d.drives[0] == (0,)
    assert "have no measurable influence on this answer (3 of 3 requests, guessed)." in said(d)
    assert said(d).endswith("R1 “Create a message to com…” drives S1 “Hi all <b>!</b>”.")


def test_json_holds_the_whole_table():
    d = diagnosis()
    record = json.loads(d.to_json())
    assert record["schema"] == 2
    assert record["kind"] == "diagnosis"
    assert [unit["text"] for unit in record["prompt"]["units"]] == list(REQUESTS)
    assert record["output"]["parts"][1] == {"text": PARTS[1].text, "start": 2, "end": 3}
    assert record["without_influence"] == [1, 2]
    assert record["drives"] == [[1, 0], [], []]
    assert record["per_token"][0] == pytest.approx([1.5, 4.0, 0.0])
    assert record["joint_ratio"] == pytest.approx(math.exp(-10 / 6))


def terminal(d, width=80) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(diagnosis_view(d))
    return console.export_text()


def test_the_terminal_shows_requests_and_table_within_80_columns():
    text = terminal(diagnosis())
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "no measurable influence",
        "+4.00▲1",
        "+1.50",
        "70 %",
        "drives S2",
        "FFE",
        "probability ratio",
        "complain",
    ):
        assert word in text, word
    assert "\x1b[31m" not in text


def test_many_requests_share_several_tables():
    requests = tuple(f"Do thing {i}. " for i in range(14))
    d = diagnosis(lambda removed: [0.1 * len(removed)] * 6, n=14, prompt="".join(requests), requests=requests)
    text = terminal(d)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"R{i + 1} " in text for i in range(14))
    assert text.count("sentence") >= 3


def test_the_heat_map_has_its_numbers_in_every_cell():
    page = diagnosis_html(diagnosis())
    assert page.count('<td class="cell') == 9
    assert page.count("▲1</td>") == 2
    assert "+4.00 ▲1" in page
    assert "−0.00" not in page
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "default-src 'none'" in page
    part = diagnosis()._repr_html_()
    assert "<html" not in part
    assert "jopa-diagnosis" in part


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
