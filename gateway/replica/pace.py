"""How fast the queue moves, for an honest Retry-After."""

from __future__ import annotations

import math
from dataclasses import dataclass

HALF_LIFE_S = 10.0


@dataclass(slots=True)
class Pace:
    """Queued tokens computed per second of late, older steps counting for less."""

    tokens: float = 0.0
    seconds: float = 0.0
    until: float = -math.inf  # when the latest step ended

    def add(self, tokens: int, started: float, ended: float) -> None:
        """One step. The time that it shares with an earlier one counts once."""
        seconds = ended - max(started, self.until)
        self.until = ended
        kept = 0.5 ** (seconds / HALF_LIFE_S)
        self.tokens = self.tokens * kept + tokens
        self.seconds = self.seconds * kept + seconds

    def wait_s(self, tokens: float) -> float:
        """How long until so many have left the queue; at least 1 s, which also means unknown."""
        return max(1.0, tokens * self.seconds / self.tokens) if self.tokens else 1.0
