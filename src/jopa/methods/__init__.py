"""Every method, by the name the command line uses: our own, and those of other packages.

A package offers a method by an entry point of the group `jopa.methods`, a script by `METHODS.register`.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import isabstract
from typing import Any, get_args

from jopa.choices import REMOVALS
from jopa.errors import SettingError
from jopa.method import Method
from jopa.methods.attention import Attention, AttnTrace, LastAttention
from jopa.methods.context_attribution import ARCJSD, CAMAB, TracLLM
from jopa.methods.context_cite import ContextCite
from jopa.methods.gradient import AttentionGradient, ContinuousMask, GradientTimesInput, IntegratedGradients
from jopa.methods.interactions import Interactions
from jopa.methods.joint.search import JointSearch
from jopa.methods.paper_search import PaperSearch
from jopa.methods.peers import Captum, ReAGent
from jopa.methods.perturbation import Ablation, Exhaustive, Greedy, Random, Shapley
from jopa.methods.proxy_search import ProxySearch
from jopa.methods.proxy_spex import ProxySPEX
from jopa.plugins.registry import Registry, imported
from jopa.scoring.protocols import Capability

_BUILTIN: dict[str, type[Method]] = {
    "joint": JointSearch,
    "proxy-search": ProxySearch,
    "jopa": PaperSearch,
    "exhaustive": Exhaustive,
    "greedy": Greedy,
    "ablation": Ablation,
    "shapley": Shapley,
    "context-cite": ContextCite,
    "interactions": Interactions,
    "proxyspex": ProxySPEX,
    "camab": CAMAB,
    "trac-llm": TracLLM,
    "arc-jsd": ARCJSD,
    "grad-x-input": GradientTimesInput,
    "attention-gradient": AttentionGradient,
    "integrated-gradients": IntegratedGradients,
    "continuous-mask": ContinuousMask,
    "attention": Attention,
    "last-attention": LastAttention,
    "attn-trace": AttnTrace,
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


def checked_method(name: str, thing: Any) -> type[Method]:
    """The class of a method from elsewhere, if it keeps to what a method is.

    Args:
        name: what it is called by.
        thing: what a package offers under that name.

    Raises:
        SettingError: it is no such class; the message says what is wrong.
    """
    if not (isinstance(thing, type) and issubclass(thing, Method)):
        raise SettingError(f"{thing!r:.80} is no subclass of jopa.Method")
    if isabstract(thing):
        raise SettingError(f"class {thing.__name__} lacks {', '.join(sorted(thing.__abstractmethods__))}")
    for attribute in ("name", "summary", "cost"):
        value = getattr(thing, attribute, None)
        if not isinstance(value, str) or not value or "\n" in value:
            raise SettingError(f"class {thing.__name__} needs '{attribute}', a text of one line, got {value!r:.60}")
    if thing.name != name:
        raise SettingError(f"class {thing.__name__} has the name '{thing.name}', not '{name}'")
    for attribute, choices in (("requires", get_args(Capability)), ("preset_removal", REMOVALS)):
        if getattr(thing, attribute) not in choices:
            raise SettingError(
                f"'{attribute}' of class {thing.__name__} must be one of {', '.join(choices)}, "
                f"got {getattr(thing, attribute)!r:.60}"
            )
    if not is_dataclass(thing):
        raise SettingError(f"class {thing.__name__} must be a frozen dataclass")
    for item in fields(thing):
        if _kind(item) not in _KINDS:
            raise SettingError(
                f"setting '{item.name}' of class {thing.__name__} is of type {_kind(item)}; "
                f"a setting can be of type {', '.join(_KINDS)}"
            )
        if item.default is MISSING and item.default_factory is MISSING:
            raise SettingError(f"setting '{item.name}' of class {thing.__name__} needs a default")
    return thing


def _kind(item: Field[Any]) -> str:
    """The type that a setting is declared with, as it is written."""
    return item.type.__name__ if isinstance(item.type, type) else str(item.type)


METHODS: Registry[type[Method]] = Registry(
    "method", "jopa.methods", _BUILTIN, checked_method, lambda thing: getattr(thing, "name", None)
)
"""Every method by name: built in, registered with `METHODS.register`, or offered by an installed package."""


def make_method(name: str, **settings: Any) -> Method:
    """A method by its name.

    Args:
        name: a key of `METHODS`.
        settings: its fields; and, for any search, `budget`: how much it may spend, in its own unit.

    Raises:
        SettingError: there is no such method or setting, or the method has no budget.
    """
    return _made(METHODS.get_or_refuse(name), settings)


def find_method(name: str, **settings: Any) -> Method:
    """A method by its name, or by where its class stands: "package.module:Class".

    The module is imported, so the name must come from somebody who may run code here: a command line or an experiment
    file, never a request.

    Args:
        name: a key of `METHODS`, or the path of a class.
        settings: as for `make_method`.

    Raises:
        SettingError: as `make_method`, or the class cannot be imported or is no method.
    """
    if ":" not in name:
        return make_method(name, **settings)
    thing = imported(name)
    try:
        return _made(checked_method(getattr(thing, "name", ""), thing), settings)
    except SettingError as error:
        raise SettingError(f"method '{name}': {error}") from error


def _made(kind: type[Method], settings: dict[str, Any]) -> Method:
    """A method of a class with some of its settings, each checked."""
    name = kind.name
    kinds = {item.name: _kind(item) for item in fields(kind)}
    budget = None if "budget" in kinds else settings.pop("budget", None)
    for setting, value in settings.items():
        if setting not in kinds:
            raise SettingError(f"method '{name}' has no setting '{setting}': it has {', '.join(kinds) or 'none'}")
        if not isinstance(value, _KINDS[kinds[setting]]) or (isinstance(value, bool) and kinds[setting] != "bool"):
            raise SettingError(
                f"setting '{setting}' of method '{name}' must be of type {kinds[setting]}, got {value!r}"
            )
    try:
        method = kind(**settings)
    except SettingError:
        raise
    except (Exception, SystemExit) as error:  # of whatever kind: the class may be somebody else's
        raise SettingError(f"method '{name}' cannot be made: {type(error).__name__}: {error}") from error
    if budget is None:
        return method
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise SettingError(f"budget must be a whole number, got {budget!r}")
    return method.with_budget(budget)
