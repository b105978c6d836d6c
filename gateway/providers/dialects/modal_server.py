"""A server of one's own at Modal, which refuses while none of it is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamCold
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class ModalServer(OpenAICompatible):
    """`api_key` is a proxy token's id (`wk-…`), `secret` its secret (`ws-…`)."""

    traits: ClassVar[Traits] = Traits(stops_billing=False)
    key_header: ClassVar[tuple[str, str]] = ("modal-key", "")
    secret_header: ClassVar[str | None] = "modal-secret"
    session_headers: ClassVar[tuple[str, ...]] = ("modal-session-id", "modal-routing-affinity-key")
    meanings: ClassVar[Meanings] = {503: UpstreamCold}

    async def probe(self) -> None:
        """Whatever is asked there starts a container, which is billed."""
