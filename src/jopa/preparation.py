"""The one way from a request to a Problem.

    prompt, options → ids and units → output (generated or given) → scorer → Problem

`explain`, `compare`, `diagnose`, `detect`, the benchmark and the page all go this way: by `prepare`, or by its two
halves. `prepare_prompt` gives the prompt that a method may refuse; `prepare_output` then generates the answer.

Knows the protocol of models (`jopa.scoring.protocols.Model`), not which model it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from jopa.choices import LOG_PROBABILITY, Removal
from jopa.errors import JopaError, PromptError, SettingError
from jopa.method import Method
from jopa.model.generation import Generation, OnProgress, OnText
from jopa.problem import OnBest, OnStep, Problem, ProblemShape
from jopa.prompt.building import Message, Prompt, build_prompt
from jopa.prompt.continuation import tokens_of
from jopa.prompt.options import PromptOptions
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.prompt.trace import ANSWER, trace_span, with_trace
from jopa.scoring.profile import Profile
from jopa.scoring.protocols import AnsweringModel, Model, PromptScorer, RemovalModel, objective_of

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

OnProfile = Callable[[Profile], None]
"""Called once, at the end, with the cost."""

OnRefusal = Callable[[Method, JopaError], None]
"""Called with a method that cannot explain a prompt, and why."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called during the work.

    An exception that a callback raises (`StoppedError`, to end the work) ends the work and reaches the caller; the
    model is left as it was.

    Attributes:
        progress: called during the work.
        on_best: called with the score of the whole prompt, then with every set of the asked size that is the best so
            far.
        on_text: called as the model writes, both its answer and its answer without the chosen units; not for an answer
            that was kept from an earlier run.
        on_profile: called at the end with the cost, without the loading of the model.
        on_level: called by a search from coarse to fine, before each level after the first, with the prompt; its units
            are those that the level can remove.
        on_refusal: called, by `compare` alone, for each method that cannot explain the prompt, while the others go on.
    """

    progress: OnProgress | None = None
    on_best: OnBest | None = None
    on_text: OnText | None = None
    on_profile: OnProfile | None = None
    on_level: Callable[[Prompt], None] | None = None
    on_refusal: OnRefusal | None = None


@dataclass(frozen=True)
class Preparation:
    """A prompt and an output of a model: all that a Problem needs except the removal.

    Attributes:
        model: the model.
        prompt: masks keep or remove its units.
        output: its target tokens are scored.
        generation: how the output was generated; the default where the caller gave it.
        kept: whether the output was generated in an earlier run, and kept.
    """

    model: Model
    prompt: Prompt
    output: Output
    generation: Generation = field(default_factory=Generation)
    kept: bool = False

    def scorer(self, removal: Removal) -> PromptScorer:
        """A new scorer, whose work counts from 0.

        Raises:
            SettingError: the model cannot do this removal.
        """
        if isinstance(self.model, AnsweringModel):
            return self.model.answer_scorer(self.prompt, self.output, removal, self.generation)
        return self.model.scorer(self.prompt, self.output, removal)

    def problem(self, removal: Removal, on_step: OnStep | None = None) -> Problem:
        """A new problem, with a memo and counters of its own.

        Raises:
            SettingError: as `scorer`.
        """
        return Problem(self.scorer(removal), on_step)


def shape_of(model: Model, prompt: Prompt, removal: Removal) -> ProblemShape:
    """What a method needs to know to refuse a problem before there is an output.

    Raises:
        SettingError: the model cannot do this removal.
    """
    require_removal(model, prompt, removal)
    return ProblemShape(len(prompt.units), model.capabilities, removal, objective_of(model))


def require_removal(model: Model, prompt: Prompt, removal: Removal) -> None:
    """Refuse a removal that a model cannot do with a prompt; generates and scores nothing.

    Raises:
        SettingError: the model cannot do this removal.
    """
    if isinstance(model, RemovalModel):
        model.require_removal(removal, len(prompt.ids))


def require_log_probs(model: Model, what: str) -> None:
    """Refuse a model that gives texts alone.

    Args:
        model: the model.
        what: what needs log-probabilities, as the subject of a sentence.

    Raises:
        SettingError: its scores are no log-probabilities.
    """
    if objective_of(model) != LOG_PROBABILITY:
        raise SettingError(
            f"{what} needs log-probabilities, and '{model.identity['id']}' at a chat API gives texts alone; serve it "
            "with vLLM or SGLang, or load it"
        )


def loaded(model: Model | str | Path | None) -> Model:
    """A model as it is, or the one that `jopa.load` loads."""
    if model is None or isinstance(model, str | Path):
        from jopa.model.loading import load

        return load(model)
    return model


def prepare(
    model: Model,
    prompt: str | Sequence[Message],
    options: PromptOptions | None = None,
    *,
    unit: str | Sequence[Span] = "auto",
    removal: Removal | None = None,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    callbacks: Callbacks | None = None,
) -> Preparation:
    """Build a prompt, and generate or take the output to explain: `prepare_prompt`, then `prepare_output`.

    Args:
        model: the model.
        prompt: as for `prepare_prompt`.
        options: as for `prepare_prompt`.
        unit: as for `prepare_prompt`.
        removal: the removal to come, which is refused before there is an output.
        output: as for `prepare_output`.
        target: as for `prepare_output`.
        callbacks: as for `prepare_output`.

    Raises:
        PromptError: the prompt is empty or does not fit the model, or the output is empty.
        SettingError: a setting is out of range, the model cannot do the removal, or the target does not lie in the
            output.
    """
    built = prepare_prompt(model, prompt, options, unit=unit)
    if removal is not None:
        require_removal(model, built, removal)
    return prepare_output(model, built, output=output, target=target, callbacks=callbacks)


def prepare_prompt(
    model: Model,
    prompt: str | Sequence[Message],
    options: PromptOptions | None = None,
    *,
    unit: str | Sequence[Span] = "auto",
) -> Prompt:
    """Turn a prompt into ids and units that the model has; generates and scores nothing.

    Args:
        model: the model.
        prompt: a text, or chat messages whose last user message is explained.
        options: what stands around the prompt.
        unit: as for `build_prompt`.

    Raises:
        PromptError: the prompt is empty or does not fit the model.
        SettingError: the unit is unknown, or a setting is out of range.
    """
    built = build_prompt(model.tokenizer, prompt, options, unit=unit)
    model.require_ids(built.ids)
    return built


def prepare_output(
    model: Model,
    prompt: Prompt,
    *,
    output: str | Output | Generation | None = None,
    target: Span | str | None = None,
    callbacks: Callbacks | None = None,
) -> Preparation:
    """Generate or take the output to explain.

    Args:
        model: the model.
        prompt: what `prepare_prompt` gave.
        output: the text to explain, or an output with its token ids, or how the model generates it; by default the
            model generates it greedily.
        target: the part of the output to explain: `(start, end)` in output tokens, a text that occurs in it once, or
            "answer" for what follows a reasoning trace. By default all of it, or the target of an output with token
            ids. Where the trace is attributable, the answer is the output, and the trace ends the prompt.
        callbacks: `progress` and `on_text` are called during the generation.

    Raises:
        PromptError: the prompt and the output do not fit the model, or the output is empty.
        SettingError: the target does not lie in the output.
    """
    if output is not None and not isinstance(output, str | Output | Generation):
        raise SettingError(
            f"output must be a text, an Output with its token ids, or a Generation, got {type(output).__name__}"
        )
    generation = output if isinstance(output, Generation) else Generation()
    if isinstance(output, Output):
        model.require_ids(output.ids)
        require_room(model, prompt, len(output.ids))
        if target is not None:
            output = replace(output, target=_target(model, prompt, output.ids, output.text, target))
        return _prepared(model, prompt, output, generation)
    text = output if isinstance(output, str) else None
    answers = getattr(model, "answers", None) if text is None else None
    if answers is not None and (ids := answers.get(model, prompt.ids, generation)):
        said = model.decode(ids)
        kept = Output(ids, said, _target(model, prompt, ids, said, target))
        return replace(_prepared(model, prompt, kept, generation), kept=True)
    answered = answer(model, prompt, generation, output=text, target=target, callbacks=callbacks)
    if answers is not None:
        answers.put(model, prompt.ids, generation, answered.ids)
    return _prepared(model, prompt, answered, generation)


def _prepared(model: Model, prompt: Prompt, output: Output, generation: Generation) -> Preparation:
    """A prompt and its output, the trace moved from the output to the prompt where it is attributable."""
    if prompt.trace:
        prompt, output = with_trace(model.tokenizer, model.decode, prompt, output)
    return Preparation(model, prompt, output, generation)


def answer(
    model: Model,
    prompt: Prompt,
    generation: Generation | None = None,
    *,
    output: str | None = None,
    target: Span | str | None = None,
    callbacks: Callbacks | None = None,
) -> Output:
    """The output to explain: what the model generates for the prompt, or the caller's own text.

    Raises:
        PromptError: the prompt does not fit the model, or the output is empty.
        SettingError: the target does not lie in the output.
    """
    generation, callbacks = generation or Generation(), callbacks or Callbacks()
    ids = () if output is None else model.encode_continuation(output)
    require_room(model, prompt, len(ids) if output is not None else generation.max_new_tokens)
    if output is None:
        on_token, on_ids = _listeners(model, generation, "answering", callbacks)
        ids = model.generate_ids(
            prompt.ids,
            generation,
            on_token=on_token,
            on_ids=on_ids,
        )
        if not ids:
            begun = " or the beginning of an answer (prefill)" if objective_of(model) == LOG_PROBABILITY else ""
            raise PromptError(
                f"the model's output is empty: it stopped at once; give the text to explain (output){begun}"
            )
    text = model.decode(ids) if output is None else output
    return Output(ids, text, _target(model, prompt, ids, text, target))


def answer_without(
    model: Model, scorer: PromptScorer, keep: Bool[Tensor, "units"], generation: Generation, callbacks: Callbacks
) -> tuple[int, ...]:
    """The ids of the model's answer to the prompt under one mask."""
    on_token, on_ids = _listeners(model, generation, "answering without them", callbacks)
    return scorer.generate(
        keep,
        generation,
        on_token=on_token,
        on_ids=on_ids,
    )


