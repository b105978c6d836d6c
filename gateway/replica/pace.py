"""How fast the queue moves, for an honest Retry-After, and how long something was computed."""

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


@dataclass(slots=True)
class Busy:
    """Seconds in which at least one step was in progress, those of steps that ended."""

    seconds: float = 0.0
    steps: int = 0  # in progress
    since: float = -math.inf  # up to when it is counted, while there are steps

    def begin(self, now: float) -> None:
        if not self.steps:
            self.since = now
        self.steps += 1

    def end(self, now: float) -> None:
        self.seconds += now - self.since
        self.since = now
        self.steps -= 1
