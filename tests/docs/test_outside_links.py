"""Links of the site that leave docs/: to the repository where it has an address, and no dead ones where it has none."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="jopa[docs] brings it")
ROOT = Path(__file__).parents[2]
TEXT = (
    "In [experiments/](../experiments) and [the\nmap](../README.md#use), [here](maths.md) and [there](https://e.org/a)."
)


def pages(text: str, repo_url: str) -> str:
    path = ROOT / "docs" / "hooks" / "outside_links.py"
    spec = importlib.util.spec_from_file_location("outside_links", path)
    assert spec and spec.loader
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="benchmark.md"))
    return hook.on_page_markdown(text, page, SimpleNamespace(docs_dir=str(ROOT / "docs"), repo_url=repo_url))


def test_with_an_address_they_lead_to_the_repository():
    assert pages(TEXT, "https://e.org/jopa/") == (
        "In [experiments/](https://e.org/jopa/blob/main/experiments) and "
        "[the\nmap](https://e.org/jopa/blob/main/README.md#use), [here](maths.md) and [there](https://e.org/a)."
    )


def test_without_an_address_they_are_text_that_names_the_file():
    assert pages(TEXT, "") == (
        "In experiments/ and the\nmap (`README.md`), [here](maths.md) and [there](https://e.org/a)."
    )