def require_room(model: Model, prompt: Prompt, n_output: int) -> None:
    """Refuse a prompt that, with its output, is longer than the model's context."""
    context, n_prompt = model.context_length, len(prompt.ids)
    if context is None or n_prompt + n_output <= context:
        return
    sizes = _document_sizes(prompt)
    fits = "; shorten the prompt or lower max_new_tokens"
    if sizes:
        fixed = n_prompt - sum(sizes) + n_output
        n_fitting = sum(fixed + total <= context for total in accumulate(sizes))
        fits = f"; of the {len(sizes)} documents the first {n_fitting} would fit, so leave out the others"
        if not n_fitting:
            fits = f"; not even the first of the {len(sizes)} documents would fit, so shorten it"
    raise PromptError(
        f"the prompt has {n_prompt} tokens and the output up to {n_output}, together more than the model's context "
        f"of {context} tokens{fits}"
    )


def _document_sizes(prompt: Prompt) -> list[int]:
    """The tokens of each document, those between it and the next one included; the last is taken to have as many."""
    starts, ends = dict[str, int](), dict[str, int]()
    for unit in prompt.units:
        if unit.document is not None:
            starts.setdefault(unit.document, unit.positions[0])
            ends[unit.document] = unit.positions[-1] + 1
    if not starts:
        return []
    first, end = list(starts.values()), list(ends.values())
    between = first[-1] - end[-2] if len(first) > 1 else 0
    return [*(later - start for start, later in pairwise(first)), end[-1] - first[-1] + between]


