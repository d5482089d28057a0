"""The environment of the tests, and the fixtures that all of them have."""

import os
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that tests start round alike, whatever else is at work
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers write a warning in processes that are forked
os.environ.setdefault("JOPA_LINEAR", "plain")  # no test depends on which product this machine computes fastest

os.fsync = lambda _: None  # what a test writes need not survive a loss of power, and a disk takes its time each time

ONLY_DISTRIBUTES = "PYTEST_XDIST_WORKER" not in os.environ and "--numprocesses" in sys.argv
"""Whether this process gives all tests to others, which start once it has imported its part: not torch, then."""

if not ONLY_DISTRIBUTES:
    from checked_fixtures import _own_answers, llama, tiny  # noqa: F401


def pytest_configure(config):
    if ONLY_DISTRIBUTES and config.getoption("dist", "no") == "no":
        raise pytest.UsageError("--numprocesses starts no process here; leave it out")
