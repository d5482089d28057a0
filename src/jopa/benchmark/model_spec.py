"""A model of an experiment, and how its prompts are put before it.

Knows names and settings, nothing of loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jopa.errors import SettingError
from jopa.prompt.options import PromptOptions


@dataclass(frozen=True)
class ModelSpec:
    """A model to explain.

    Attributes:
        name: as tables call it.
        id: what `jopa.load` takes, or the model's name at the endpoint; None for the bundled model.
        revision: a hub commit or branch.
        device: where it runs; by default the best there is.
        dtype: its number format; by default the device's.
        batch_size: masks in one forward; by default what speed and memory allow.
        endpoint: the address of the server that it runs behind; None for a model in this process.
        api: "vllm" or "sglang"; by default the server is asked.
        tokenizer: the served model's own, if it is not what the server names.
        key_variable: the environment variable that holds the server's key, if it is not OPENAI_API_KEY.
        plain: its prompts are plain text, without its chat template.
        template_args: further arguments of its chat template.
        trust_remote_code: run code that comes with it.
    """

    name: str
    id: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    endpoint: str | None = None
    api: str | None = None
    tokenizer: str | None = None
    key_variable: str | None = None
    plain: bool = False
    template_args: Mapping[str, Any] | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        PromptOptions(plain=self.plain, template_args=self.template_args or {})  # refuses what cannot go together
        local = [name for name in ("revision", "device", "dtype", "batch_size") if getattr(self, name) is not None]
        served = [name for name in ("api", "tokenizer", "key_variable") if getattr(self, name) is not None]
        if self.endpoint is None and served:
            raise SettingError(f"'{served[0]}' of model '{self.name}' needs an 'endpoint'")
        if self.endpoint is not None and (local or self.id is None):
            raise SettingError(
                f"model '{self.name}' runs behind an endpoint: "
                + (f"leave out '{local[0]}'" if local else "name it there as 'id'")
            )
        if self.endpoint is not None and self.trust_remote_code:
            raise SettingError(f"model '{self.name}' runs behind an endpoint: leave out 'trust_remote_code'")
        if self.api not in (None, "vllm", "sglang"):
            raise SettingError(f"'api' of model '{self.name}' must be vllm or sglang, got '{self.api}'")

    @property
    def loading(self) -> dict[str, Any]:
        """What `jopa.load` is told beside the id."""
        names = ("revision", "device", "dtype", "batch_size", "trust_remote_code")
        return {name: getattr(self, name) for name in names}
