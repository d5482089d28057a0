"""The whole way from a prompt to its Attribution.

prompt → ids and units → output (generated or given) → method → effects and counterfactual → Attribution
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from jopa.attributing import attribute
from jopa.attribution import Attribution
from jopa.choices import checked_removal
from jopa.errors import JopaError, SettingError, StoppedError
from jopa.method import Method
from jopa.methods import DEFAULT_METHOD, make_method
from jopa.model.generation import Generation, OnProgress, OnText
from jopa.preparation import Callbacks, OnProfile, loaded, prepare, shape_of
from jopa.problem import OnBest
from jopa.prompt.building import Message, Prompt
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import Model

T = TypeVar("T")

OnRefusal = Callable[[Method, JopaError], None]
"""Called with a method that cannot explain a prompt, and why."""

MAX_K = 10
"""The most units that a search for the smallest sufficient set takes away, unless told otherwise."""


def explain(
    prompt: str | Sequence[Message],
    *,
    k: int = 3,
    until_pr: float | None = None,
    max_k: int | None = None,
    model: Model | str | Path | None = None,
    method: Method | str = DEFAULT_METHOD,
    unit: str | Sequence[Span] = "auto",
    language: str | None = None,
    removal: str | None = None,
    system: str | None = None,
    prefix: str | None = None,
    prefill: str | None = None,
    plain: bool = False,
    template_args: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    output: str | Output | None = None,
    target: Span | str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    all_effects: bool = False,
    progress: OnProgress | None = None,
    on_best: OnBest | None = None,
    on_text: OnText | None = None,
    on_profile: OnProfile | None = None,
) -> Attribution:
    """Find the k units of a prompt whose joint removal most lowers the probability of the model's own output.

    Args:
        prompt: a text, or chat messages whose last user message is explained.
        k: how many units to find; of no meaning with `until_pr`.
        until_pr: find the smallest k instead, from 1 to `max_k`, whose joint removal brings PR below this value. Where
            none does, the set with the lowest PR is given and `stop` says so; `details["until_pr"]` tells every k that
            was tried, its PR and certificate, and whether the value was reached.
        max_k: the most units to remove for `until_pr`; 10 or all units of the prompt, if they are fewer.
        model: a loaded model, or what `load` takes: a hub id, a folder, a `.gguf` file, None for the bundled model.
        method: a method, or its name with its default settings.
        unit: "token", "word", "sentence", "line", "paragraph", or character spans of the prompt; by default the
            one that fits the prompt's length, and `details["unit"]` says which.
        language: the prompt's, such as "de", for words and sentences; guessed by default.
        removal: "delete", "zero" or "hide"; by default the method's own preset.
        system: a system message before the prompt (chat models).
        prefix: a fixed instruction before the prompt in the same turn; not attributable.
        prefill: the beginning of the answer, put into the assistant's mouth.
        plain: take the prompt as plain text, also where the tokenizer has a chat template.
        template_args: further arguments of the chat template, as `{"enable_thinking": False}`; recorded with `plain`
            and `tools` in `details["rendering"]`.
        tools: what the model may call, as the chat template takes it.
        output: the text to explain, or an output with its token ids; by default what the model generates.
        target: the part of the output to explain: `(start, end)` in output tokens, or a text that occurs in it once.
        max_new_tokens: the most tokens to generate.
        temperature: 0 for greedy generation; otherwise the softmax temperature to sample with.
        seed: of everything random.
        all_effects: also score every unit removed alone.
        progress: called as the work goes on.
        on_best: called with the score of the whole prompt, then with every set of k units (with `until_pr`: of the most
            units) that is the best so far.
        on_text: called as the model writes, both its answer and its answer without the chosen units.
        on_profile: called at the end with what it cost; loading is not in it, and is 0 there.

    Whatever a callback raises (`StoppedError`, to end the work) ends it there and reaches the caller; the model is left
    as it came.

    Returns:
        The attribution.

    Raises:
        JopaError: one of its children, whose message says what is wrong and what to do.
    """
    settings = _Settings(
        k=k,
        until_pr=until_pr,
        max_k=max_k,
        unit=unit,
        language=language,
        system=system,
        prefix=prefix,
        prefill=prefill,
        plain=plain,
        template_args=template_args or {},
        tools=tools,
        output=output,
        target=target,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        all_effects=all_effects,
        progress=progress,
        on_best=on_best,
        on_text=on_text,
        on_profile=on_profile,
    )
    (attribution,) = _explain_each(prompt, [method], model, removal, settings, None)
    return attribution


def compare(
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str],
    *,
    model: Model | str | Path | None = None,
    removal: str = "delete",
    on_refusal: OnRefusal | None = None,
    **settings: Any,
) -> tuple[Attribution, ...]:
    """Run several methods on the same prompt, output and removal.

    Args:
        prompt: as for `explain`.
        methods: what to compare, each with a memo and counters of its own.
        model: as for `explain`; loaded once.
        removal: one for all methods, whatever their presets.
        on_refusal: called for each method that cannot explain this prompt, while the others go on; if none can, the
            first error is raised after all. By default any method's error is raised.
        settings: what else `explain` takes.

    Returns:
        One attribution a method that did not refuse, in the order of `methods`.

    Raises:
        JopaError: as `explain`; and if there is nothing to compare.
    """
    if not methods:
        raise SettingError("give at least one method to compare")
    return tuple(_explain_each(prompt, methods, model, removal, _Settings(**settings), on_refusal))


@dataclass(frozen=True)
class _Settings:
    """What `explain` takes beside prompt, method, model and removal; see there."""

    k: int = 3
    until_pr: float | None = None
    max_k: int | None = None
    unit: str | Sequence[Span] = "auto"
    language: str | None = None
    system: str | None = None
    prefix: str | None = None
    prefill: str | None = None
    plain: bool = False
    template_args: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    output: str | Output | None = None
    target: Span | str | None = None
    max_new_tokens: int = 100
    temperature: float = 0.0
    seed: int = 0
    all_effects: bool = False
    progress: OnProgress | None = None
    on_best: OnBest | None = None
    on_text: OnText | None = None
    on_profile: OnProfile | None = None

    @property
    def options(self) -> PromptOptions:
        """How the prompt is put before the model."""
        return PromptOptions(
            self.unit,
            self.system,
            self.prefix,
            self.prefill,
            self.plain,
            self.template_args,
            self.tools,
            self.language,
        )

    def __post_init__(self) -> None:
        if self.max_k is not None and self.until_pr is None:
            raise SettingError("max_k limits the search for until_pr; give until_pr, too, or k instead")
        if self.until_pr is not None and not 0 < self.until_pr <= 1:
            raise SettingError(f"until_pr must be above 0 and at most 1, got {self.until_pr:g}")
        if self.max_k is not None and self.max_k < 1:
            raise SettingError(f"max_k must be at least 1, got {self.max_k}")


def _explain_each(
    prompt: str | Sequence[Message],
    methods: Sequence[Method | str],
    model: Model | str | Path | None,
    removal: str | None,
    settings: _Settings,
    on_refusal: OnRefusal | None,
) -> list[Attribution]:
    """Explain one output by each method; a method refuses before the output is generated where it can."""
    chosen = [make_method(method) if isinstance(method, str) else method for method in methods]
    removals = {method: checked_removal(removal or method.preset_removal) for method in chosen}
    explained_model = loaded(model)
    generation = Generation(settings.max_new_tokens, settings.temperature, settings.seed)
    began, answering = 0.0, 0.0

    def check(built: Prompt) -> None:
        nonlocal began, chosen

        def validated(method: Method) -> Method:
            shape = shape_of(explained_model, built, removals[method])
            method.validate(shape, 1 if settings.until_pr is not None else settings.k)
            return method

        chosen = run_each(chosen, validated, on_refusal)
        began = time.perf_counter()

    def tell_profile(profile: Profile) -> None:
        """The time of the answer belongs to the first method."""
        nonlocal answering
        if settings.on_profile:
            seconds, generating = profile.seconds + answering, profile.generating + answering
            settings.on_profile(replace(profile, seconds=seconds, generating=generating))
        answering = 0.0

    callbacks = Callbacks(settings.progress, settings.on_best, settings.on_text, tell_profile)
    preparation = prepare(
        explained_model,
        prompt,
        settings.options,
        output=settings.output,
        target=settings.target,
        generation=generation,
        callbacks=callbacks,
        check=check,
    )
    answering = time.perf_counter() - began
    n_units = len(preparation.prompt.units)

    def explain_one(method: Method) -> Attribution:
        return attribute(
            preparation,
            k=settings.k if settings.until_pr is None else min(settings.max_k or MAX_K, n_units),
            until_pr=settings.until_pr,
            method=method,
            removal=removals[method],
            generation=generation,
            seed=settings.seed,
            all_effects=settings.all_effects,
            callbacks=callbacks,
        )

    rendering = settings.options.rendering
    found = run_each(chosen, explain_one, on_refusal)
    if not rendering:
        return found
    return [replace(each, details={**(each.details or {}), "rendering": rendering}) for each in found]


def run_each(methods: Sequence[Method], explain_one: Callable[[Method], T], on_refusal: OnRefusal | None) -> list[T]:
    """What `explain_one` gives for each method that does not refuse, in their order.

    Raises:
        JopaError: a method's, if `on_refusal` is None; the first, if all refuse.
        StoppedError: somebody ended the work, which is no method's refusal.
    """
    found: list[T] = []
    refused: list[JopaError] = []
    for method in methods:
        try:
            found.append(explain_one(method))
        except JopaError as error:
            if on_refusal is None or isinstance(error, StoppedError):
                raise
            on_refusal(method, error)
            refused.append(error)
    if not found:
        raise refused[0]
    return found
