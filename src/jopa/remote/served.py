"""What all models behind a server have in common, and what their scorers count.

Knows clients, allowances and numbers of requests; neither ids nor texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jopa.errors import SettingError
from jopa.remote.allowance import Allowance
from jopa.remote.client import Client
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jopa.scoring.protocols import Capability


class ServedModel:
    """A model behind a server: its name there, and what was sent.

    Args:
        client: sends the requests.
        id: the model's name at the server.
        api: what the server speaks, as results name it.
        max_tokens_sent: a search that would send more ends; None for no limit.
    """

    removals = ("delete",)
    """How its scorers can remove units."""

    def __init__(self, client: Client, id: str, api: str, max_tokens_sent: int | None) -> None:
        self.client = client
        self.id = id
        self.api = api
        self.allowance = Allowance(max_tokens_sent)
        self._requests_before = client.requests

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.client.url!r}, api={self.api!r})"

    @property
    def requests_sent(self) -> int:
        """Requests sent so far, those that were tried again included; those of connecting are left out."""
        return self.client.requests - self._requests_before

    @property
    def tokens_sent(self) -> int:
        """Tokens sent so far to score and to generate, without the probe; over a chat API, those of answers, too."""
        return self.allowance.sent

    @property
    def identity(self) -> dict[str, str | None]:
        """Its id and where it is, as results record them; a server does not say its dtype."""
        return {"id": self.id, "revision": None, "dtype": None, "device": f"{self.api} at {self.client.url}"}

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What its scorers can be asked: scores."""
        return frozenset({"scores"})

    def require_ids(self, ids: Iterable[int]) -> None:
        """Nothing is refused here: only the server knows its vocabulary, and it refuses what it does not have."""

    def require_removal(self, removal: str, n_tokens: int) -> None:
        """Refuse a removal that its scorers cannot do; the number of tokens does not matter.

        Raises:
            SettingError: the removal is not "delete".
        """
        if removal not in self.removals:
            raise SettingError(f"a model behind a server removes units by 'delete' alone, got '{removal}'")


class ServedWork:
    """What a scorer has sent so far."""

    def __init__(self) -> None:
        self.evaluations = self.requests = self.sent = self.reused = 0
        self.seconds = 0.0

    @property
    def record(self) -> Work:
        """As scorers tell it: `forwards` are requests, `tokens` went (and came), `reused` were in the cache."""
        return Work(
            evaluations=self.evaluations,
            forwards=self.requests,
            tokens=self.sent,
            reused=self.reused,
            in_model=self.seconds,
            seconds={"scores": self.seconds},
        )

    @property
    def cost(self) -> dict[str, int]:
        """What results say of the cost."""
        return {"requests": self.requests, "tokens_sent": self.sent, "tokens_cached": self.reused}
