"""A causal language model with its tokenizer: what it generates, and how text goes in and comes out.

Knows nothing of units, masks or scores, nor where models come from.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError, SettingError
from jopa.model.packing import PackedWeights
from jopa.prompt.output import decode, encode_continuation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from jopa.prompt.building import Prompt
    from jopa.prompt.output import Output
    from jopa.scoring.protocols import Capability, PromptScorer


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer; wrap your own with `LanguageModel(model, tokenizer)`.

    The model leaves as it came: evaluation mode, hooks and generation settings are put back after every use.

    Attributes:
        model: a transformers model whose every token depends only on those before it.
        tokenizer: its tokenizer, a fast one.
        id: the name under which results are recorded.
        revision: the hub commit, or the checksum of the GGUF file, if known.
        batch_size: masks that its scorers score in one forward; by default as many as pay. Halved when memory runs out.
        runner: runs the forwards of its scorers (`scoring.batch_input.Runner`); by default each by itself, at once.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str = "unnamed"
    revision: str | None = None
    batch_size: int | None = None
    runner: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {self.batch_size}")
        _require_causal(self.model, self.id)

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        return next(self.model.get_input_embeddings().parameters()).device

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
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What its scorers can be asked: everything."""
        return frozenset({"scores", "gradient", "attention", "model"})

    @cached_property
    def takes_positions(self) -> bool:
        """Whether its forward can be told where each token stands."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @cached_property
    def packed(self) -> PackedWeights:
        """Copies of its weights that a processor multiplies by faster; made at the first use."""
        return PackedWeights(self.model)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = declared if isinstance(declared, list) else [declared]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

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
            inputs: keyword arguments of the model's forward, `Int[1, tokens]` each (or `inputs_embeds`).
            max_new_tokens: the most tokens to generate.
            temperature: 0 for greedy; otherwise the softmax temperature to sample with.
            seed: of the sampling.
            on_token: called with the number of tokens so far.
            on_ids: called with the new token ids so far, without the stop token.

        Returns:
            The new token ids, without the stop token.

        Raises:
            SettingError: a setting is out of range.
        """

        def tell(ids: Sequence[int]) -> None:
            if on_token:
                on_token(len(ids))
            if on_ids:
                on_ids(self._until_stop(ids))

        (ids,) = self._continue(inputs, max_new_tokens, temperature, seed, tell if on_token or on_ids else None)
        return ids

    def generate_ids(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue token ids; see `generate`."""
        import torch

        return self.generate(
            {"input_ids": torch.tensor([list(ids)], device=self.device)},
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
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

        Rounding differs between a batch and a row alone, so a tie between two tokens may fall the other way.

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
        if "position_ids" not in inputs[0]:  # padding would move the tokens of a model that takes no positions
            return [self.generate(row, max_new_tokens=max_new_tokens) for row in inputs]
        width = max(row["position_ids"].shape[1] for row in inputs)
        batch = {name: _left_padded([row[name] for row in inputs], width) for name in inputs[0]}
        return self._continue(batch, max_new_tokens, 0.0, 0, None)

    def _continue(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        on_new: Callable[[Sequence[int]], None] | None,
    ) -> list[tuple[int, ...]]:
        """The new token ids of each row, without the stop token."""
        import torch
        from transformers import GenerationConfig

        if max_new_tokens < 1:
            raise SettingError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not 0.0 <= temperature < float("inf"):
            raise SettingError(f"temperature must be 0 (greedy) or positive, got {temperature}")
        settings: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        plain = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.stop_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0,
            **settings,
        )
        declared = self.model.generation_config
        streamer: Any = _Listener(on_new) if on_new else None
        devices = [self.device] if self.device.type == "cuda" else []
        undisturbed = torch.random.fork_rng(devices)
        with quiet_transformers(), evaluating(self.model), undisturbed, torch.no_grad(), self.packed.active():
            torch.manual_seed(seed)
            try:
                self.model.generation_config = plain
                # PreTrainedModel is not typed as the GenerationMixin that causal models are.
                generated = self.model.generate(**inputs, generation_config=plain, streamer=streamer)  # type: ignore[operator]
            finally:
                self.model.generation_config = declared
        n_given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return [self._until_stop(row[n_given:]) for row in generated.tolist()]

    def _until_stop(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids before the first stop token."""
        end = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return tuple(ids[:end])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return decode(self.tokenizer, ids)

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows other text; see `jopa.prompt.output.encode_continuation`."""
        return encode_continuation(self.tokenizer, text)


class _Listener:
    """Gathers the tokens that `generate` streams, one a call; its first call carries the prompt."""

    def __init__(self, on_new: Callable[[Sequence[int]], None]) -> None:
        self.on_new = on_new
        self.ids: list[int] | None = None

    def put(self, tokens: torch.Tensor) -> None:
        if self.ids is None:
            self.ids = []
        else:
            self.ids += tokens.flatten().tolist()
            self.on_new(self.ids)

    def end(self) -> None:
        """Nothing is left to flush."""


def _require_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose first token sees the second, as those of encoder-only models do."""
    import torch

    if model.get_output_embeddings() is None:
        raise ModelError(f"'{name}' has no language-model head; jopa explains causal language models")
    embeddings = next(model.get_input_embeddings().parameters())
    pairs = torch.tensor([[3, 5], [3, 6]], device=embeddings.device) % len(embeddings)
    with quiet_transformers(), evaluating(model), torch.no_grad():
        first = model(input_ids=pairs).logits[:, 0].float()
    if (first[0] - first[1]).abs().max() > 1e-3 * first.abs().max():
        raise ModelError(
            f"'{name}' reads its input in both directions (an encoder-only model); jopa explains causal language models"
        )


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode (no dropout) for the time of a block; each module's own mode comes back."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _left_padded(rows: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """Rows `[1, tokens, …]` as one batch, zeros before the shorter ones."""
    import torch

    return torch.cat([torch.cat([row.new_zeros(1, width - row.shape[1], *row.shape[2:]), row], dim=1) for row in rows])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and loading bars from transformers and the hub's client for the time of a block."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()


def versions() -> dict[str, str]:
    """The versions of jopa and of what its numbers stand on."""
    return {
        **{package: version(package) for package in ("jopa", "torch", "transformers")},
        "python": platform.python_version(),
    }