def _listeners(
    model: Model, generation: Generation, stage: str, callbacks: Callbacks
) -> tuple[Callable[[int], None] | None, Callable[[tuple[int, ...]], None] | None]:
    """The functions to call with the number of tokens, and with the ids, during `stage`."""
    progress, on_text = callbacks.progress, callbacks.on_text

    def count(done: int) -> None:
        assert progress is not None
        progress(stage, done, generation.max_new_tokens)

    def read(ids: tuple[int, ...]) -> None:
        assert on_text is not None
        on_text(stage, model.decode(ids))

    return count if progress else None, read if on_text else None


def _target(model: Model, prompt: Prompt, ids: Sequence[int], text: str, target: Span | str | None) -> Span:
    """The token span of the output whose probability counts."""
    if target is None:
        return 0, len(ids)
    if not isinstance(target, str):
        return target
    if target == ANSWER:
        if (found := trace_span(model.tokenizer, text, prompt)) is None:
            raise SettingError(
                "the output holds no reasoning trace (no </think> or mark of the model's own template), so the target "
                "'answer' is the whole output; leave it out (for the word itself, give its range of output tokens)"
            )
        inside = tokens_of(model.decode, ids, text, found[2], len(text))
        return inside[0], inside[-1] + 1
    if text.count(target) != 1 or not target:
        raise SettingError(
            f"the target {target!r} occurs {text.count(target)} times in the output; give a text that occurs once, "
            "or a range of output tokens such as 0:10"
        )
    first = text.index(target)
    inside = tokens_of(model.decode, ids, text, first, first + len(target))
    if not inside:
        raise SettingError(f"no token of the output shows the target {target!r}; give a range of output tokens as 0:10")
    return inside[0], inside[-1] + 1
