"""Links of pages to files of the repository that are no pages lead to the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Turn relative links that leave docs/ into addresses."""
    docs = Path(config.docs_dir).resolve()
    here = (docs / page.file.src_uri).parent

    def address(match: re.Match[str]) -> str:
        target = (here / match["path"]).resolve()
        if target.is_relative_to(docs):
            return match.group()
        base = config.repo_url or "https://github.com/OWNER/jopa"
        return f"]({base}/blob/main/{target.relative_to(docs.parent)}{match['anchor'] or ''})"

    return _LINK.sub(address, markdown)
