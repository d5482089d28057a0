"""Which units of a prompt ask for something: those that the caller names, or a guess from their words; English only.

A unit that asks, pleads, forbids or begins with a verb of command is taken for a request. Where none is, every unit
with something to see in it counts, so that nothing is lost in other languages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from jopa.choices import whole_number
from jopa.errors import SettingError

_ASKS = re.compile(
    r"[?？؟]\W*$"
    r"|\b(?:please|can you|could you|would you|will you|you (?:must|should)|make sure)\b"
    r"|\bi (?:want|need|would like)\b|\bi'd like\b"
    r"|^\W*(?:\d+\W+)?(?:also |then |and |finally,? |next,? |first,? |second,? |now )*"
    r"(?:do not|don't|never|avoid|write|give|create|make|tell|explain|describe|list|show|find|add|use|translate|"
    r"summari[sz]e|answer|compare|calculate|compute|classify|rewrite|generate|suggest|help|provide|design|draft|compose|"
    r"convert|correct|edit|fix|identify|name|outline|propose|rank|return|say|sort|keep|include|choose|pick|plan|"
    r"recommend|analy[sz]e|extract|format|implement|mention|discuss|define|prove|solve|think|imagine|act|be|begin|end|"
    r"start|let|limit|stop|read|cook|draw|quote|cite|complete|continue|reply|respond|report|send|tabulate)\b",
    re.IGNORECASE,
)


def guessed_requests(units: Sequence[str]) -> tuple[int, ...]:
    """The indices of the units that are probably requests; never none where a unit holds something to see."""
    seen = [i for i, text in enumerate(units) if text.strip()]
    return tuple(i for i in seen if _ASKS.search(" ".join(units[i].split()))) or tuple(seen)


def marked_requests(units: Sequence[str], requests: Sequence[int] | None) -> tuple[int, ...]:
    """The units that are requests: those that the caller names, or a guess.

    Raises:
        SettingError: the caller names none, one that is not there, or one that is blank.
    """
    if requests is None:
        return guessed_requests(units)
    requests = [whole_number("a request", i) for i in requests]
    if not requests:
        raise SettingError(f"requests must name some of the prompt's {len(units)} units, got none")
    for i in requests:
        if not 0 <= i < len(units):
            raise SettingError(
                f"requests must name some of the prompt's {len(units)} units, got {i} (counted from 0; {i + 1} from 1)"
            )
        if not units[i].strip():
            raise SettingError(f"unit {i} (counted from 0; {i + 1} from 1) is blank, so it is no request; leave it out")
    return tuple(sorted(set(requests)))
