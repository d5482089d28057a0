"""What a tutorial imports beyond a plain installation, its own first lines and the start page name."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXTRAS = {"jopa.reports.plots": {"plots", "bench"}, "jopa.benchmark": {"bench"}, "endpoint": {"remote"}}
"""Parts of a tutorial's code, and the extras of which one brings what they need."""


@pytest.mark.parametrize("path", sorted((DOCS / "tutorials").glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_says_what_it_needs(path):
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    rows = [line for line in (DOCS / "index.md").read_text().splitlines() if f"tutorials/{path.stem}.md" in line]
    for part, extras in EXTRAS.items():
        if part in code:
            for place in [text.split("# %%\n")[0], *rows]:
                assert set(re.findall(r"jopa\[(\w+)\]", place)) & extras, (part, place)
