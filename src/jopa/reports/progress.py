"""A progress bar for scripts and notebooks, as a callback of `explain`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@contextmanager
def progress_bar(*, leave: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show how far the work is: a widget in a notebook that has `ipywidgets`, else a line of text on stderr.

        with progress_bar() as progress:
            jopa.explain(prompt, callbacks=jopa.Callbacks(progress=progress))

    Args:
        leave: let the finished bars stand.

    Yields:
        What `Callbacks.progress` takes: it is called with a stage, the steps done and, if known, the steps in all.
    """
    bars: dict[str, Any] = {}
    make = _bar_class()

    def show(stage: str, done: int, total: int | None) -> None:
        if stage not in bars:
            for other in bars.values():
                other.close()
            bars[stage] = make(desc=stage, total=total, leave=leave, unit="", dynamic_ncols=True)
        bar = bars[stage]
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def _bar_class() -> Any:
    """tqdm's bar for a notebook with widgets, else its bar of text, which needs none."""
    from importlib.util import find_spec

    if "ipykernel" in sys.modules and find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm
