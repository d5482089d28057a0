"""Models that lie on the hub, and a hub that cannot be reached."""

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils import hub

import jopa


def test_a_hub_that_cannot_be_reached_is_asked_for_one_file(monkeypatch):
    """Each file costs half a minute of its client's retries."""
    asked = []

    def unreachable(repo, filename, *, local_files_only, **_):
        asked.append((filename, local_files_only))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    with pytest.raises(jopa.ModelError, match="as a hub id it gave: We couldn't connect"):
        jopa.load("someone/some-model")
    assert [name for name, local in asked if not local] == ["adapter_config.json"]


def test_a_hub_model_that_is_no_adapter_is_read_on(monkeypatch):
    asked = []

    def without(repo, filename, *, local_files_only, **_):
        asked.append((filename, local_files_only))
        raise LocalEntryNotFoundError("not here") if local_files_only else EntryNotFoundError("404")

    monkeypatch.setattr(hub, "hf_hub_download", without)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    with pytest.raises(jopa.ModelError):
        jopa.load("someone/some-model")
    assert [name for name, local in asked if not local][:2] == ["adapter_config.json", "config.json"]
