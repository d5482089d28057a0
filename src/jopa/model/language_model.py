"""A causal language model with its tokenizer: what it generates, and how text goes in and comes out.

Knows nothing of units, masks or scores, nor where models come from.
"""

from __future__ import annotations

import inspect
import platform
import threading
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError, PromptError, SettingError
from jopa.model.attention_windows import AttentionWindows
from jopa.model.cached_generation import continue_with_cache
from jopa.model.generation import GREEDY, Generation, require_sampling, until_stop
from jopa.model.generation_probe import GenerationProbe, InputKind
from jopa.model.length_dependence import LengthDependence
from jopa.model.packing import PackedWeights
from jopa.model.plain_generation import continue_by_plain_forwards
from jopa.model.requirements import context_length, input_device, require_causal, without_peft, without_replicas
from jopa.model.sparse_index import SparseIndex
from jopa.model.state import evaluating, model_lock, quiet_transformers
from jopa.prompt.continuation import decoded, encode_continuation, end_of_turn_id

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from jopa.prompt.building import Prompt
    from jopa.prompt.output import Output
    from jopa.scoring.protocols import Capability, PromptScorer


_SAMPLING = threading.RLock()
"""Held while torch's random state, which all threads share, is seeded and restored."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer; wrap your own with `LanguageModel(model, tokenizer)`.

    The model is left unchanged: training mode, hooks and generation settings are put back after every use. Several
    threads may use one model: each forward, with the hooks it needs, and each generation waits for `lock`.

    Attributes:
        model: a transformers model whose every token depends only on those before it. Of a PEFT model, the model that
            its adapters were put into; of one that was wrapped for several devices, the one inside.
        tokenizer: its tokenizer, a fast one.
        id: the name under which results are recorded.
        revision: the hub commit, or the checksum of the GGUF file, if known.
        batch_size: masks that its scorers score in one forward; by default as many as speed and memory allow. A
            scorer that runs out of memory halves its own, not this one.
        runner: runs the forwards of its scorers (`scoring.batch_input.Runner`); by default each by itself, at once.
        answers: keeps answers between runs (`model.answer_cache.AnswerCache`); None to generate each anew.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str = "unnamed"
    revision: str | None = None
    batch_size: int | None = None
    runner: Any = field(default=None, repr=False, compare=False)
    answers: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {self.batch_size}")
        object.__setattr__(self, "model", without_peft(without_replicas(self.model), self.id))
        with self.lock:
            object.__setattr__(self, "_steady", require_causal(self.model, self.id))

    def __repr__(self) -> str:
        return f"<LanguageModel {self.id}, {self.dtype} on {self.device}>"

    @property
    def lock(self) -> Any:
        """Held while the model runs or its state is changed; one for all that wrap the same model."""
        return model_lock(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        return input_device(self.model)

    @property
    def dtype(self) -> str:
        """The number format of the weights, as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def identity(self) -> dict[str, str | None]:
        """Its id, revision, dtype and device, as results record them."""
        return {"id": self.id, "revision": self.revision, "dtype": self.dtype, "device": str(self.device)}

    @property
    def context_length(self) -> int | None:
        """The most tokens the model was made for, or None where its configuration does not say."""
        return context_length(self.model.config.get_text_config())

    @property
    def vocabulary_size(self) -> int:
        """How many token ids the model has an embedding for."""
        return next(self.model.get_input_embeddings().parameters()).shape[0]

    @property
    def capabilities(self) -> Set[Capability]:
        """What its scorers can be asked: everything, but gradients only where they are found; tried when asked for."""
        from jopa.scoring.probe import ModelCapabilities, probe_of  # upwards, as its scorers are

        return ModelCapabilities(probe_of(self))

    def require_removal(self, removal: str, n_tokens: int) -> None:
        """Refuse a removal that it cannot do with `n_tokens` tokens.

        Raises:
            SettingError: its scores with zero embeddings mean nothing ("zero"), or its mask hides no tokens ("hide").
        """
        from jopa.scoring.masking import require_removal

        require_removal(self, removal, n_tokens)

    @cached_property
    def takes_positions(self) -> bool:
        """Whether its forward can be told where each token stands, and scores the same when it is told what it would
        find by itself."""
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            return False
        with self.lock, quiet_transformers(), evaluating(self.model):
            return self.length_dependence.positions_agree

    @cached_property
    def takes_attention_mask(self) -> bool:
        """Whether its forward can be told which tokens count."""
        return "attention_mask" in inspect.signature(self.model.forward).parameters

    @cached_property
    def length_dependence(self) -> LengthDependence:
        """Whether long rows change its first tokens, as some rotary embeddings do."""
        return LengthDependence(self.model, self.tokenizer)

    @cached_property
    def sparse_index(self) -> SparseIndex:
        """Whether equal scores of an index make row lengths matter."""
        return SparseIndex(self.model, self.tokenizer)

    @cached_property
    def attention_windows(self) -> AttentionWindows:
        """What the model does beyond the windows that its configuration names."""
        return AttentionWindows(self.model, self.tokenizer, self.id)

    @cached_property
    def generation_probe(self) -> GenerationProbe:
        """Which inputs transformers' own `generate` continues rightly; the others are continued by plain forwards."""
        return GenerationProbe(self.model, self.tokenizer, lambda: self.packed.active())

    def changes_with_length(self, n_tokens: int) -> bool:
        """Whether rows of `n_tokens` tokens must be alone and without a cache: their length changes their scores.

        Raises:
            ModelError: it changes them by so much that the model is not causal in such rows.
        """
        with self.lock, quiet_transformers(), evaluating(self.model):
            if self.length_dependence.changes_at(n_tokens) or self.sparse_index.ties_at(n_tokens):
                return True
            try:
                if not self.sparse_index.leaves_out_keys(n_tokens) and self.attention_windows.change_at(n_tokens):
                    return True
            finally:
                self.length_dependence.restore()
        return not vars(self)["_steady"]

    @cached_property
    def packed(self) -> PackedWeights:
        """Copies of its weights that a processor multiplies by faster; made at the first use."""
        return PackedWeights(self.model)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer: those that model and tokenizer declare, and the chat template's end of turn.

        Raises:
            ModelError: the model declares something else than ids.
        """
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = declared if isinstance(declared, list) else [declared]
        if not all(i is None or type(i) is int for i in ids):
            raise ModelError(
                f"'{self.id}' declares stop tokens that are no ids: {declared!r:.60}; mend eos_token_id in its "
                "generation_config"
            )
        known = [*ids, self.tokenizer.eos_token_id, end_of_turn_id(self.tokenizer)]
        return frozenset(i for i in known if i is not None)

    def require_ids(self, ids: Iterable[int]) -> None:
        """Refuse token ids that the model has no embedding for.

        Raises:
            PromptError: there is one; a tokenizer with added tokens whose model was not resized gives such ids.
        """
        size = self.vocabulary_size
        if (unknown := next((i for i in ids if not 0 <= i < size), None)) is not None:
            raise PromptError(
                f"token {unknown} ({self.decode([unknown])!r:.60}) is unknown to the model, whose vocabulary has "
                f"{size} tokens; leave it out, or resize the model's embeddings to its tokenizer and train them"
            )

    def generate(
        self,
        inputs: dict[str, torch.Tensor],
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue an input; greedy unless a temperature is given.

        Greedy means the arg max of the model's own distribution: penalties and filters that a model's
        `generation_config` may ask for are left out, since they are no part of p(y|x).

        Args:
            inputs: keyword arguments of the model's forward, `Int[1, tokens]` each (or `inputs_embeds`). Without an
                attention mask every token counts, and without positions they are 0, 1, ….
            max_new_tokens: the most tokens to generate.
            temperature: 0 for greedy; otherwise the softmax temperature to sample with.
            seed: of the sampling.
            on_token: called with the number of tokens so far.
            on_ids: called with the new token ids so far, without the stop token.

        Returns:
            The new token ids, without the stop token.

        Raises:
            SettingError: a setting is out of range.
            PromptError: the model has no embedding for an id.
        """

        def report(ids: Sequence[int]) -> None:
            if on_token:
                on_token(len(ids))
            if on_ids:
                on_ids(until_stop(ids, self.stop_ids))

        (ids,) = self._continue(
            self._complete(inputs), max_new_tokens, temperature, seed, report if on_token or on_ids else None
        )
        return ids

    def generate_ids(
        self,
        ids: Sequence[int],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue token ids; see `generate`."""
        import torch

        return self.generate(
            {"input_ids": torch.tensor([list(ids)], device=self.device)},
            **vars(generation),
            on_token=on_token,
            on_ids=on_ids,
        )

    def scorer(self, prompt: Prompt, output: Output, removal: str) -> PromptScorer:
        """A scorer of keep masks of one prompt and output under one removal.

        Raises:
            SettingError: the removal is unknown, or the model cannot do it.
        """
        from jopa.scoring.model_scorer import ModelScorer  # upwards: a model makes its own scorers

        return ModelScorer(self, prompt, output, removal, runner=self.runner)

    def generate_batch(
        self, inputs: Sequence[dict[str, torch.Tensor]], *, max_new_tokens: int = 100
    ) -> list[tuple[int, ...]]:
        """Continue several inputs greedily, as `generate` would each alone; rows of a batch are padded at the left.

        Rounding differs between a batch and a row alone, so a tie between two tokens may be decided differently.

        Args:
            inputs: for each input what `generate` takes; all with the same keywords.
            max_new_tokens: the most tokens to generate.

        Returns:
            The new token ids of each input, without the stop token.

        Raises:
            SettingError: max_new_tokens is out of range.
        """
        if not inputs:
            return []
        inputs = [self._complete(row) for row in inputs]
        width = max(next(iter(row.values())).shape[1] for row in inputs)
        if len(inputs) == 1 or not self._continues_fast(inputs, width + max_new_tokens):
            return [self.generate(row, max_new_tokens=max_new_tokens) for row in inputs]
        batch = {name: _left_padded([row[name] for row in inputs], width) for name in inputs[0]}
        return self._continue(batch, max_new_tokens, 0.0, 0, None)

    def _continues_fast(self, rows: Sequence[dict[str, torch.Tensor]], n_tokens: int) -> bool:
        """Whether transformers' `generate` continues these inputs, up to `n_tokens` tokens, in one batch."""
        if self.changes_with_length(n_tokens):
            return False
        kind = InputKind(
            embedded="inputs_embeds" in rows[0],
            hidden=not all(bool(row["attention_mask"].all()) for row in rows if "attention_mask" in row),
            several=len(rows) > 1,
            masked="attention_mask" in rows[0],
            positions="position_ids" in rows[0],
        )
        with self.lock:
            self.length_dependence.restore()
            windows = (0, *self.attention_windows.exceeded(n_tokens))
            return all(self.generation_probe.agrees(replace(kind, window=window)) for window in windows)

    def _complete(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """An input with its mask and positions given; else `generate` guesses a mask that hides the padding's id."""
        import torch

        given = inputs.get("input_ids", inputs.get("inputs_embeds"))
        assert given is not None
        if "input_ids" in inputs:
            self.require_ids(given.flatten().tolist())
        n_rows, n_tokens = given.shape[:2]
        complete = dict(inputs)
        if self.takes_attention_mask and "attention_mask" not in inputs:
            complete["attention_mask"] = torch.ones(n_rows, n_tokens, dtype=torch.long, device=given.device)
        if self.takes_positions and "position_ids" not in inputs:
            complete["position_ids"] = torch.arange(n_tokens, device=given.device).expand(n_rows, -1)
        return complete

    def _continue(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        on_new: Callable[[Sequence[int]], None] | None,
    ) -> list[tuple[int, ...]]:
        """The new token ids of each row, without the stop token; several rows only where `_continues_fast` says so."""
        import torch

        require_sampling(max_new_tokens, temperature)
        rows = next(iter(inputs.values()))
        fast = len(rows) > 1 or self._continues_fast([inputs], rows.shape[1] + max_new_tokens)
        restore = self.length_dependence.restore
        # `manual_seed` seeds every device that is in use.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        undisturbed = torch.random.fork_rng(devices)
        with (
            self.lock,
            _SAMPLING if temperature > 0 else nullcontext(),
            quiet_transformers(),
            evaluating(self.model),
            undisturbed if temperature > 0 else nullcontext(),
            self.packed.active() if fast else nullcontext(),
        ):
            if temperature > 0:
                torch.manual_seed(seed)
            restore()
            settings = (self.model, inputs, max_new_tokens, temperature, self.stop_ids)
            if fast:
                found = continue_with_cache(*settings, on_new)
            else:
                found = [continue_by_plain_forwards(*settings, restore, on_new)]
        return [until_stop(row, self.stop_ids) for row in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return decoded(self.tokenizer, ids)

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows other text; see `jopa.prompt.continuation.encode_continuation`."""
        return encode_continuation(self.tokenizer, text)


def _left_padded(rows: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """Rows `[1, tokens, …]` as one batch, zeros before the shorter ones."""
    import torch

    return torch.cat([torch.cat([row.new_zeros(1, width - row.shape[1], *row.shape[2:]), row], dim=1) for row in rows])


def versions() -> dict[str, str]:
    """The versions of jopa and of what its numbers stand on."""
    return {
        **{package: version(package) for package in ("jopa", "torch", "transformers")},
        "python": platform.python_version(),
    }
