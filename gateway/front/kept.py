"""Responses that can be asked for later, and gone on from: what is kept, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Kept:
    """What one tenant's client was told, and what the model had been given for it."""

    id: str
    response: dict[str, Any]
    items: list[Any]  # earlier turns first

    @property
    def status(self) -> str:
        return str(self.response["status"])


class ResponseStore(Protocol):
    """Each raises OSError while it cannot. A tenant never sees another's."""

    async def put(self, tenant: str, kept: Kept) -> None:
        """In place of what has the same id. The tenant's oldest give way to it, and it gives way
        to nobody's."""
        ...

    async def get(self, tenant: str, id: str) -> Kept | None: ...

    async def remove(self, tenant: str, id: str) -> bool:
        """Whether it was there."""
        ...

    async def aclose(self) -> None: ...
