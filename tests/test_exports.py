"""The public names, pinned: whoever adds or removes one means to."""

import ast
import dataclasses
from functools import cache
from pathlib import Path

import jopa

SOURCE = Path(jopa.__file__).parent
MAX_PARAMETERS = 12


def public_functions(node, where):
    """The public functions and methods below a node of a syntax tree, constructors too, each with its parameters."""
    for inner in node.body:
        if isinstance(inner, ast.ClassDef) and not inner.name.startswith("_"):
            yield from public_functions(inner, f"{where}.{inner.name}")
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            if inner.name.startswith("_") and inner.name != "__init__":
                continue
            if any(isinstance(it, ast.Name) and it.id == "overload" for it in inner.decorator_list):
                continue
            of_class = isinstance(node, ast.ClassDef)
            static = any(isinstance(it, ast.Name) and it.id == "staticmethod" for it in inner.decorator_list)
            arguments = [*inner.args.posonlyargs, *inner.args.args][int(of_class and not static) :]
            names = [argument.arg for argument in [*arguments, *inner.args.kwonlyargs]]
            yield f"{where}.{inner.name}", names, inner.args.kwarg


@cache
def all_public_functions():
    # Functions of `cli` are commands: their parameters are the flat options of the command line.
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent.name != "cli"]
    trees = {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in paths}
    return [function for where, tree in trees.items() for function in public_functions(tree, where)]


def test_public_functions_have_few_parameters():
    found = {where: names for where, names, _ in all_public_functions()}
    assert "explanation/explaining.py.explain" in found
    assert "scoring/model_scorer.py.ModelScorer.__init__" in found
    assert not {where: names for where, names in found.items() if len(names) > MAX_PARAMETERS}


def test_exported_values_have_few_fields():
    results = {"Attribution", "Citations", "Diagnosis", "TextAttribution"}  # users read them and never construct them
    classes = {name: getattr(jopa, name) for name in jopa.__all__ if name not in results}
    fields = {name: dataclasses.fields(it) for name, it in classes.items() if dataclasses.is_dataclass(it)}
    assert "SearchOptions" in fields
    assert not {name for name, found in fields.items() if len(found) > MAX_PARAMETERS}


def test_the_parameters_of_the_main_functions_are_named():
    for function in (jopa.explain, jopa.compare, jopa.diagnose, jopa.cite, jopa.detect, jopa.connect, jopa.load):
        (kwarg,) = [kwarg for where, _, kwarg in all_public_functions() if where.endswith(f".py.{function.__name__}")]
        assert kwarg is None, function


def test_public_names():
    assert jopa.__all__ == [
        "METHODS",
        "Attribution",
        "Best",
        "Calibration",
        "Callbacks",
        "ChatModel",
        "Citation",
        "Citations",
        "DetectionConfig",
        "Diagnosis",
        "Document",
        "Generation",
        "InputFileError",
        "JointSearch",
        "JopaError",
        "LanguageModel",
        "Method",
        "Model",
        "ModelError",
        "ModelScorer",
        "Output",
        "PaperSearch",
        "Problem",
        "Profile",
        "Prompt",
        "PromptComparison",
        "PromptError",
        "PromptOptions",
        "PromptScorer",
        "Ranking",
        "RankingMethod",
        "RemoteModel",
        "RepeatedToken",
        "Scorer",
        "ScoringError",
        "SearchOptions",
        "Selection",
        "SettingError",
        "StoppedError",
        "TextAttribution",
        "TextScorer",
        "Unit",
        "Verdict",
        "WhiteBoxScorer",
        "Work",
        "__version__",
        "build_prompt",
        "calibrate_detection",
        "cite",
        "compare",
        "comparison_from_json",
        "comparison_json",
        "connect",
        "cost_at_most",
        "detect",
        "diagnose",
        "explain",
        "load",
        "make_method",
        "to_frame",
        "to_html",
        "use_threads",
    ]
    assert all(hasattr(jopa, name) for name in jopa.__all__)


def test_every_public_name_says_what_it_is():
    for name in jopa.__all__:
        assert name == "METHODS" or getattr(jopa, name).__doc__, name
