"""One forward of rows: what enters the model, and what comes back.

A row is a cached beginning and the tokens after it; its target positions are those that predict a target token. Rows of
one forward may differ in all of that, and may belong to several prompts. Shorter rows are padded at the right, where
causality hides the padding; shorter beginnings are padded at the left, where a mask hides it. The language-model head
gets only the target positions.

A `Runner` runs the forwards. The plain one runs each at once; a `BatchedRunner` runs those of several searches
together.

Knows ids and positions, nothing of units and masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jopa.errors import ModelError
from jopa.model.language_model import LanguageModel
from jopa.model.state import evaluating, model_lock
from jopa.model.threads import follow_other_work
from jopa.scoring.attention_scaling import scaled_attention_masks
from jopa.scoring.batch_planning import BatchLimits
from jopa.scoring.prefix_cache import PrefixCache, cache_after, extract_prefix_caches, new_cache

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel

T = TypeVar("T")


@dataclass(frozen=True)
class CallOptions:
    """How a model is called; `probe` finds which of these agree with the model's plain forward.

    Attributes:
        positions: give the model the position of each token.
        target_logits: give the language-model head the target positions only.
        packed: multiply by packed weights.
        cache_argument: the name under which the forward takes a cache.
        restore: called before each forward of a model whose rows must be alone, because its rotary factors depend on
            the longest row; restores the factors that it starts with.
    """

    positions: bool = True
    target_logits: bool = True
    packed: bool = True
    cache_argument: str = "past_key_values"
    restore: Callable[[], None] | None = None


@dataclass(frozen=True, eq=False)
class BatchInput:
    """Rows of one prompt that enter a forward together.

    Attributes:
        inputs: `input_ids` (`Int[rows, n]`) or `inputs_embeds` of what follows the caches, padded at the right.
        target_positions: the positions in them that predict a target token.
        prefix_caches: what each row begins with, all of one length.
        attention_mask: 0 where no token may attend, the cached beginning included; without it every token counts.
        keep: keep the cache of this many tokens of each row, its beginning included; by default none.
        log_factors: of the attention paid to each token of a single row of `inputs_embeds`, its beginning included.
        options: how the model is called; the same for all that enter a forward together.
    """

    inputs: Mapping[str, Tensor]
    target_positions: Int[Tensor, "rows out"]
    prefix_caches: Sequence[PrefixCache]
    attention_mask: Int[Tensor, "rows all"] | None = None
    keep: Sequence[int] = ()
    log_factors: Float[Tensor, "all"] | None = None
    options: CallOptions = CallOptions()

    @property
    def width(self) -> int:
        """Tokens of each row after its cached beginning, padding included."""
        return next(iter(self.inputs.values())).shape[1]

    @property
    def begin(self) -> int:
        """Tokens of each cached beginning."""
        return self.prefix_caches[0].length

    @property
    def tokens(self) -> int:
        """Tokens that enter the model, padding included."""
        return len(self.prefix_caches) * self.width


@dataclass(frozen=True, eq=False)
class BatchOutput:
    """The result of a forward for some rows.

    Attributes:
        logits: in the model's dtype, on its device.
        prefixes: the caches to keep.
        seconds: wall-clock time inside the model; of a shared forward, the rows' share by their tokens. On a GPU, which
            runs asynchronously, the time to start it.
    """

    logits: Float[Tensor, "rows out vocab"]
    prefixes: list[PrefixCache]
    seconds: float


class Runner:
    """Runs the forwards of a search: each by itself, at once.

    Attributes:
        members: the most searches that run at a time, and so share the memory for caches.
    """

    members: int = 1

    def work(self, pieces: Iterable[Iterator[T]]) -> Iterator[T]:
        """The values that these searches yield, one search after another."""
        for piece in pieces:
            yield from piece

    def seconds(self) -> float:
        """A wall-clock for the calling search, in seconds; only differences have a meaning."""
        return time.perf_counter()

    def read(self, model: LanguageModel, rows: BatchInput, limits: BatchLimits) -> BatchOutput:
        """Run a forward of these rows in inference mode. This runner adds no other rows, so it needs no limits.

        Args:
            model: the language model.
            rows: what enters it.
            limits: what a forward that includes these rows may hold.

        Raises:
            RuntimeError: memory is too small for these rows.
        """
        with without_gradients(model.model):
            return forward(model, [rows])[0]


def forward(model: LanguageModel, parts: Sequence[BatchInput]) -> list[BatchOutput]:
    """One forward of all rows of these parts; differentiable where gradients are enabled.

    Args:
        model: the language model; it must take positions if the caches of two parts differ in length.
        parts: the rows of each prompt, all with the same options. All have ids, or all have embeddings; either all
            have caches of some length that can be cut, or none has. Only a single part may have factors of attention.

    Raises:
        ModelError: the model has no language-model head.
    """
    import torch

    prefix_caches = [base for part in parts for base in part.prefix_caches]
    begin, width = max(part.begin for part in parts), max(part.width for part in parts)
    missing = [begin - base.length for base in prefix_caches]
    arguments: dict[str, Any] = {
        name: torch.cat([_padded(part.inputs[name], width) for part in parts]) for name in parts[0].inputs
    }
    options = parts[0].options
    if options.positions:
        begins = torch.tensor([base.length for base in prefix_caches])[:, None]
        positions = torch.arange(width)[None]
        if len(prefix_caches) > 1:  # padding gets the last token's position: a table of positions may end there
            positions = positions.minimum(torch.cat([part.target_positions[:, -1:] for part in parts]))
        arguments["position_ids"] = (begins + positions).to(model.device)
    if any(missing) or any(part.attention_mask is not None for part in parts):
        arguments["attention_mask"] = _attention_mask(parts, begin, width).to(model.device)
    keep = [length for part in parts for length in part.keep or [0] * len(part.prefix_caches)]
    cache = cache_after(prefix_caches, any(keep)) if begin else new_cache() if any(keep) else None
    if cache is not None:
        arguments[options.cache_argument] = cache
    if parts[0].log_factors is not None:
        assert len(parts) == 1 and "attention_mask" not in arguments
        scaled = scaled_attention_masks(model.model, arguments["inputs_embeds"], cache, parts[0].log_factors)
        arguments["attention_mask"] = scaled
    targets = [row for part in parts for row in part.target_positions]
    logits, seconds = target_logits(model, {**arguments, "use_cache": cache is not None}, targets, options)
    prefixes = iter(extract_prefix_caches(cache, keep, missing) if cache is not None and any(keep) else ())
    share = seconds / sum(part.tokens for part in parts)
    return [
        BatchOutput(
            own.view(*part.target_positions.shape, -1), [next(prefixes) for _ in part.keep], share * part.tokens
        )
        for part, own in zip(parts, logits.split([part.target_positions.numel() for part in parts]), strict=True)
    ]


def target_logits(
    model: LanguageModel, arguments: Mapping[str, Any], targets: Sequence[Int[Tensor, "_"]], options: CallOptions
) -> tuple[Float[Tensor, "all vocab"], float]:
    """One call of the model; differentiable where gradients are enabled.

    Args:
        model: the language model.
        arguments: of its forward.
        targets: the positions of each row whose predictions are wanted.
        options: how it is called.

    Returns:
        The logits at these positions, those of the first row first, in the model's dtype, on its device; and the
        wall-clock seconds inside the model.
    """
    import torch

    packed = model.packed.active() if options.packed and not torch.is_grad_enabled() else nullcontext()
    selected = logits_only_at(model, targets) if options.target_logits else nullcontext()
    with model.lock, evaluating(model.model), packed, selected:
        if options.restore is not None:
            options.restore()
        follow_other_work()
        start = time.perf_counter()
        logits = model.model(**arguments).logits
        if options.target_logits:
            logits = logits[0]
        else:
            logits = torch.cat([of_row[own.to(logits.device)] for of_row, own in zip(logits, targets, strict=True)])
        return logits, time.perf_counter() - start


def _padded(rows: Tensor, width: int) -> Tensor:
    """Rows `[rows, tokens, …]` with zeros after them."""
    import torch

    n_rows, n, *rest = rows.shape
    return rows if n == width else torch.cat([rows, rows.new_zeros(n_rows, width - n, *rest)], dim=1)


def _attention_mask(parts: Sequence[BatchInput], begin: int, width: int) -> Int[Tensor, "rows all"]:
    """1 for every token, 0 for the padding before shorter caches and for what the parts hide."""
    import torch

    masks = []
    for part in parts:
        mask = torch.ones(len(part.prefix_caches), begin + width, dtype=torch.long)
        missing = begin - part.begin
        mask[:, :missing] = 0
        if part.attention_mask is not None:
            mask[:, missing : missing + part.attention_mask.shape[1]] = part.attention_mask
        masks.append(mask)
    return torch.cat(masks)


@contextmanager
def without_gradients(model: PreTrainedModel) -> Iterator[None]:
    """Inference mode for the time of a block, which costs less than `torch.no_grad`.

    Tensors that are made in it can never take part in gradients, so those that the model keeps (for example larger
    tables of positions) are replaced by ordinary copies.
    """
    import torch

    with model_lock(model):
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in model.modules():
                for kept in (module._buffers, vars(module)):
                    for name, value in list(kept.items()):
                        if isinstance(value, torch.Tensor) and value.is_inference():
                            kept[name] = value.clone()


@contextmanager
def logits_only_at(model: LanguageModel, target_positions: Sequence[Int[Tensor, "_"]]) -> Iterator[None]:
    """Give the language-model head only these positions of each row, for the time of a block.

    The model then gives logits `[1, positions of all rows, vocab]`.
    """
    import torch

    head = model.model.get_output_embeddings()
    if head is None:
        raise ModelError(f"'{model.id}' has no language-model head")
    rows = torch.arange(len(target_positions)).repeat_interleave(torch.tensor([len(row) for row in target_positions]))
    positions = torch.cat(list(target_positions))

    def select(_module: object, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        return hidden[rows.to(hidden.device), positions.to(hidden.device)][None], *others

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
