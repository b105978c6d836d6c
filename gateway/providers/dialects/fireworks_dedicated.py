"""A deployment of one's own at Fireworks AI, which refuses while it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamCold
from gateway.providers.dialects.fireworks import Fireworks
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class FireworksDedicated(Fireworks):
    """Its models are accounts/ACCOUNT/deployments/ID, or MODEL#accounts/…."""

    meanings: ClassVar[Meanings] = {**Fireworks.meanings, "DEPLOYMENT_SCALING_UP": UpstreamCold}
