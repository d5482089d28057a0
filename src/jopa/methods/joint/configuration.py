"""The constants of the default search, each with its unit, in one frozen value.

They were chosen by the sweep that `docs/research/search-notebook.md` describes; nothing else in this folder holds a
number that could be tuned, and those that `proxy-search` shares stand in `jopa.methods.acquisition`. Users set
`JointSearch`; these are for people who study the search itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from jopa.methods.acquisition import ATTENTION_INSIDE, ATTENTION_OUTSIDE, NEGLIGIBLE_SHARE


@dataclass(frozen=True)
class SearchConfiguration:
    """What the parts of the search are set to. A share is between 0 and 1.

    Attributes:
        start_share: the largest share of the affordable masks that the initial sets take. They take 1/k of them if that
            is less, because a set of k units says something about each; and half of it on a long prompt where
            gradients will say more.
        repeated_share: the largest share of the affordable masks that repeated words take in the initial sets.
        min_repeated_nats: nats that the answer must lose of a word without the prompt, for the word to be removed by
            itself at the start.
        chunk_sets: sets scored in one call, so that the cost of a mask is known early.
        shortlist_units: units that proposed sets are made of, at least 2k; as many again may belong to repeated words.
        pool_sets: up to this many sets of the shortlist, all of them are considered.
        beam_sets: where there are more, the sets whose one-swap neighbours are considered. A set far from every scored
            set has a large expected improvement, by its uncertainty, and seldom fulfils it.
        contender_sets: sets from which a batch is chosen.
        negligible_share: an expected improvement below this share of the best set's effect is not worth a mask.
        paired_units: units outside the best set that are tried in pairs before a size is closed.
        last_share: the last share of the budget, half of which goes into adjacent neighbours of the best set. Units
            side by side often have the same effect, and the surrogate does not know which are side by side. If it
            knew from the beginning, it would spend too much on neighbours of sets that it gives up later.
        evidence_sets: single units and initial sets that the surrogate learns from; and as many other sets.
        gradient_ffe: full-forward equivalents of a forward and a backward.
        rounds_between_gradients: rounds from one gradient at the best set to the next.
        attention_outside: the factor on the attention paid to units outside the set, where a gradient is taken.
        attention_inside: the same inside the set.
        removal_step: predicted change of log p(y) when a unit is removed, in derivatives by the log of its factor.
        return_step: predicted change of log p(y) when a unit is put back, in derivatives by its factor.
        pseudo_observations: the latest predicted sets that the surrogate learns from.
        sets_per_gradient: the most sets with one unit more that one gradient predicts.
        weight_floor: weight of a unit of no strength, relative to the strongest unit's weight before the floor.
        drift_variance: δ of the kernel, the variance of the effect that all units share.
        rates: the values of λ to choose from.
        jitter: variance added to each observation, as a share of the mean variance.
        step_error: variance of a predicted step's error, as a share of the step's own variance.
        min_mask_ffe: the least that a mask counts, in full-forward equivalents: masks that cost nothing are not scored
            without end.
        min_mask_seconds: the least time that a mask counts, in seconds.
    """

    start_share: float = 0.4
    repeated_share: float = 0.2
    min_repeated_nats: float = 0.5
    chunk_sets: int = 16
    shortlist_units: int = 48
    pool_sets: int = 6000
    beam_sets: int = 12
    contender_sets: int = 128
    negligible_share: float = NEGLIGIBLE_SHARE
    paired_units: int = 6
    last_share: float = 0.4
    evidence_sets: int = 300
    gradient_ffe: float = 3.0
    rounds_between_gradients: int = 4
    attention_outside: float = ATTENTION_OUTSIDE
    attention_inside: float = ATTENTION_INSIDE
    removal_step: float = 3.0
    return_step: float = 0.35
    pseudo_observations: int = 1000
    sets_per_gradient: int = 150
    weight_floor: float = 0.05
    drift_variance: float = 0.3
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    jitter: float = 1e-6
    step_error: float = 0.5
    min_mask_ffe: float = 0.01
    min_mask_seconds: float = 1e-9


STANDARD = SearchConfiguration()
"""What `JointSearch` uses."""
