"""Links of pages to files of the repository that are no pages lead to the repository, where it has an address.

The address is `repo_url` of mkdocs.yml. Without it such a link becomes the file's name, because a link would be dead.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>(?:\.\./)+[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Turn relative links that leave docs/ into addresses, or into text."""
    docs = Path(config.docs_dir).resolve()
    here = (docs / page.file.src_uri).parent

    def address(match: re.Match[str]) -> str:
        target = (here / match["path"]).resolve()
        if target.is_relative_to(docs):
            return match.group()
        name = target.relative_to(docs.parent)
        if not config.repo_url:
            return match["text"] if name.name in match["text"] else f"{match['text']} (`{name}`)"
        return f"[{match['text']}]({config.repo_url.rstrip('/')}/blob/main/{name}{match['anchor'] or ''})"

    return _LINK.sub(address, markdown)
