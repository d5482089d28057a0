"""Explains with values as callers hand them over in Python, and prints what came out as JSON.

A program of its own: the tests check the types of every call, and refuse a wrong one before jopa can say what to do.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import jopa
import tiny_models
from jopa.methods import METHODS

N: Any = np.int64
ANY: Any = jopa
EIGHT: dict[str, Any] = {"budget": 8.0}
PROMPT = "write a story about the doctor and his patient"
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "k": ({"k": N(2)}, {"k": 2}),
    "answer": ({"output": ANY.Generation(N(3))}, {"output": jopa.Generation(3)}),
    "temperature": (
        {"output": ANY.Generation(3, temperature=np.float32(0.5))},
        {"output": jopa.Generation(3, temperature=0.5)},
    ),
    "target": ({"target": (N(1), N(3))}, {"target": (1, 3)}),
    "target in a list": ({"target": [1, 3]}, {"target": (1, 3)}),
    "spans": ({"unit": np.array([[0, 5], [6, 13], [14, 19]])}, {"unit": [(0, 5), (6, 13), (14, 19)]}),
    "method": ({"method": ANY.JointSearch(N(9))}, {"method": jopa.JointSearch(9)}),
    "seed": ({"search": ANY.SearchOptions(seed=N(3))}, {"search": jopa.SearchOptions(seed=3)}),
    "budget": ({"search": ANY.SearchOptions(budget=N(9))}, {"search": jopa.SearchOptions(budget=9)}),
    "until_pr": (
        {"search": ANY.SearchOptions(until_pr=np.float32(0.5), max_k=N(2))},
        {"search": jopa.SearchOptions(until_pr=0.5, max_k=2)},
    ),
    "ids": (
        {"output": ANY.Output(torch.tensor([5, 6]), "x", (0, 2))},
        {"output": jopa.Output((5, 6), "x", (0, 2))},
    ),
}
"""Values of NumPy or torch, and Python's own."""
REFUSED: dict[str, dict[str, Any]] = {
    "k must be a whole number, got 2.0": {"k": 2.0},
    "k must be a whole number, got '2'": {"k": "2"},
    "k must be a whole number, got True": {"k": True},
    "the target's start must be a whole number, got 0.0": {"target": (0.0, 2.0)},
    "a target is (start, end) in output tokens, or a text, got (0, 1, 2)": {"target": (0, 1, 2)},
    "a target is (start, end) in output tokens, or a text, got 3": {"target": 3},
    "output must be a text, an Output with its token ids, or a Generation, got list": {"output": [5, 6]},
    "a method is a value such as JointSearch(), or its name, got <class": {"method": jopa.JointSearch},
    "options must be PromptOptions(…), got dict": {"options": {"system": "please"}},
    "options must be PromptOptions(…), got str": {"options": "please", "documents": ["a text"]},
    "search must be SearchOptions(…), got dict": {"search": {"seed": 1}},
    "callbacks must be Callbacks(…), got builtin_function_or_method": {"callbacks": print},
}
"""Values of other kinds, by the beginning of what is said."""

REFUSED_VALUES: dict[str, Callable[[], Any]] = {
    "until_pr must be a number, got 'half'": lambda: ANY.SearchOptions(until_pr="half"),
    "refine is a tuple of kinds of units, such as ('sentence',), got 5": lambda: ANY.SearchOptions(refine=5),
    "refine is a tuple of kinds of units, such as ('sentence',), got 0": lambda: ANY.SearchOptions(refine=0),
    "unknown unit ['word'] to refine to": lambda: ANY.SearchOptions(refine=[["word"]]),
    "counterfactual must be Generation(…), got 5": lambda: ANY.SearchOptions(counterfactual=5),
    "temperature must be a number, got '0.5'": lambda: ANY.Generation(temperature="0.5"),
    "temperature must be 0 (greedy) or at least 1e-06, got nan": lambda: ANY.Generation(temperature=float("nan")),
    "seed must be from -9223372036854775808 to 9223372036854775807": lambda: ANY.Generation(seed=2**70),
    "batch must be a whole number, got 2.5": lambda: ANY.JointSearch(batch=2.5),
    "budget must be a whole number, got '50'": lambda: ANY.JointSearch(budget="50"),
    "budget must be a whole number, got nan": lambda: ANY.JointSearch(budget=float("nan")),
    "seconds must be a number, got '1'": lambda: ANY.JointSearch(seconds="1"),
    "budget must be a whole number, got 8.0": lambda: METHODS["proxy-search"](**EIGHT),
}
"""The same for values that are refused where they are made."""


def record(settings: dict[str, Any]) -> dict[str, Any]:
    """What an explanation records, but for its time."""
    explain: Any = jopa.explain
    settings = {"output": jopa.Generation(4), "k": 2, **settings}
    found = json.loads(explain(PROMPT, model=tiny_models.language_model("llama"), **settings).to_json())
    return {name: value for name, value in found.items() if name != "seconds"}


def refusal(settings: dict[str, Any]) -> str:
    """What is said of settings that are no good."""
    try:
        record(settings)
    except jopa.SettingError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Print which values give the same record as Python's own, and what is said of the others."""
    alike = {name: record(theirs) == record(ours) for name, (theirs, ours) in ALIKE.items()}
    said = {expected: refusal(settings) for expected, settings in REFUSED.items()}
    model, answer = tiny_models.language_model("llama"), jopa.Generation(4)
    diagnosis = ANY.diagnose(PROMPT, model=model, unit="word", requests=np.array([0, 2]), output=answer)
    alike["requests"] = json.loads(diagnosis.to_json())["requests"] == [0, 2]
    verdict = ANY.detect(PROMPT, model=model, config=ANY.DetectionConfig(k=N(2), budget=N(9)))
    alike["detection"] = json.loads(verdict.to_json())["looking"]["k"] == 2
    for number in (4.5, "4", None):
        try:
            ANY.Generation(number)
        except jopa.SettingError as error:
            said[f"max_new_tokens must be a whole number, got {number!r}"] = str(error)
    for expected, make in REFUSED_VALUES.items():
        try:
            make()
        except jopa.SettingError as error:
            said[expected] = str(error)
    print(json.dumps({"alike": alike, "said": said}))


if __name__ == "__main__":
    main()
