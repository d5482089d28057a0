"""Every command and every Python snippet of the README and the documentation runs.

A tiny model stands in for the one that is named. What needs a server, the hub or a cluster is parsed, not run.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import jopa
import tiny_models
from jopa import cli
from jopa.model import loading, threads

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}[^\n]*\n)+)")
INLINE = re.compile(r"`(jopa [a-z][^`]*)`")
NOT_RUN = ("--endpoint", "--ray", "--ray-address", "--together")
"""Options of commands that need a server or a cluster."""
PROMPT = "Write a story about the doctor and his patient."


class Snippet(NamedTuple):
    """A piece of a page: its name there, and its text."""

    place: str
    text: str


def snippets(language: str) -> list[Snippet]:
    """The code blocks of one language, in the order of the pages; "" for commands."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCED.finditer(text):
            if match[1] == language:
                found.append(Snippet(f"{page.name}:{text[: match.start()].count(chr(10)) + 2}", match[2]))
        if language == "":
            outside = FENCED.sub("", text)
            found += [Snippet(page.name, match[1]) for match in INDENTED.finditer(outside)]
    return found


def commands(*, inline: bool = False) -> list[Snippet]:
    """Every line that begins with `jopa`, with the lines that a backslash joins to it."""
    found = []
    for place, text in snippets(""):
        for line in text.replace("\\\n", " ").splitlines():
            words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line.strip())
            if words.startswith("jopa "):
                found.append(Snippet(place, words))
    if inline:
        for page in PAGES:
            text = FENCED.sub("", page.read_text(encoding="utf-8"))
            found += [Snippet(page.name, match[1].replace("\n", " ")) for match in INLINE.finditer(text)]
    return found


def words_of(command: str) -> list[str]:
    return shlex.split(command, comments=True)[1:]


def is_run(words: list[str]) -> bool:
    """Whether a command can be run here: without a server, a cluster or the hub."""
    if words[0] == "serve" or any(word in NOT_RUN for word in words):
        return False
    if words[0] in ("report", "gallery"):
        return words[1] == "runs/mine"
    return words[0] != "bench" or "--data" in words


# What is parsed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", commands(inline=True), ids=lambda snippet: f"{snippet.place} {snippet.text:.60}")
def test_a_command_has_the_options_that_the_page_says(snippet):
    words = words_of(snippet.text)
    group = typer.main.get_command(cli.app)
    assert words[0] in group.commands, f"no such command: {snippet.text}"
    parser = group.commands[words[0]]
    known = {name for parameter in parser.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "--debug"}
    for word in words[1:]:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in known, f"{word} is no option of jopa {words[0]}"


def test_there_are_commands_to_try():
    assert len(commands()) >= 40
    assert len([1 for snippet in commands() if is_run(words_of(snippet.text))]) >= 25
    assert len(snippets("python")) >= 12


def test_the_make_targets_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name}: make {target}"
    for place, text in snippets(""):
        for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{place}: make {target}"


# What is run ----------------------------------------------------------------------------------------------------------


def readers_model() -> jopa.LanguageModel:
    """A tiny model that reads any text and has room for all prompts of the pages."""
    return tiny_models.sentence_model("byte-level-qwen", num_hidden_layers=1)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the pages name: prompts, chats, documents, experiments."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    longer = (
        f"{PROMPT} It should be short, and it should end well for both of the two people."  # as the sets' filters ask
    )
    line = json.dumps({"id": "story", "prompt": longer, "question": "What is 2 + 2?", "options": ["A)3", "B)4"]})
    for name in ("prompts", "my-alpaca", "jbb-benign", "aqua-questions"):
        (folder / f"{name}.jsonl").write_text(line + "\n")
    harmless = [json.dumps({"id": str(number), "prompt": f"Say {number}."}) + "\n" for number in range(20)]
    (folder / "harmless.jsonl").write_text("".join(harmless))
    for name in ("a.txt", "b.txt", "prompt.txt", "prompts.txt"):
        (folder / name).write_text(f"{PROMPT}\nThen write a poem {name[0]}.\n")
    for name in ("first.json", "second.json"):
        (folder / name).write_text((ROOT / "examples" / "chat.json").read_text())
    for name in ("prompts", "FOLDER"):
        (folder / name).mkdir()
        for number, text in enumerate(
            ("The shop is open on Monday.", "The doctor met two people.", "It rains.", "Ok.")
        ):
            (folder / name / f"{number}.txt").write_text(text)
    (folder / "explain.toml").write_text(next(text for place, text in snippets("toml") if "explanations" in place))
    return folder


@pytest.fixture
def reader(desk, tmp_path_factory, monkeypatch):
    """Work at the desk, with the tiny model wherever one is loaded."""
    monkeypatch.chdir(desk)
    monkeypatch.setattr(loading, "load", lambda *_, **__: readers_model())
    monkeypatch.setattr(jopa, "load", lambda *_, **__: readers_model())
    monkeypatch.setattr("jopa.benchmark.cells.load", lambda *_, **__: readers_model())
    monkeypatch.setattr(threads, "use_threads", lambda asked=None: threads.Threads(asked or 1, "made up"))
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path_factory.mktemp("cache")))
    return desk


def page_of(snippet: Snippet) -> str:
    return snippet.place.split(":")[0]


@pytest.mark.parametrize("page", sorted({page_of(s) for s in commands() if is_run(words_of(s.text))}))
def test_the_commands_of_a_page_run_one_after_the_other(page, reader, monkeypatch, capsys):
    for snippet in commands():
        words = words_of(snippet.text)
        if page_of(snippet) != page or not is_run(words):
            continue
        if words[0] in ("explain", "bench"):
            words += ["--max-new-tokens", "4"]
        if words[0] == "explain" and not {"--unit", "--cite"} & set(words):
            words += ["--unit", "word"]
        if words[0] == "explain" and not {"--compare", "--diagnose", "--cite"} & set(words):
            words += ["--budget", "6"]
        if words[0] == "bench" and "--methods" not in words and "table1" in words[1]:
            words += ["--methods", "joint;ablation;random"]  # the others take a minute
        monkeypatch.setattr(sys, "argv", ["jopa", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert not exit_.value.code, f"{snippet.text}\n{capsys.readouterr().err}"


NEEDS_THE_HUB = 'load_dataset("tldr_news"'


@pytest.fixture
def tables():
    """The tables of methods, metrics and data sets, back as they were afterwards."""
    from jopa.datasets.sources import DATASETS
    from jopa.evaluation.metrics import METRICS

    before = [(table, set(table)) for table in (jopa.METHODS, METRICS, DATASETS)]
    yield
    for table, names in before:
        for name in set(table) - names:
            table.forget(name)


@pytest.mark.parametrize("page", sorted({page_of(snippet) for snippet in snippets("python")}))
def test_the_python_of_a_page_runs_from_its_first_line_to_its_last(page, reader, tables):
    names = {"model": readers_model(), "first": PROMPT, "second": PROMPT.replace("story", "poem")}
    for place, text in snippets("python"):
        if page_of(Snippet(place, text)) == page:
            code = compile(text, place, "exec")
            if NEEDS_THE_HUB not in text:
                exec(code, names)
