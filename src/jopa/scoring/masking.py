"""Removal: keep masks of one prompt as rows of token ids, and what the model says to many of them.

The three removals, for a prompt of n tokens:

    delete   the tokens are cut out; later tokens move up           (what a person editing the prompt does)
    zero     their input embeddings are multiplied by 0; positions stay           (the paper's m ⊙ x, equation 3)
    hide     attention mask 0, so that no token attends to them; positions stay

What rows have in common at their beginning is computed once where that saves work (`batch_planning`): caches of some
rows are kept, within a call and from one call to the next. Batching, padding and caching change no score by more than
rounding.

Sees ids, units and masks; knows nothing of what is done with the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.choices import checked_removal
from jopa.errors import PromptError, SettingError
from jopa.model.language_model import LanguageModel
from jopa.prompt.building import Prompt
from jopa.scoring.batch_input import Runner
from jopa.scoring.batch_planning import Batch, plan
from jopa.scoring.forward import TargetForward
from jopa.scoring.prefix_cache import PrefixCache
from jopa.scoring.probe import probe_of

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float
    from torch import Tensor

# Rows whose caches are remembered from one call to the next, and rows of one call that may all be remembered.
_MAX_KEPT_CACHES = 24
_FEW_MASKS = 8


@dataclass(frozen=True, eq=False)
class _CachedRow:
    """A row whose cache others can begin with.

    Attributes:
        visible: which positions of the prompt it has, as far as its cache goes.
        prefix: its cache.
    """

    visible: Bool[np.ndarray, "positions"]
    prefix: PrefixCache


class MaskedForward:
    """Forwards of one prompt and output with units removed by one removal.

    Args:
        model: the language model.
        prompt: masks keep or remove its units.
        output: ids of the output.
        target: `[start, end)`, the tokens of the output whose predictions are read.
        removal: "delete", "zero" or "hide".
        reuse: keep key-value caches.
        runner: runs the forwards under masks.

    Attributes:
        ids: what enters the model when nothing is removed: the prompt, and the output as far as it predicts something.
        unit_of: the unit that each of them belongs to, -1 for template and output.
        n_prompt: how many of them are the prompt's.
        n_full: tokens of a full forward: the prompt and the whole output.
        forward: runs the model and counts.

    Raises:
        SettingError: a setting is out of range, or the model cannot do this removal.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Prompt,
        output: tuple[int, ...],
        target: tuple[int, int],
        removal: str,
        reuse: bool,
        runner: Runner | None = None,
    ) -> None:
        import torch

        checked_removal(removal)
        model.require_ids([*prompt.ids, *output])
        start, end = target
        # The last target token predicts nothing that is asked for, so it never enters the model; unless the factors
        # that the model uses for all tokens depend on the length.
        alone = model.changes_with_length(len(prompt.ids) + len(output))
        n_read = len(output) if alone else end - 1
        self.ids = torch.tensor([*prompt.ids, *output[:n_read]])
        self.unit_of = torch.full((len(self.ids),), -1)
        for number, unit in enumerate(prompt.units):
            self.unit_of[list(unit.positions)] = number
        self.n_prompt, self.n_full = len(prompt.ids), len(prompt.ids) + len(output)
        self._removal = removal
        require_removal(model, removal, self.n_full)
        reuse = reuse and _reuses(model, removal)
        self._reuse = reuse
        self._cached_rows: list[_CachedRow] = []
        # The position that predicts y_1 must be computed with every mask, even when all units before it are deleted.
        first_unit = min(prompt.units[0].positions)
        tail = self.n_prompt - 1 > max(prompt.units[-1].positions)
        n_prefix = max(0, first_unit if tail else first_unit - 1) if reuse else 0
        targets = torch.tensor(output[start:end])
        self.forward = TargetForward(model, self.ids[:n_prefix], targets, n_read - start + 1, len(self.ids), runner)

    def under_masks(
        self, keep: Bool[Tensor, "masks units"], reduce_logits: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> Float[Tensor, "masks ..."]:
        """What `reduce_logits` makes of the logits under each mask, `shape` numbers each, on the CPU.

        Raises:
            PromptError: a mask leaves nothing to predict the output from.
            ScoringError: memory does not suffice for one mask.
        """
        import numpy as np
        import torch

        results = torch.empty(len(keep), *shape, dtype=torch.float32)
        visible = self.visible(keep)
        rows = visible[:, : self.n_prompt].numpy()
        if self._removal != "zero" and not rows.any(axis=1).all():
            raise _nothing_left(keep[int(rows.any(axis=1).argmin())])
        prefix = self.forward.prefix()
        prefix_caches = [_CachedRow(np.ones(prefix.length, dtype=bool), prefix), *self._cached_rows]
        with self.forward.timed("planning"):
            batches = plan(
                rows,
                [row.visible for row in prefix_caches],
                self.forward.limits(self.n_prompt, self._reuse),
                compact=self._removal == "delete",
                after=visible.shape[1] - self.n_prompt,
            )
        new = []
        for batch in batches:
            with self.forward.timed("scores"):
                for part, (result, prefixes) in self._run(batch, prefix_caches, visible, reduce_logits):
                    results[part] = result.float().cpu()
                    new += [
                        _CachedRow(rows[row], prefix)
                        for row, prefix in zip(part if prefixes else (), prefixes, strict=True)
                    ]
            if batch.keep:
                prefix_caches.append(new[-1])
        self.forward.count(evaluations=len(keep))
        self._keep_caches(new, {id(prefix_caches[number]) for batch in batches for number in batch.prefix_caches})
        return results

    def rounding(self) -> float:
        """By how much the rounding of the model's dtype may change Σ log p(y), in nats; 0 for float32 and better.

        A logit is rounded by up to ε/2 of its magnitude, and so is what it is compared with; the errors of the target's
        tokens add as independent ones do. One forward with nothing removed.
        """
        import torch

        dtype = self.forward.model.model.dtype
        if dtype in (torch.float32, torch.float64):
            return 0.0
        whole = torch.ones(1, int(self.unit_of.max()) + 1, dtype=torch.bool)
        largest = self.under_masks(whole, lambda logits: logits.float().abs().amax(-1), (self.forward.n_targets,))
        return float(torch.finfo(dtype).eps * largest.square().sum().sqrt())

    def cache_of_whole(self, length: int) -> PrefixCache | None:
        """The cache of the first tokens with nothing removed, if a row that was scored has left it."""
        for row in self._cached_rows:
            if len(row.visible) >= length and row.visible[:length].all():
                return row.prefix.first(length)
        return None

    def attention_scaled_log_probs(self, log_factors: Float[Tensor, "units"]) -> Float[Tensor, "out"]:
        """Log-probabilities of the target with nothing removed, but the attention paid to each unit multiplied by its
        factor; differentiable by the factors' logarithms."""
        import torch

        start = self.forward.prefix().length
        by_position = torch.where(self.unit_of >= 0, log_factors[self.unit_of.clamp(min=0)], 0.0)
        ids = self.ids[start:]
        inputs = self.forward.embedded(ids[None], torch.ones(1, len(ids), dtype=torch.float32))
        return self.forward(inputs, [len(ids)], log_factors=by_position)[0]

    def attention(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "layers tokens"]:
        """Attention to each token, averaged over heads and the positions that predict the target, layer by layer.

        Units outside `keep` are deleted, whatever the removal; their tokens have none.

        Raises:
            PromptError: nothing is left to predict the output from.
            ScoringError: the model does not give its attention weights.
        """
        import torch

        visible = self.visible(keep)
        if not visible[: self.n_prompt].any():
            raise _nothing_left(keep)
        layers = self.forward.attentions(self.ids[visible])
        weights = torch.zeros(len(layers), len(visible), dtype=torch.float32)
        weights[:, visible] = torch.stack([layer.mean(dim=(0, 1)) for layer in layers])
        return weights

    def _run(
        self,
        batch: Batch,
        prefix_caches: Sequence[_CachedRow],
        visible: Bool[Tensor, "masks tokens"],
        reduce_logits: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[list[int], tuple[Tensor, list[PrefixCache]]]]:
        """The masks of a batch in one forward, or in several where memory runs out; and the caches to remember."""
        import torch

        begins = {number: prefix_caches[number].prefix.first(batch.start) for number in batch.prefix_caches}
        cache_of = dict(zip(batch.rows, batch.prefix_caches, strict=True))
        n_tokens = visible.sum(dim=1) if self._removal == "delete" else torch.full((len(visible),), visible.shape[1])
        n_output = visible.shape[1] - self.n_prompt
        longest = int(n_tokens[list(batch.rows)].max())
        # Few masks asked for at once are most likely what the next ones will differ little from.
        remember = batch.keep or (len(visible) <= _FEW_MASKS and self._reuse and self.forward.crops_caches)

        def work(rows: list[int]) -> tuple[Tensor, list[PrefixCache]]:
            cache_lengths = (n_tokens[rows] - n_output).tolist() if remember else []
            logits, prefixes = self._score(visible[rows], [begins[cache_of[row]] for row in rows], cache_lengths)
            return reduce_logits(logits), prefixes

        return self.forward.in_batches(batch.rows, longest - batch.start, work)

    def _keep_caches(self, new: Sequence[_CachedRow], used: set[int]) -> None:
        """Keep the caches most likely to serve the next call: those of this call's rows, then those it began with."""
        old = sorted(self._cached_rows, key=lambda row: id(row) not in used)
        room = min(_MAX_KEPT_CACHES, self.forward.limits(self.n_prompt, self._reuse).new_caches)
        self._cached_rows = [*reversed(new), *old][:room]

    def removed_inputs(self, keep: Bool[Tensor, "units"]) -> dict[str, Tensor]:
        """The prompt under one mask as keyword arguments of `LanguageModel.generate`."""
        import torch

        visible = self.visible(keep)[: self.n_prompt]
        ids = self.ids[: self.n_prompt]
        if self._removal == "delete":
            ids = ids[visible]
        if self._removal != "zero" and not visible.any():
            raise _nothing_left(keep)
        device = self.forward.model.device
        inputs = {"input_ids": ids[None].to(device), "attention_mask": torch.ones_like(ids)[None].to(device)}
        if self._removal == "zero":
            inputs |= self.forward.embedded(inputs.pop("input_ids"), visible.float()[None])
        elif self._removal == "hide":
            inputs["attention_mask"] = visible.long()[None].to(device)
        if self.forward.options.positions:
            inputs["position_ids"] = torch.arange(len(ids), device=device)[None]
        return inputs

    def visible(self, keep: Bool[Tensor, "*masks units"]) -> Bool[Tensor, "*masks tokens"]:
        """Which tokens of the input stay: the template, the output, and the units of `keep`."""
        return (self.unit_of < 0) | keep[..., self.unit_of.clamp(min=0)]

    def _score(
        self, visible: Bool[Tensor, "rows tokens"], prefix_caches: Sequence[PrefixCache], cache_lengths: Sequence[int]
    ) -> tuple[Float[Tensor, "rows out vocab"], list[PrefixCache]]:
        """One forward of rows after their cached beginnings: their logits, and the caches of their first tokens."""
        import torch

        begin = prefix_caches[0].length
        if self._removal == "delete":
            rows = [self.ids[row][begin:] for row in visible]
        else:
            rows = list(self.ids[begin:].expand(len(visible), -1))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.forward.model.device)
        inputs = {"input_ids": ids}
        if self._removal == "zero":
            inputs = self.forward.embedded(ids, visible[:, begin:].float())
        hidden = visible.long() if self._removal == "hide" else None
        return self.forward.logits(inputs, [len(row) for row in rows], prefix_caches, hidden, cache_lengths)


