"""The seam between methods and models: what a model offers, and what its scorers can be asked.

A `Scorer` gives log-probabilities of the target under keep masks; a few lines fake it in tests. Further protocols add
gradients, attention, words, and the local model itself. A `Model` is what an explanation needs of a model, wherever it
runs: it makes scorers, and it generates. `LanguageModel` is the local one.

Sees units and masks; knows no model, and nothing of searching for a good mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from jopa.choices import LOG_PROBABILITY, Objective, Removal
from jopa.prompt.repeated_tokens import RepeatedToken
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from jopa.model.generation import Generation
    from jopa.prompt.building import Prompt
    from jopa.prompt.output import Output

Capability = Literal["scores", "distribution", "gradient", "attention", "token-attention", "model"]
"""What a method can need of a scorer: scores alone (a black box), output distributions, gradients, attention weights,
or the local model."""


@runtime_checkable
class Scorer(Protocol):
    """The seam between methods and models; a few lines fake it in tests."""

    @property
    def n_units(self) -> int:
        """Number of removable units."""
        ...

    @property
    def ffe(self) -> float:
        """Model work so far, in full-forward equivalents."""
        ...

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token under each keep mask, in nats, float32 or better."""
        ...


@runtime_checkable
class GradientScorer(Scorer, Protocol):
    """A scorer that differentiates: by the relaxed mask, and by the attention paid to units."""

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by each unit's factor m at `keep`, in nats."""
        ...

    def gradient_norms(self) -> Float[Tensor, "units"]:
        """L2 norm of the derivative of Σ log p(y) by each unit's input embeddings, at the full prompt."""
        ...

    def attention_gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by log a, where a multiplies the attention paid to each unit, in nats."""
        ...

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) at fractional masks m, in nats."""
        ...

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """The same, and its derivative by m."""
        ...


@runtime_checkable
class AttentionScorer(Scorer, Protocol):
    """A scorer that knows attention weights."""

    def attention(self) -> Float[Tensor, "layers units"]:
        """Mean attention that the tokens which predict the target pay to each unit, layer by layer."""
        ...


@runtime_checkable
class TokenAttentionScorer(Scorer, Protocol):
    """A scorer that knows attention weights of single tokens, of a part of the units, too."""

    def token_attention(self, keep: Bool[Tensor, "units"]) -> list[Float[Tensor, "tokens"]]:
        """Mean attention, over all layers too, to each token of every unit with the other units deleted."""
        ...


