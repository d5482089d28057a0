"""A search from coarse to fine: documents first, then the sentences in the chosen ones and a few runners-up, and so on.

    level 1   the method chooses k of the coarse units
    opened    these and the runners-up: the units with the largest coefficients of an additive fit to all scores of the
              level (or of the method's own scores, where it ranks)
    level 2   the method chooses k of the finer units inside the opened ones; everything else stays; and so on

All levels have the same token ids, so a unit is a set of positions, and a score that one level knows is known to the
next where the same positions are removed. A budget of model work is shared: each level may spend an equal part of what
is left.

What a level's certificate proves, it proves of the units that it could remove. Nothing is proved of what was not
opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from jopa.choices import Removal
from jopa.evaluation.metrics import probability_ratio
from jopa.explanation.attributing import attribute
from jopa.explanation.level import Level
from jopa.explanation.searching import SearchOptions, SearchOutcome, search_units
from jopa.method import Method
from jopa.ordering import NAT, ranked
from jopa.preparation import Callbacks, Preparation, prepare_output
from jopa.problem import SharedScores
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output
from jopa.results.attribution import Attribution
from jopa.scoring.protocols import PromptScorer

if TYPE_CHECKING:
    from torch import Tensor

    from jopa.scoring.profile import Profile

RUNNERS_UP = 2
"""Units that are opened beside the chosen ones."""
_RIDGE = 0.1
"""Weight of the squared coefficients in the additive fit, against squared errors in nats."""


def attribute_levels(
    preparation: Preparation,
    finer: Sequence[Prompt],
    *,
    k: int,
    method: Method,
    removal: Removal,
    search: SearchOptions,
    callbacks: Callbacks,
) -> Attribution:
    """Search level by level.

    Args:
        preparation: the prompt in the coarsest units, and the output.
        finer: the same prompt in the units of each further level, the coarse ones first.
        k: how many units each level chooses; all of a level that has fewer.
        method: how; where it has a budget of model work, that is the budget of all levels.
        removal: how units are removed.
        search: what else to look for and to measure.
        callbacks: as for `explain`; `on_best` is called for the last level, `on_level` for each after the first.

    Returns:
        The attribution of the last level, whose units are those inside the opened ones; `levels` has all of them.

    Raises:
        JopaError: one of its children.
    """
    preparations = [preparation, *(_in_finer_units(preparation, prompt) for prompt in finer)]
    scores: dict[frozenset[int], Tensor] = {}
    levels: list[Level] = []
    found: list[SearchOutcome] = []

    def level_of(number: int) -> tuple[Preparation, tuple[int, ...], Method, SharedScores]:
        """What a level can remove, in which unit of the level before each of it lies, the method, and known scores."""
        prompt, inside = preparations[number].prompt, tuple[int, ...]()
        if number:
            prompt, inside = _restricted(prompt, levels[-1])
        spent = math.fsum(level.ffe for level in levels)
        share = method.with_share_of_rest(spent, len(preparations) - number) or method
        shared = SharedScores([unit.positions for unit in prompt.units], scores)
        return replace(preparations[number], prompt=prompt), inside, share, shared

    quiet = replace(callbacks, on_best=None)
    for number, whole in enumerate(preparations[:-1]):
        current, inside, share, shared = level_of(number)
        if callbacks.on_level and number:
            callbacks.on_level(current.prompt)
        n, stage = min(k, len(current.prompt.units)), f"searching {current.prompt.unit_kind}s"
        one = search_units(current, n, share, removal, search, quiet, shared, stage)
        found.append(one)
        start, end = preparation.output.target
        levels.append(
            Level(
                unit=current.prompt.unit_kind,
                units=current.prompt.units,
                n_units=len(whole.prompt.units),
                inside=inside,
                removed=one.removed,
                opened=(*one.removed, *_runners_up(one)),
                log_prob_removed=one.score - one.joint,
                probability_ratio=probability_ratio(one.score, one.score - one.joint, end - start),
                individual=one.individual,
                certificate=one.certificate,
                evaluations=one.evaluations,
                shared=shared.n_used,
                ffe=one.ffe,
                stop=one.selection.stop,
            )
        )
    current, inside, share, shared = level_of(len(preparations) - 1)
    if callbacks.on_level:
        callbacks.on_level(current.prompt)
    last = attribute(
        current,
        k=min(k, len(current.prompt.units)),
        method=share,
        removal=removal,
        search=search,
        callbacks=_with_levels(callbacks, found),
        shared=shared,
    )
    alike = ("units", "removed", "log_prob_removed", "probability_ratio", "individual", "certificate", "stop")
    measured = {name: getattr(last, name) for name in (*alike, "evaluations", "ffe")}
    final = Level(
        unit=current.prompt.unit_kind,
        n_units=len(preparations[-1].prompt.units),
        inside=inside,
        opened=(),
        shared=shared.n_used,
        **measured,
    )
    return replace(
        last,
        method=method.settings,
        evaluations=last.evaluations + sum(level.evaluations for level in levels),
        ffe=last.ffe + sum(level.ffe for level in levels),
        seconds=last.seconds + sum(one.seconds for one in found),
        levels=(*levels, final),
        # What goes with a whole message or document, the first level alone knows.
        details={**(last.details or {}), **preparation.prompt.recorded},
    )


def _in_finer_units(coarse: Preparation, prompt: Prompt) -> Preparation:
    """The same input and output with other units."""
    n_trace = len(coarse.prompt.ids) - len(prompt.ids)
    output = coarse.output
    if prompt.trace:  # the trace is taken from the output once more, in these units
        ids = coarse.prompt.ids[len(prompt.ids) :] + output.ids
        target = (output.target[0] + n_trace, output.target[1] + n_trace)
        output = Output(ids, coarse.model.decode(ids), target)
    finer = prepare_output(coarse.model, prompt, output=output)
    assert finer.prompt.ids == coarse.prompt.ids
    return replace(finer, generation=coarse.generation, kept=coarse.kept)


def _restricted(prompt: Prompt, before: Level) -> tuple[Prompt, tuple[int, ...]]:
    """The prompt with the units inside those that a level opened, and for each which of these it lies in."""
    home = {position: i for i in before.opened for position in before.units[i].positions}
    units = tuple(unit for unit in prompt.units if unit.positions[0] in home)
    return replace(prompt, units=units), tuple(home[unit.positions[0]] for unit in units)


def _runners_up(found: SearchOutcome) -> list[int]:
    """The strongest units that were not chosen."""
    problem, removed = found.problem, set(found.selection.removed)
    others = [unit for unit in range(problem.n_units) if unit not in removed]
    strengths = found.selection.scores or _additive_fit(problem.scored, problem.n_units)
    return [others[i] for i in ranked([strengths[unit] for unit in others], RUNNERS_UP, least_scale=NAT)]


def _additive_fit(scored: Mapping[frozenset[int], float], n_units: int) -> list[float]:
    """The effect of each unit, in nats, as a ridge regression finds it from the effects of all sets."""
    import numpy as np

    whole = scored[frozenset()]
    sets = [units for units in scored if units]
    rows = np.zeros((len(sets), n_units))
    for row, units in enumerate(sets):
        rows[row, list(units)] = 1.0
    effects = np.array([whole - scored[units] for units in sets])
    return np.linalg.solve(rows.T @ rows + _RIDGE * np.eye(n_units), rows.T @ effects).tolist()


def _with_levels(callbacks: Callbacks, found: Sequence[SearchOutcome]) -> Callbacks:
    """Callbacks whose profile counts the levels before the last, too."""
    on_profile = callbacks.on_profile
    if on_profile is None:
        return callbacks

    def report(profile: Profile) -> None:
        work = sum((cast(PromptScorer, one.problem.scorer).work for one in found), profile.work)
        ffe = profile.ffe + sum(one.problem.ffe for one in found)
        repeats = profile.repeats + sum(one.repeats for one in found)
        seconds = profile.seconds + sum(one.seconds for one in found)
        on_profile(replace(profile, work=work, ffe=ffe, repeats=repeats, seconds=seconds))

    return replace(callbacks, on_profile=report)
