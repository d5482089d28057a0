"""Do the tests notice small faults? Changes one operator or number at a time, and runs the tests of that file. By hand:

    python benchmarks/mutation.py --sample 70 --seed 0 --out mutants.md

Takes a random sample of the changes that `mutations` knows, from each of scoring, problem and the default search. Each
changed package lies in a temporary folder; the repository stays as it is. One process imports the heavy packages, and
each change runs in a copy of that process (`os.fork`, so not on Windows). A change that no test notices is a survivor.
It is listed with its line, to be judged by a person: it may be an equivalent program, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import machine

ROOT = Path(__file__).parents[1]
SEARCH_TESTS = ("tests/methods/joint",)
SCORING_TESTS = (
    "tests/scoring/test_batch_planning.py",
    "tests/scoring/test_profile.py",
    "tests/scoring/test_rounding.py",
    "tests/scoring",
)
# What is changed, and which tests are to notice it: the quick ones first, as the first failure ends a run.
TESTS = {
    "src/jopa/problem.py": (
        "tests/test_problem.py",
        *SEARCH_TESTS,
        "tests/test_ordering.py",
        "tests/methods/test_contract.py",
    ),
    "src/jopa/methods/joint": (*SEARCH_TESTS, "tests/methods/test_termination.py"),
    "src/jopa/scoring": SCORING_TESTS,
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
HEAVY = (
    *("beartype", "captum.attr", "httpx", "hypothesis", "jaxtyping", "pytest", "sklearn.pipeline", "torch"),
    "transformers.models.llama.modeling_llama",
)
PASSED = 0  # how pytest ends


def _changed(node: ast.AST) -> ast.AST | None:
    """What stands in this node's place, None where nothing is known."""
    new: Any = copy.copy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new.ops = [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        new.op = ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        new.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        new.value = node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0
    else:
        return None
    return new


def mutations(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield pairs of a node and what stands in its place, in the order of the file.

    Left alone: shapes and other annotations, texts, what an error says, and imports for the type checker alone.
    """
    if isinstance(tree, (ast.Raise, ast.JoinedStr)) or (
        isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test)
    ):
        return
    new = _changed(tree)
    if new:
        yield tree, new
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from mutations(child)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def mutant(text: str, number: int) -> tuple[str, str]:
    """The program with its change of that number, and that change in words: the line, before and after."""
    tree = ast.parse(text)
    old, new = list(mutations(tree))[number]
    words = f"{getattr(old, 'lineno', '?')}: `{ast.unparse(old)}` → `{ast.unparse(new)}`"
    return ast.unparse(_Replace(old, new).visit(tree)), words


def files_of(place: str) -> list[Path]:
    """The Python files of a path of the repository."""
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def preload() -> None:
    """Import what the tests' conftest imports before jopa, once for all changes."""
    for name in HEAVY:
        importlib.import_module(name)


def run_tests(source: Path, tests: tuple[str, ...], seconds: float) -> int | None:
    """The status of pytest over a changed package, None where it took longer than that many seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.environ["PYTHONPATH"] = str(source)
        sys.path.insert(0, str(source))
        for name in [name for name in sys.modules if name.partition(".")[0] == "jopa"]:
            del sys.modules[name]  # what this script imported is not the changed package
        status = 70
        try:
            import pytest

            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
            status = int(pytest.main([*options, *dict.fromkeys(tests)]))
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> int:
    """Run a sample, and print what no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sample", type=int, default=70, help="changes to try of each file or folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="the longest run of the tests of one change")
    parser.add_argument("--only", choices=sorted(TESTS), help="changes of this file or folder alone")
    parser.add_argument(
        "--number", action="append", metavar="FILE:NUMBER", help="these changes, as the output names them"
    )
    parser.add_argument("--out", type=Path, help="a file for the survivors, as Markdown")
    given = parser.parse_args()
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    places = [given.only] if given.only else list(TESTS)
    known = {
        place: [
            (place, path, number)
            for path in files_of(place)
            for number in range(len(list(mutations(ast.parse(path.read_text())))))
        ]
        for place in places
    }
    random_ = random.Random(given.seed)
    chosen = []
    for all_ in known.values():  # a larger sample begins with the smaller one
        chosen += random_.sample(all_, len(all_))[: given.sample]
    if given.number:
        named = set(given.number)
        chosen = [item for all_ in known.values() for item in all_ if f"{item[1].relative_to(ROOT)}:{item[2]}" in named]
    preload()
    survivors, noticed, started = [], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for place in dict.fromkeys(item[0] for item in chosen):
            if run_tests(source, TESTS[place], given.seconds) != PASSED:
                sys.exit(f"the tests of {place} fail, or take longer than {given.seconds:g} seconds, without a change")
            errors = source / "jopa" / "errors.py"
            text = errors.read_text()
            errors.write_text("raise ImportError")
            if run_tests(source, TESTS[place], given.seconds) == PASSED:
                sys.exit("the tests do not import the changed package, so no change can be noticed")
            errors.write_text(text)
        for done, (place, path, number) in enumerate(chosen, 1):
            text = path.read_text()
            changed, words = mutant(text, number)
            target = source / path.relative_to(ROOT / "src")
            target.write_text(changed)
            status = run_tests(source, TESTS[place], given.seconds)
            target.write_text(text)
            noticed += status != PASSED
            if status == PASSED:
                survivors.append(f"| `{path.relative_to(ROOT / 'src/jopa')}`:{words} |")
            fate = {PASSED: "survived", None: "endless"}.get(status, "noticed")
            print(f"{done}/{len(chosen)} {fate} {path.relative_to(ROOT)}:{number} {words}", flush=True)
    report = [
        machine(),
        f"{sum(map(len, known.values())):,} changes are possible; {len(chosen)} tried with seed {given.seed}: "
        f"{noticed} noticed, {len(survivors)} survived; {(time.monotonic() - started) / 60:.0f} minutes",
        "",
        "| what no test noticed |\n|---|",
        *survivors,
    ]
    print("\n".join(report))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(report) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
