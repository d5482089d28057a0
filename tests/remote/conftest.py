"""What tests of models behind servers share."""

import pytest
from fake_server import FakeServer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    waits = []

    async def note(seconds):
        waits.append(seconds)

    monkeypatch.setattr("jopa.remote.client.pause", note)
    return waits


@pytest.fixture(params=["vllm", "sglang"])
def server(request, llama):
    return FakeServer(llama, request.param)