def require_removal(model: LanguageModel, removal: str, n_tokens: int) -> None:
    """Refuse a removal that a model cannot do with `n_tokens` tokens.

    Raises:
        SettingError: it takes no embeddings in place of ids, or its scores with zero embeddings depend on the length of
            a row (removal "zero"); or its mask hides no tokens ("hide").
    """
    probe = probe_of(model)
    if removal == "zero" and not probe.takes_embeddings:
        raise SettingError(
            f"'{model.id}' takes no embeddings in place of the ids they stand for, so removal 'zero' cannot be done; "
            "use removal 'delete'"
        )
    if removal == "zero" and model.sparse_index.leaves_out_keys(n_tokens):
        raise SettingError(
            f"removal 'zero' cannot be done with {n_tokens} tokens: beyond {model.sparse_index.limit}, '{model.id}' "
            "attends to the keys with the highest index scores, those of zero embeddings are equal, and the length of "
            "the row decides between them; use removal 'delete'"
        )
    if removal == "hide" and not probe.hides:
        raise SettingError(
            f"'{model.id}' cannot hide tokens and leave positions unchanged, so removal 'hide' cannot be done; "
            "use removal 'delete'"
        )


def _reuses(model: LanguageModel, removal: str) -> bool:
    """Whether rows under this removal can follow a cached beginning."""
    probe = probe_of(model)
    if not probe.crops_caches and not probe.repeats_caches:
        return False
    if removal == "delete":
        return True
    return probe.continues_embedded if removal == "zero" else probe.hides_behind_prefix


def _nothing_left(keep: Bool[Tensor, "units"]) -> PromptError:
    return PromptError(
        f"with all {int((~keep).sum())} units removed nothing is left to predict the output from; remove fewer units, "
        "or use removal 'zero'"
    )
