"""The repository's own files for contributors: what they name exists."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_of_the_makefile(path):
    workflow = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        versions = job.get("strategy", {}).get("matrix", {}).get("versions", [""])
        for step in job["steps"]:
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                full = {target + value for value in versions} if target.endswith("-") else {target}
                assert full <= targets, f"{name} calls {full}"


def test_one_python_of_each_declared_version_is_tried():
    matrix = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert len(matrix["python"]) >= 3
    assert {entry["os"] for entry in matrix["include"]} | set(matrix["os"]) == {
        "ubuntu-latest", "macos-latest", "windows-latest",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md", "docs/reliability.md"])
def test_paths_that_these_pages_name_exist(name):
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./-]+)`", text)
    paths += [str(Path(name).parent / link) for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_issue_forms_are_whole():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
            ids = [item["id"] for item in form["body"]]
            assert len(ids) == len(set(ids))
