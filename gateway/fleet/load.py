"""What others do to an endpoint, as it tells: somebody else's requests, and other gateways'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

TRUSTED_S = 10.0
"""What an endpoint told of its load counts less and less, and nothing once it is so old."""


class Load(NamedTuple):
    in_flight: int
    queued_tokens: int


IDLE = Load(0, 0)


@dataclass(slots=True)
class OthersLoad:
    _told: Load = IDLE
    _at: float | None = None  # monotonic
    # As it last told of all its requests, ours among them.
    waiting: int | None = None
    kv_usage: float | None = None

    def told(self, whole: Load, ours: Load, now: float) -> None:
        """`ours`: at most, while it was asked: a request of ours that was on its way then must not
        count as somebody else's."""
        self._told = Load(*(max(0, w - o) for w, o in zip(whole, ours, strict=True)))
        self._at = now

    def forget(self) -> None:
        self._told, self._at = IDLE, None
        self.waiting = self.kv_usage = None

    def age_s(self, now: float) -> float | None:
        return None if self._at is None else now - self._at

    def at(self, now: float) -> Load:
        if self._at is None or self._told == IDLE:
            return IDLE
        share = max(0.0, 1 - (now - self._at) / TRUSTED_S)
        return Load(*(round(count * share) for count in self._told))
