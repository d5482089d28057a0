"""What a loaded model can do beside its plain forward, found by trying it on a few tokens.

The plain forward is one row of ids: no batch, no cache, no mask, no positions. Everything that is faster, or looks
inside, is tried once for each loaded model, when it is first wanted, and is used only if its logits agree with those of
the plain forward to rounding. What disagrees or fails is switched off, and `slow_paths` says so.

Knows ids, caches and logits, nothing of units.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from jopa.errors import ModelError
from jopa.model.agreement import agree, tried
from jopa.model.language_model import LanguageModel, quiet_transformers
from jopa.scoring.batch_input import CallOptions
from jopa.scoring.plain_forward import plain_logits, whole_cache
from jopa.scoring.prefix_cache import CACHE_NAMES, PrefixCache
from jopa.scoring.probe_forwards import ProbeForwards
from jopa.scoring.protocols import Capability
from jopa.scoring.slow_paths import SLOW_PATHS

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = (1, 3, 6)
_LONG_PREFIXES = (5, 18)
"""Tokens of the cached beginnings that are tried; those of a longer row leave an odd and an even number."""
_SHARED = 5
_HIDDEN = 4
"""The token that is hidden, after a beginning of three."""
_TINY_LOG_FACTOR = -30.0
_CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


def probe_of(model: LanguageModel) -> ModelProbe:
    """The probe of a model; the same at every call, so that nothing is tried twice."""
    kept: dict[str, Any] = vars(model)
    if "_probe" not in kept:
        kept["_probe"] = ModelProbe(model)
    return kept["_probe"]


class ModelCapabilities(Set["Capability"]):
    """What the scorers of a model can be asked: everything, but gradients only where they are found; tried when asked.

    Args:
        probe: tries it.
    """

    def __init__(self, probe: ModelProbe) -> None:
        self._probe = probe

    def __contains__(self, name: object) -> bool:
        return name in _CAPABILITIES and (name != "gradient" or self._probe.gradients)

    def __iter__(self) -> Iterator[Capability]:
        return (name for name in _CAPABILITIES if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ModelProbe:
    """Finds what a model can do; each property is tried at its first use and then known.

    Args:
        model: the language model.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._refused: dict[str, str] = {}
        self._row_cache: PrefixCache | None = None
        self._forwards = ProbeForwards(model)
        self._rows = self._forwards.rows

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """One line for each fast path that was wanted and is switched off."""
        return tuple(self._refused.values())

    @cached_property
    def options(self) -> CallOptions:
        """How to call the model with a row alone.

        Raises:
            ModelError: the model gives other scores at every call.
        """
        fast = self._fast_options
        if self._caches_of_fast_batch is not None:
            return replace(fast, cache_argument=CallOptions().cache_argument)
        off = {"target_logits": False, "packed": False, "positions": False}
        for changes in ({}, *({name: False} for name in off), off):
            options = replace(fast, **changes)
            if self._tried(lambda options=options: self._agrees([self._rows[0]], options=options)):
                for name in changes:
                    if getattr(fast, name):
                        self._refused[name] = SLOW_PATHS[name]
                return options
        raise ModelError(f"'{self._model.id}' gives other scores when it is called again; nothing can be compared")

    @cached_property
    def _fast_options(self) -> CallOptions:
        """Everything fast, and the likeliest name of a cache."""
        return CallOptions(positions=self._model.takes_positions, cache_argument=self._cache_names[0])

    @cached_property
    def _cache_names(self) -> list[str]:
        declared = inspect.signature(self._model.model.forward).parameters
        return sorted(CACHE_NAMES, key=lambda name: name not in declared)

    @cached_property
    def _caches_of_fast_batch(self) -> list[PrefixCache] | None:
        """The caches of both rows, if one forward of both, with everything fast, gave the scores of plain forwards.

        It is tried first, because it answers most questions for most models.
        """
        expected, found = self._forwards.expected, []

        def attempt() -> bool:
            lengths = [len(row) for row in self._rows]
            (output,) = self._forwards.without_gradients(
                self._forwards.part(self._rows, self._fast_options, keep=lengths)
            )
            found.extend(output.prefixes)
            return all(agree(own[: len(row)], row) for own, row in zip(output.logits, expected, strict=True))

        return found if self._tried(attempt) else None

    @cached_property
    def batches(self) -> bool:
        """Whether rows of different length can share a forward, padded at the right."""
        return self._caches_of_fast_batch is not None or self._works("batches", lambda: self._agrees(self._rows))

    @cached_property
    def _cache(self) -> tuple[str | None, bool]:
        """The name under which the model takes a cache that it continues several tokens from, and whether such a cache
        can be cut."""
        for name in self._cache_names:
            options = replace(self.options, cache_argument=name)
            if self._tried(lambda options=options: self._continues_cropped(options) and self._continues_long(options)):
                return name, True
            if self._tried(lambda options=options: self._continues_whole(options) and self._continues_long(options)):
                return name, False
        return None, False

    @cached_property
    def cached_options(self) -> CallOptions:
        """`options`, with the name that the model has for a cache."""
        return replace(self.options, cache_argument=self._cache[0] or CallOptions().cache_argument)

    @cached_property
    def crops_caches(self) -> bool:
        """Whether the cache of a row can be cut and serve as the beginning of other rows."""
        name, cut = self._cache
        if not cut:
            self._refused["crops"] = SLOW_PATHS["no cache" if name is None else "whole"]
        return cut

    @cached_property
    def repeats_caches(self) -> bool:
        """Whether rows can begin with copies of a cache that is never cut."""
        name, cut = self._cache
        return name is not None and not cut

    @cached_property
    def mixes_prefixes(self) -> bool:
        """Whether rows of one forward can begin with caches of different lengths, padded at the left."""
        return self._works("mixes", lambda: self.options.positions and self.crops_caches and self._mixes())

    @cached_property
    def takes_embeddings(self) -> bool:
        """Whether input embeddings stand for ids."""
        rows = self._rows if self.batches else self._rows[:1]
        return self._works("embeddings", lambda: self._agrees(rows, embedded=True))

    @cached_property
    def continues_embedded(self) -> bool:
        """Whether embeddings can follow a cached beginning."""
        return self._works("embedded prefix", lambda: self.takes_embeddings and self._continues(embedded=True))

    @cached_property
    def gradients(self) -> bool:
        """Whether log-probabilities can be differentiated by every token's input embedding."""
        return self._works("gradients", self._differentiates)

    @cached_property
    def hides(self) -> bool:
        """Whether a mask hides a token from all others and moves none."""
        return self._works("hide", self._hides)

    @cached_property
    def hides_behind_prefix(self) -> bool:
        """Whether it does so after a cached beginning, and in it."""
        return self._works("hidden prefix", lambda: self.hides and self._hides_behind_prefix())

    @cached_property
    def scales_attention(self) -> bool:
        """Whether attention to single tokens can be made weaker, and scores be differentiated by how much."""
        return self._works("scaled attention", lambda: self.hides and self._scales())

    def verify_prefix(self, prefix: PrefixCache, ids: Tensor) -> bool:
        """Whether a few tokens after this cache, which cannot be cut, score as in a plain forward.

        Args:
            prefix: the cache.
            ids: what it holds, `Int[length]`.
        """
        own = self._rows[1][:_SHARED]
        row = [*ids.tolist(), *own]

        def attempt() -> bool:
            logits = self._forwards.run([own], self.cached_options, [prefix])[0]
            return agree(logits, plain_logits(self._model, row)[len(ids) :])

        agreed = self._tried(attempt)
        if not agreed:
            self._refused["crops"] = SLOW_PATHS["no cache"]
        return agreed

    def _works(self, name: str, attempt: Callable[[], bool]) -> bool:
        found = self._tried(attempt)
        if not found:
            self._refused[name] = SLOW_PATHS[name]
        return found

    def _tried(self, attempt: Callable[[], bool]) -> bool:
        """Whether an attempt succeeded, with the factors of short rows; see `tried`."""
        with self._model.lock, quiet_transformers(), warnings.catch_warnings():
            self._model.length_dependence.restore()
            warnings.simplefilter("ignore")  # of what is tried and may fail
            return tried(attempt)

    def _agrees(
        self, rows: Sequence[Sequence[int]], *, options: CallOptions | None = None, embedded: bool = False
    ) -> bool:
        logits = self._forwards.run(rows, options or self.options, embedded=embedded)
        return all(agree(own, expected) for own, expected in zip(logits, self._forwards.expected, strict=False))

    def _continues_cropped(self, options: CallOptions) -> bool:
        """Rows after one shared cache, and after caches of their own, all of them cut."""
        if self._caches_of_fast_batch is not None and options == self._fast_options:
            caches = self._caches_of_fast_batch
        elif self.batches:
            caches = self._forwards.caches(self._rows, options)
        else:
            caches = [self._forwards.caches([row], options)[0] for row in self._rows]
        self._row_cache = caches[0]
        cut = [cache.first(_SHARED) for cache in caches]
        own = [row[_SHARED:] for row in self._rows]
        if self.batches:
            logits = self._forwards.run([own[0], own[0][:-1]], options, [cut[0]] * 2) + self._forwards.run(
                own, options, cut
            )
            expected = [self._forwards.expected[0], self._forwards.expected[0][:-1], *self._forwards.expected]
        else:
            logits = [self._forwards.run([row], options, [cache])[0] for row, cache in zip(own, cut, strict=True)]
            expected = self._forwards.expected
        return all(agree(one, other[_SHARED:]) for one, other in zip(logits, expected, strict=True))

    def _continues_whole(self, options: CallOptions) -> bool:
        """Rows after copies of a whole cache, for beginnings of several lengths."""
        row, expected = self._rows[0], self._forwards.expected[0]
        for length in _PREFIXES:
            prefix = whole_cache(self._model, row[:length])
            if not prefix.length:
                return False
            rows = [row[length:], row[length:-1]] if self.batches else [row[length:]]
            logits = self._forwards.run(rows, options, [prefix] * len(rows))
            if not all(agree(own, expected[length : length + len(own)]) for own in logits):
                return False
        return True

    def _continues_long(self, options: CallOptions) -> bool:
        """A long row behind its own beginning, for models whose rows cannot share a forward.

        With some of them (activations in eight bits), the shape of a product changes scores at some tokens only.
        """
        if self.batches:
            return True
        row = self._forwards.long_row
        expected = plain_logits(self._model, row)
        for length in _LONG_PREFIXES:
            prefix = whole_cache(self._model, row[:length])
            logits = self._forwards.run([row[prefix.length :]], options, [prefix])[0]
            if not agree(logits, expected[prefix.length :]):
                return False
        return True

    def _prefix(self, length: int) -> PrefixCache:
        """The first tokens of the first row, as rows of this model begin with them; perhaps of no length."""
        if self.crops_caches:
            assert self._row_cache is not None
            return self._row_cache.first(length)
        return whole_cache(self._model, self._rows[0][:length]) if self.repeats_caches else PrefixCache(0)

    def _continues(self, *, embedded: bool) -> bool:
        prefix = self._prefix(_PREFIXES[1])
        rows = [self._rows[0][prefix.length :]]
        logits = self._forwards.run(rows, self.cached_options, [prefix], embedded=embedded)[0]
        return agree(logits, self._forwards.expected[0][prefix.length :])

    def _mixes(self) -> bool:
        caches = self._forwards.caches(self._rows, self.cached_options)
        parts = [
            self._forwards.part([row[length:]], self.cached_options, [cache.first(length)])
            for row, cache, length in zip(self._rows, caches, (_SHARED, _SHARED - 2), strict=True)
        ]
        outputs = self._forwards.without_gradients(*parts)
        return all(
            agree(output.logits[0], expected[part.begin :])
            for output, part, expected in zip(outputs, parts, self._forwards.expected, strict=True)
        )

    def _differentiates(self) -> bool:
        import torch

        prefix = self._prefix(_PREFIXES[1])
        part = self._forwards.part([self._rows[0][prefix.length :]], self.cached_options, [prefix], embedded=True)
        embeddings = part.inputs["inputs_embeds"].detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            logits = self._forwards.forward(replace(part, inputs={"inputs_embeds": embeddings}))[0].logits[0]
            total = logits[-1].float().log_softmax(-1)[self._rows[1][0]]
            (gradient,) = torch.autograd.grad(total, embeddings)
        found = bool(gradient.isfinite().all() and (gradient[0].abs().sum(dim=1) > 0).all())
        return found and agree(logits.detach(), self._forwards.expected[0][prefix.length :])

    @cached_property
    def _hidden_logits(self) -> list[Tensor]:
        """All under a mask: the first row with a token hidden, with none hidden, with another one in the place of the
        hidden token, and without that token."""
        row = self._rows[0]
        changed = [*row]
        changed[_HIDDEN] = self._rows[1][0] if self._rows[1][0] != row[_HIDDEN] else self._rows[1][1]
        rows = [row, row, changed, [*row[:_HIDDEN], *row[_HIDDEN + 1 :]]]
        hidden = [_HIDDEN, -1, _HIDDEN, -1]
        if self.batches:
            return self._forwards.run(rows, self.options, hidden=hidden)
        return [
            self._forwards.run([own], self.options, hidden=[token])[0] for own, token in zip(rows, hidden, strict=True)
        ]

    def _hides(self) -> bool:
        import torch

        with_mask, with_ones, changed, cut = self._hidden_logits
        if not agree(with_ones, self._forwards.expected[0]) or agree(with_mask, self._forwards.expected[0]):
            return False
        others = torch.tensor([i for i in range(len(self._rows[0])) if i != _HIDDEN])
        # Where it only looks as if the token had been cut out, the positions of later tokens have moved.
        return agree(changed[others], with_mask[others]) and not agree(with_mask[others], cut)

    def _hides_behind_prefix(self) -> bool:
        import torch

        row, expected = self._rows[0], self._hidden_logits[0]
        prefix = self._prefix(_PREFIXES[1])
        logits = self._forwards.run([row[prefix.length :]], self.cached_options, [prefix], hidden=[_HIDDEN])[0]
        others = torch.tensor([i for i in range(prefix.length, len(row)) if i != _HIDDEN])
        if not agree(logits[others - prefix.length], expected[others]):
            return False
        if not self.crops_caches:
            return True
        part = self._forwards.part([row], self.cached_options, hidden=[_HIDDEN], keep=[len(row)])
        (cache,) = self._forwards.without_gradients(part)[0].prefixes
        begin = _HIDDEN + 2
        logits = self._forwards.run([row[begin:]], self.cached_options, [cache.first(begin)], hidden=[_HIDDEN])[0]
        return agree(logits, expected[begin:])

    def _scales(self) -> bool:
        """Next to no attention to a token gives the logits with the token hidden."""
        import torch

        prefix = self._prefix(_PREFIXES[1])
        row = self._rows[0]
        part = self._forwards.part([row[prefix.length :]], self.cached_options, [prefix], embedded=True)
        others = torch.tensor([i for i in range(prefix.length, len(row)) if i != _HIDDEN])
        log_factors = torch.zeros(len(row), dtype=torch.float32)
        log_factors[_HIDDEN] = _TINY_LOG_FACTOR
        with torch.inference_mode(False), torch.enable_grad():
            log_factors = log_factors.clone().requires_grad_()
            logits = self._forwards.forward(replace(part, log_factors=log_factors))[0].logits[0]
            (gradient,) = torch.autograd.grad(logits[-1].float().log_softmax(-1)[row[0]], log_factors)
        expected = self._hidden_logits[0][others]
        return bool(gradient.isfinite().all()) and agree(logits.detach()[others - prefix.length], expected)
