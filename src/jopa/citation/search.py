"""For each sentence of an answer, a smallest set of source units whose removal makes it unlikely.

    PR_j(S)     exp((log p(y_j|x without S) − log p(y_j|x)) / tokens of sentence j), its probability ratio
    cited       a set S with PR_j(S) below a value, of which no unit can be left out

One evaluation gives the log-probability of every token of the answer, so that each mask says something about all
sentences; what one sentence needs is free for the others.

    screening   each unit removed alone, and each unit kept alone of all units. A unit that says what another says, too,
                has no effect when it is removed; kept alone, it makes the sentence likely. Among many units, the proxy
                of `jopa.scoring.context_forward` stands for the removals where the model has it; else whole documents
                are removed and kept first, then the units of those that matter to a sentence
    growing     from the empty set, one unit more at a time: the most promising units of both lists beside the best set
                so far, and the first units of each list. Every set is scored exactly
    pruning     units are left out again as long as PR stays below the value. Where growing found no set, one that was
                scored for another reason may do it, such as all units but one, and is pruned

Sees units and scores, never a tokenizer or a model. Keeping a set alone as a measure of it: Cohen-Wang et al. 2024
(https://arxiv.org/abs/2409.00729), Chuang et al. 2025 (https://arxiv.org/abs/2502.09604).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jopa.citation.result import Citation, Proof
from jopa.ordering import NAT, LowestSet, first_lowest, ranked
from jopa.problem import Problem
from jopa.prompt.answer_parts import Part

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Units = frozenset[int]

EXACT_UNITS = 64
"""Up to this many units, each is removed and kept alone; of more, only some."""
_WIDTH = 2
"""Units of each list that are tried beside the best set."""
_MATTERS = 0.25
"""A document matters to a sentence if its effect is this share of the largest document's, or of all documents'."""


def find_sources(
    problem: Problem,
    parts: Sequence[Part],
    groups: Sequence[Sequence[int]],
    *,
    below: float,
    max_sources: int,
    on_sentence: Callable[[int], None] | None = None,
) -> list[Citation]:
    """The sources of each sentence of the answer.

    Args:
        problem: gives the log-probability of each target token.
        parts: the sentences; in order, they make the target.
        groups: the units of each document.
        below: what PR must fall below.
        max_sources: the most units of a set.
        on_sentence: called with the number of sentences that are done.
    """
    search = _Search(problem, parts, groups, below, max_sources)
    found = []
    for part in range(len(parts)):
        found.append(search.sources_of(part))
        if on_sentence:
            on_sentence(part + 1)
    # A set that was scored for a later sentence may bring an earlier one below.
    while late := [part for part, citation in enumerate(found) if citation.proof == "none" and search.reaching(part)]:
        for part in late:
            found[part] = search.cited_from(part, search.reaching(part)[0])
    return found


class _Search:
    """The scores of all sentences under every mask so far, and the search for the sources of one."""

    def __init__(
        self, problem: Problem, parts: Sequence[Part], groups: Sequence[Sequence[int]], below: float, max_sources: int
    ) -> None:
        self._problem, self._parts = problem, parts
        self._lengths = [part.end - part.start for part in parts]
        self._below, self._max_sources = below, min(max_sources, problem.n_units)
        self._all: Units = frozenset(range(problem.n_units))
        self._groups = [list(group) for group in groups]
        self._whole, self._none = self._log_probs([frozenset(), self._all])
        self._candidates, self._dropped, self._kept = self._screened()

    def _log_probs(self, sets: Sequence[Units]) -> list[list[float]]:
        """log p of each sentence with each set removed, in nats."""
        return self._by_sentence(self._problem.token_log_probs(sets))

    def _by_sentence(self, rows: Float[Tensor, "masks out"]) -> list[list[float]]:
        return [[float(part.sum()) for part in row.split(self._lengths)] for row in rows.double()]

    def _screened(self) -> tuple[list[list[int]], dict[int, list[float]], dict[int, list[float]]]:
        """Units that may matter to each sentence; and for each the sentences' log p without it, and with it alone."""
        units = list(range(self._problem.n_units))
        candidates, dropped = [units] * len(self._lengths), None
        if len(units) > EXACT_UNITS and self._problem.shape.removal == "delete":  # what is kept alone is short
            dropped = self._proxy(units)
        if len(units) > EXACT_UNITS and dropped is None:
            candidates = self._of_documents()
            units = sorted({unit for of_part in candidates for unit in of_part})
        dropped = dropped or self._log_probs([frozenset({unit}) for unit in units])
        kept = self._log_probs([self._all - {unit} for unit in units])
        return candidates, dict(zip(units, dropped, strict=True)), dict(zip(units, kept, strict=True))

    def _proxy(self, units: Sequence[int]) -> list[list[float]] | None:
        """About the log p of each sentence without each unit; None where the model has no proxy."""
        import torch

        approximation = self._problem.approximation()
        if approximation is None:
            return None
        keep = torch.stack([self._problem.keep_mask([unit]) for unit in units])
        return self._by_sentence(approximation.log_probs(keep))

    def _of_documents(self) -> list[list[int]]:
        """For each sentence the units of the documents that matter to it: removed, or kept alone."""
        groups = [frozenset(group) for group in self._groups]
        without, alone = self._log_probs(groups), self._log_probs([self._all - group for group in groups])
        candidates = []
        for part in range(len(self._lengths)):
            whole, none = self._whole[part], self._none[part]
            effects = [
                max(whole - dropped[part], kept[part] - none) for dropped, kept in zip(without, alone, strict=True)
            ]
            least = _MATTERS * min(max(effects), max(whole - none, 0.0) or math.inf)
            mattering = [i for i, effect in enumerate(effects) if effect >= max(least, 0.0)] or ranked(effects, 1)
            candidates.append(sorted(unit for i in mattering for unit in self._groups[i]))
        return candidates

    def sources_of(self, part: int) -> Citation:
        """The sources of one sentence."""
        units, whole, none = self._candidates[part], self._whole[part], self._none[part]
        falls_without = [whole - self._dropped[unit][part] for unit in units]
        by_drop = [units[i] for i in ranked(falls_without, least_scale=NAT)]
        by_kept = [units[i] for i in ranked([self._kept[unit][part] - none for unit in units], least_scale=NAT)]
        if not self._reaches(none, part):  # success is unlikely: report the best set scored so far, without a search
            by_drop, by_kept = by_drop[: sum(fall > 0 for fall in falls_without)], []
        chain, lowest = frozenset[int](), LowestSet()
        for size in range(1, self._max_sources + 1):
            sets = self._grown(chain, by_drop, by_kept, size)
            if not sets:
                break
            scores = [row[part] for row in self._log_probs(sets)]
            for tried, score in zip(sets, scores, strict=True):
                lowest.add(tried, score)
            best = first_lowest(scores)
            chain = sets[best]
            if self._reaches(scores[best], part):
                return self.cited_from(part, chain)
        if reaching := self.reaching(part):  # as keeping a unit alone removes all others
            return self.cited_from(part, reaching[0])
        spread = lowest.units if by_kept and lowest.units is not None else frozenset[int]()
        return self._measured(part, spread, "none")

    def reaching(self, part: int) -> list[Units]:
        """The sets within the limit, scored for whatever reason, that bring a sentence below; the smallest first."""
        sets = [units for units in self._problem.scored if 0 < len(units) <= self._max_sources]
        reaching = [
            units for units, row in zip(sets, self._log_probs(sets), strict=True) if self._reaches(row[part], part)
        ]
        return sorted(reaching, key=lambda units: (len(units), sorted(units)))

    def _grown(self, chain: Units, by_drop: Sequence[int], by_kept: Sequence[int], size: int) -> list[Units]:
        """Sets of one unit more than the best set so far, and the first units of each list."""
        sets = {frozenset(by_drop[:size]), frozenset(by_kept[:size])}
        for units in (by_drop, by_kept) if by_kept else ():
            new = [unit for unit in units if unit not in chain][:_WIDTH]
            sets |= {chain | {unit} for unit in new}
        return sorted((units for units in sets if len(units) == size), key=sorted)

    def _reaches(self, log_prob: float, part: int) -> bool:
        """Whether a sentence's PR is below the value."""
        return (log_prob - self._whole[part]) / self._lengths[part] < math.log(self._below)

    def _pruned(self, part: int, units: Units) -> Units:
        """The set without units that need not be in it: repeatedly the one whose absence leaves PR lowest."""
        while len(units) > 1:
            smaller = sorted((units - {unit} for unit in units), key=sorted)
            scores = [row[part] for row in self._log_probs(smaller)]
            best = first_lowest(scores)
            if not self._reaches(scores[best], part):
                break
            units = smaller[best]
        return units

    def cited_from(self, part: int, units: Units) -> Citation:
        """A sentence that a set brings below the value, cited from what of the set cannot be left out."""
        units = self._pruned(part, units)
        n_units = self._problem.n_units
        singles_scored = n_units <= EXACT_UNITS  # and none of them is enough, or it would have been taken
        smallest = len(units) == 1 or (len(units) == 2 and singles_scored)
        return self._measured(part, units, "smallest" if smallest else "minimal")

    def _measured(self, part: int, units: Units, proof: Proof) -> Citation:
        """All that is reported of a set, scored exactly."""
        whole = self._whole[part]
        dropped, kept = (row[part] for row in self._log_probs([units, self._all - units]))
        each = sorted(units)
        alone_dropped = [row[part] for row in self._log_probs([frozenset({unit}) for unit in each])] if each else []
        alone_kept = [row[part] for row in self._log_probs([self._all - {unit} for unit in each])] if each else []
        order = ranked([whole - score for score in alone_dropped], least_scale=NAT)
        return Citation(
            part=self._parts[part],
            sources=tuple(each[i] for i in order),
            proof=proof,
            log_prob=whole,
            log_prob_dropped=dropped,
            log_prob_kept=kept,
            log_prob_none=self._none[part],
            alone_dropped=tuple(alone_dropped[i] for i in order),
            alone_kept=tuple(alone_kept[i] for i in order),
        )
