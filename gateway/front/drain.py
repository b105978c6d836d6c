"""How far this server's going down has come."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Unavailable


@dataclass
class Drain:
    noticed: bool = False  # whoever asks whether we are ready hears no; requests are still taken
    refusing: bool = False  # what runs may end, nothing begins

    def check(self) -> None:
        """Raises Unavailable."""
        if self.refusing:
            raise Unavailable("the gateway is shutting down", retry_after_s=1)
