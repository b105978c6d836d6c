"""A deployment of one's own at Baseten, which holds requests until a replica is awake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamRefused
from gateway.providers.dialects.baseten import Baseten


@dataclass(frozen=True)
class BasetenDedicated(Baseten):
    """`base_url` is https://model-ID.api.baseten.co/environments/ENVIRONMENT/sync/v1."""

    URL: ClassVar[str | None] = None
    patience_s: ClassVar[float] = 1200.0  # after as long it gives up itself
    key_header: ClassVar[tuple[str, str]] = ("authorization", "Api-Key ")

    async def probe(self) -> None:
        """Whatever is asked there wakes it, and a replica that is up is billed."""

    async def wake(self) -> None:
        url = self.base_url.removesuffix("/v1").removesuffix("/sync") + "/wake"
        status, _ = await self.page(url, "POST")
        if status >= 300:
            raise UpstreamRefused(f"the endpoint answered with status {status}")