@runtime_checkable
class DistributionScorer(Scorer, Protocol):
    """A scorer that knows how probable every token of the vocabulary is in the target's places."""

    def log_distributions(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out vocab"]:
        """Log-probability of every token at each target position under each keep mask, in nats."""
        ...


@runtime_checkable
class WhiteBoxScorer(GradientScorer, AttentionScorer, Protocol):
    """A scorer that gives gradients and attention weights."""


@runtime_checkable
class TextScorer(Scorer, Protocol):
    """A scorer that knows what the prompt and the answer say."""

    def repeated_tokens(self) -> list[RepeatedToken]:
        """The words that units and target share."""
        ...


@runtime_checkable
class Approximation(Protocol):
    """Scores with units hidden only from what follows the context: cheap, and no real removal."""

    @property
    def ffe(self) -> float:
        """What one mask costs, in full-forward equivalents."""
        ...

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token under each keep mask, in nats; exact with nothing removed."""
        ...

    def gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"] | None:
        """Derivative of their sum by log a, where a multiplies the attention paid to each unit by what follows the
        context, in nats, at the cost of three masks; None where it cannot be computed."""
        ...


@runtime_checkable
class ContextScorer(Scorer, Protocol):
    """A scorer that may have a cheap approximation of its scores."""

    def approximation(self) -> Approximation | None:
        """The approximation; None where the model cannot do it."""
        ...


@runtime_checkable
class LocalModelScorer(Scorer, Protocol):
    """A scorer over a model in this process, for methods that look past the scores at ids and the model itself."""

    @property
    def model(self) -> Any:
        """The `LanguageModel`."""
        ...

    @property
    def prompt(self) -> Prompt:
        """The prompt whose units masks keep or remove."""
        ...

    @property
    def output(self) -> Output:
        """What is scored."""
        ...

    @property
    def removal(self) -> str:
        """How units are removed."""
        ...

    def count(self, tokens: int) -> None:
        """Add model work that a method did past the scorer, in tokens processed (a backward counts 2)."""
        ...

    def removed_inputs(self, keep: Bool[Tensor, "units"]) -> dict[str, Tensor]:
        """The prompt under one mask as keyword arguments of the model's forward."""
        ...

    def replaced_log_probs(self, ids: Int[Tensor, "rows prompt_tokens"]) -> Float[Tensor, "rows out"]:
        """Log-probability of each target token after other prompts of the same number of tokens, in nats."""
        ...


@runtime_checkable
class PromptScorer(Scorer, Protocol):
    """A scorer of one prompt and output that also answers the prompt without some units; what a `Model` makes."""

    @property
    def work(self) -> Work:
        """What has been done so far."""
        ...

    def generate(
        self,
        keep: Bool[Tensor, "units"],
        generation: Generation,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """The ids that the model answers to the prompt under one mask; see `Model.generate_ids`."""
        ...


@runtime_checkable
class Model(Protocol):
    """What an explanation needs of a model, in this process or behind a server.

    `jopa.preparation.prepare` is the only place that puts prompt, output and scorer together; it asks for no more.
    """

    @property
    def tokenizer(self) -> Any:
        """What `build_prompt` takes: a fast tokenizer of transformers."""
        ...

    @property
    def identity(self) -> dict[str, str | None]:
        """Its id, revision, dtype and device, as results record them."""
        ...

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and output together, or None where that is not known."""
        ...

    @property
    def capabilities(self) -> Set[Capability]:
        """What its scorers can be asked; known before there is one, so that a method can be refused early."""
        ...

    def require_ids(self, ids: Iterable[int]) -> None:
        """Refuse token ids that the model is known not to have.

        Raises:
            PromptError: there is one.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        ...

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows other text."""
        ...

    def generate_ids(
        self,
        ids: Sequence[int],
        generation: Generation,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue token ids.

        Args:
            ids: the prompt's, template included.
            generation: how.
            on_token: called with the number of tokens so far.
            on_ids: called with the new token ids so far, without the stop token.

        Returns:
            The new token ids, without the stop token.
        """
        ...

    def scorer(self, prompt: Prompt, output: Output, removal: Removal) -> PromptScorer:
        """A scorer of keep masks of one prompt and output under one removal.

        Raises:
            SettingError: the model cannot do this removal.
        """
        ...


@runtime_checkable
class RemovalModel(Protocol):
    """A model that knows, before there is a scorer, which removals it cannot do."""

    def require_removal(self, removal: Removal, n_tokens: int) -> None:
        """Refuse a removal that the model cannot do with `n_tokens` tokens.

        Raises:
            SettingError: the model cannot do this removal.
        """
        ...


@runtime_checkable
class PackedModel(Protocol):
    """A model in this process that may multiply by packed copies of its weights."""

    @property
    def packed(self) -> PackedProducts:
        """How its linear layers are computed."""
        ...


@runtime_checkable
class PackedProducts(Protocol):
    """How linear layers are computed."""

    @property
    def description(self) -> str:
        """The products in use, in a few words; empty where nothing is packed."""
        ...


@runtime_checkable
class FastPathScorer(Protocol):
    """A scorer that has fast paths, each of which it takes only where it agrees with the slow one."""

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """One line for each fast path that cannot be taken with this model."""
        ...


@runtime_checkable
class DetailedScorer(Protocol):
    """A scorer with more to record than its work, such as the requests that it sent."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What results record in `details`, by name."""
        ...


@runtime_checkable
class AnsweringModel(Protocol):
    """A model whose scorers ask for answers anew, and so must know how the output was generated."""

    def answer_scorer(self, prompt: Prompt, output: Output, removal: Removal, generation: Generation) -> PromptScorer:
        """A scorer of keep masks, as `Model.scorer`."""
        ...


@runtime_checkable
class LimitedScorer(Protocol):
    """A scorer whose work ends at a limit, such as the tokens that may be sent to a server."""

    @property
    def ffe_left(self) -> float:
        """How much more model work is allowed, in full-forward equivalents."""
        ...

    def reserve(self, masks: int) -> None:
        """Reserve enough of the limit for `masks` masks and one answer after the search; 0 releases it."""
        ...


@runtime_checkable
class NoisyScorer(Protocol):
    """A scorer that may give equal masks different scores."""

    @property
    def noise(self) -> float:
        """By how much the scores of equal masks differ."""
        ...


@runtime_checkable
class WithObjective(Protocol):
    """A model or scorer that says what its scores are."""

    @property
    def objective(self) -> Objective:
        """What they are; scores of another kind than log-probabilities come in one column, lower where more changed."""
        ...


def slow_paths_of(scorer: Scorer) -> tuple[str, ...]:
    """One line for each fast path that a scorer could not take; none of a scorer that has no fast paths."""
    return scorer.slow_paths if isinstance(scorer, FastPathScorer) else ()


def objective_of(source: Model | Scorer) -> Objective:
    """What the scores of a model, or of a scorer, are; log-probabilities unless it says otherwise."""
    return source.objective if isinstance(source, WithObjective) else LOG_PROBABILITY


def capabilities(scorer: Scorer) -> frozenset[Capability]:
    """What a scorer can be asked."""
    kinds: dict[Capability, type] = {
        "distribution": DistributionScorer,
        "gradient": GradientScorer,
        "attention": AttentionScorer,
        "token-attention": TokenAttentionScorer,
        "model": LocalModelScorer,
    }
    return frozenset(["scores", *(name for name, kind in kinds.items() if isinstance(scorer, kind))])
