"""Imports point one way: folders are layers, and a layer knows nothing of those above it.

Imports are followed through: a layer must not reach what it may not know by way of a third file.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "jopa"

LAYERS = [
    {"errors", "json_values", "storage", "json_lines", "ordering", "choices"},
    {"plugins"},
    {"prompt", "evaluation.metric", "evaluation.metrics"},
    {"model"},
    {"scoring.protocols", "scoring.work"},
    {"scoring", "remote"},
    {"problem"},
    {"method"},
    {"methods"},
    {"testing"},
    {"explanation.level"},
    {"results", "evaluation", "datasets"},
    {"preparation"},
    {"explanation"},
    {"diagnosis", "detection", "citation"},
    {"benchmark"},
    {"reports"},
    {"web"},
    {"cli", "__main__"},
]
"""The lowest first. Files of one layer may know one another; `scoring.protocols`, `scoring.work`, `evaluation.metrics`
and `explanation.level` are the parts of their folders that are below the rest of them."""
EXCEPTIONS = {
    ("results", "reports"),  # users and notebooks ask a result for its page and its frame; imported when they do
    ("model", "scoring"),  # a model makes its own scorers; imported when it does
    ("model", "scoring.protocols"),  # names of types
}
NEVER_REACHED = {
    # Whoever reads a result, a record or a table must not load a model, or the code that runs one.
    "reports": {"model", "scoring", "remote", "methods", "explanation", "web", "cli"},
    "problem": {"model", "scoring", "remote", "methods"},
    "prompt": {"model", "scoring"},
}
HEAVY = {
    *("torch", "transformers", "accelerate", "gguf", "huggingface_hub"),
    *("numpy", "pandas", "scipy", "sklearn", "captum", "rich", "jinja2", "platformdirs", "psutil"),
    *("sacrebleu", "rouge_score", "sentence_transformers", "regex", "datasets", "ray", "matplotlib", "filelock"),
    *("gradio", "fastapi", "starlette", "uvicorn", "sentencex", "icu4py"),
}
LOADED_LATE = {"jopa.web.endpoints", "jopa.web.connections"}
"""Files that build on a heavy package, and so are imported inside functions only."""
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]
SCRIPTS = [path for name in ("benchmarks", "analysis") for path in sorted((SOURCE.parents[1] / name).glob("*.py"))]


@cache
def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports, those under TYPE_CHECKING left out if only the top level counts."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if not name.startswith("jopa.") or file_of(name) is not None}


@cache
def file_of(name: str) -> Path | None:
    """The file of one of our modules; None for a name that is none."""
    place = SOURCE.joinpath(*name.split(".")[1:])
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("jopa", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def part(name: str) -> str:
    """The layer's entry that a module belongs to."""
    inside = name.removeprefix("jopa.")
    return inside if any(inside in layer for layer in LAYERS) else inside.split(".")[0]


def height(name: str) -> int:
    places = [number for number, layer in enumerate(LAYERS) if part(name) in layer]
    assert places, f"{name} has no place in the picture: add it here and to docs/architecture.md"
    return places[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    here = module_of(path)
    for there in imports(path):
        if there.startswith("jopa."):
            allowed = height(there) <= height(here) or (part(here), part(there)) in EXCEPTIONS
            assert allowed, f"{here} must not know {there}"


@cache
def loaded_with(name: str) -> set[str]:
    """All of our modules that importing one brings along, whatever files lie between."""
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in seen or current == "jopa":
            continue
        seen.add(current)
        path = file_of(current)
        assert path is not None
        waiting += [found for found in imports(path, top_level_only=True) if found.startswith("jopa.")]
    return seen


@cache
def imports_in_functions(path: Path) -> set[str]:
    """Our modules that the functions of a file import when they are called."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    found = {name for node in nodes for name in (node.module, *(f"{node.module}.{it.name}" for it in node.names))}
    return {name for name in found if name is not None and name.startswith("jopa.") and file_of(name) is not None}


@pytest.mark.parametrize("name", NEVER_REACHED)
def test_nothing_forbidden_is_reached_through_a_third_file(name):
    for path in FILES:
        here = module_of(path)
        if part(here) == name:
            brought = loaded_with(here).union(*map(loaded_with, imports_in_functions(path)))
            reached = {there for there in brought if part(there) in NEVER_REACHED[name]}
            assert not reached, f"{here}, or a function of it, brings along {sorted(reached)}"


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: path.name)
def test_no_file_imports_private_names_of_another(path):
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    assert not [alias.name for node in nodes for alias in node.names if alias.name.startswith("_")]


SHARED_BY_FAMILIES = {"jopa.methods.acquisition", "jopa.methods.random_removals"}


def test_families_of_methods_do_not_import_one_another():
    for path in (SOURCE / "methods").rglob("*.py"):
        if path.parent != SOURCE / "methods" or path.name != "__init__.py":
            family = ".".join(module_of(path).split(".")[:3])
            others = {name for name in imports(path) if name.startswith("jopa.methods.")}
            known = (family, *SHARED_BY_FAMILIES)
            assert all(f"{name}.".startswith(tuple(f"{one}." for one in known)) for name in others), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_imports_happen_where_they_are_used(path):
    imported = imports(path, top_level_only=True)
    assert not {name for name in imported for late in LOADED_LATE if name == late or name.startswith(f"{late}.")}
    assert module_of(path) in LOADED_LATE or not {name.split(".")[0] for name in imported} & HEAVY


def test_import_jopa_is_light():
    script = f"import sys, jopa; print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_files_are_of_a_size_that_one_can_read():
    assert not {path.name: lines for path in FILES if (lines := path.read_text().count("\n")) > 400}
    assert len(list(SOURCE.glob("*.py"))) <= 12


def test_every_folder_says_what_it_is_for():
    for folder in {path.parent for path in FILES} - {SOURCE}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_the_picture_in_the_docs_names_every_file():
    picture = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    for path in FILES:
        assert path.name == "__init__.py" or path.name == "__main__.py" or path.name in picture, path
