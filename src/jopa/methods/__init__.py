"""Every method, by the name the command line uses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from jopa.errors import SettingError
from jopa.method import Method
from jopa.methods.attention import Attention, LastAttention
from jopa.methods.gradient import AttentionGradient, ContinuousMask, GradientTimesInput, IntegratedGradients
from jopa.methods.joint.search import JointSearch
from jopa.methods.paper_search import PaperSearch
from jopa.methods.peers import Captum, ReAGent
from jopa.methods.perturbation import Ablation, Exhaustive, Greedy, Random, Shapley
from jopa.methods.proxy_search import ProxySearch
from jopa.methods.surrogate import ContextCite, Interactions

METHODS: dict[str, type[Method]] = {
    "joint": JointSearch,
    "proxy-search": ProxySearch,
    "jopa": PaperSearch,
    "exhaustive": Exhaustive,
    "greedy": Greedy,
    "ablation": Ablation,
    "shapley": Shapley,
    "context-cite": ContextCite,
    "interactions": Interactions,
    "grad-x-input": GradientTimesInput,
    "attention-gradient": AttentionGradient,
    "integrated-gradients": IntegratedGradients,
    "continuous-mask": ContinuousMask,
    "attention": Attention,
    "last-attention": LastAttention,
    "reagent": ReAGent,
    "captum": Captum,
    "random": Random,
}
_KINDS = {
    "int": int,
    "float": int | float,
    "float | None": int | float | None,
    "str": str,
    "str | None": str | None,
    "bool": bool,
}
"""What values a setting takes, by the type it is declared with."""
DEFAULT_METHOD = JointSearch()


def make_method(name: str, **settings: Any) -> Method:
    """A method by its name.

    Args:
        name: a key of `METHODS`.
        settings: its fields; and, for any search, `budget`: how much it may spend, in its own unit.

    Raises:
        SettingError: there is no such method or setting, or the method has no budget.
    """
    if name not in METHODS:
        raise SettingError(f"unknown method '{name}': choose one of {', '.join(METHODS)}")
    kinds = {item.name: str(item.type) for item in fields(METHODS[name])}
    budget = None if "budget" in kinds else settings.pop("budget", None)
    for setting, value in settings.items():
        if setting not in kinds:
            raise SettingError(f"method '{name}' has no setting '{setting}': it has {', '.join(kinds) or 'none'}")
        if not isinstance(value, _KINDS[kinds[setting]]) or (isinstance(value, bool) and kinds[setting] != "bool"):
            raise SettingError(
                f"setting '{setting}' of method '{name}' must be of type {kinds[setting]}, got {value!r}"
            )
    method = METHODS[name](**settings)
    if budget is None:
        return method
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise SettingError(f"budget must be a whole number, got {budget!r}")
    return method.with_budget(budget)
