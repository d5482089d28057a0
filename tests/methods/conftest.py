"""Fewer trees for ProxySPEX, whose own choice among eight forests takes seconds for each fit."""

import importlib
import importlib.util

import pytest


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    if importlib.util.find_spec("shapiq") is None or importlib.util.find_spec("lightgbm") is None:
        return
    from sklearn.model_selection import GridSearchCV

    base = importlib.import_module("shapiq.approximator.sparse.base")

    grid = {"max_depth": [3], "max_iter": [30], "learning_rate": [0.1]}
    monkeypatch.setattr(
        base, "GridSearchCV", lambda param_grid, cv, **given: GridSearchCV(param_grid=grid, cv=2, **given)
    )
