"""Numbers of NumPy and torch count as Python's own, and values of other kinds are refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_values_as_callers_hand_them_over():
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), *sys.path])
    program = [sys.executable, str(folder / "values_of_callers.py")]
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert all(outcome["alike"].values()), outcome["alike"]
    assert len(outcome["alike"]) == 13
    for expected, said in outcome["said"].items():
        assert said.startswith(expected)
    assert len(outcome["said"]) == 28
