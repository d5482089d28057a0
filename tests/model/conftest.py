"""A saved model, for tests of how folders are loaded."""

from pathlib import Path

import pytest


@pytest.fixture
def saved(tmp_path, llama) -> Path:
    """A folder with a tiny model and its tokenizer, below the test's own."""
    folder = tmp_path / "model"
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return folder
