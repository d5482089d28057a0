"""Imports point one way, from `errors` at the bottom to `cli` at the top; docs/architecture.md draws the picture."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "jopa"

ROOMS = """
    errors ordering records set_rows set_process batching segmentation prompt echoes packing model sources datasets
    metrics sentence_bert loading prefixes damping rows company forward masking scoring answering model_scorer
    profile problem budget guide methods attribution explanation diagnosis answer_kinds detection screening
    evaluation experiment cells bench cluster
    wording report diagnosis_report terminal
    estimates typesetting tables drawing figures benchmark_report gallery
    web app cli
""".split()
EXCEPTIONS = {
    ("attribution", "report"),  # a notebook asks an Attribution for its HTML; imported when it does
    ("diagnosis", "diagnosis_report"),  # and a Diagnosis
}
HEAVY = {
    *("torch", "transformers", "accelerate", "gguf", "huggingface_hub"),
    *("numpy", "scipy", "sklearn", "captum", "rich", "jinja2", "platformdirs", "psutil"),
    *("sacrebleu", "rouge_score", "sentence_transformers", "regex", "datasets", "ray", "matplotlib", "filelock"),
    *("gradio", "fastapi", "starlette", "uvicorn"),
}


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
            found.add(node.module)
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]
BENCHMARKS = sorted((SOURCE.parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    here = room(path)
    assert here in ROOMS, f"{here} has no place in the picture: add it here and to docs/architecture.md"
    for name in imports(path):
        if name.startswith("jopa."):
            there = name.split(".")[1]
            allowed = ROOMS.index(there) <= ROOMS.index(here) or (here, there) in EXCEPTIONS
            assert allowed, f"{here} must not know {there}"


@pytest.mark.parametrize("path", [*FILES, *BENCHMARKS], ids=lambda path: path.name)
def test_no_file_imports_private_names_of_another(path):
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    assert not [alias.name for node in nodes for alias in node.names if alias.name.startswith("_")]


def test_methods_do_not_import_one_another():
    for path in (SOURCE / "methods").glob("*.py"):
        if path.name != "__init__.py":
            assert not any(name.startswith("jopa.methods") for name in imports(path)), path.name


REPORTS = ROOMS[ROOMS.index("wording") : ROOMS.index("web")]


@pytest.mark.parametrize("name", REPORTS)
def test_reports_never_run_a_model(name):
    models = {
        "torch",
        "transformers",
        "jopa.model",
        "jopa.model_scorer",
        "jopa.explanation",
        "jopa.cells",
        "jopa.bench",
    }
    assert not models & imports(SOURCE / f"{name}.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_imports_happen_where_they_are_used(path):
    roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not roots & HEAVY


def test_import_jopa_is_light():
    script = f"import sys, jopa; print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_picture_in_the_docs_names_every_room():
    picture = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    for name in ROOMS:
        assert f"{name}.py" in picture or f"{name}/" in picture, name
