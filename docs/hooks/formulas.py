"""Formulas between $$ as MathML, which browsers draw by themselves; needs no script at view time."""

import re

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^\$\$(.+?)\$\$$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn each block of LaTeX into MathML."""
    return _BLOCK.sub(lambda match: convert(match.group(1).strip(), display="block"), markdown)
