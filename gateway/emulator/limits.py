"""How much one key may ask for. Limits count in real seconds, whatever the emulator's speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.emulator.settings import Settings


class Bucket:
    """Refills steadily, to `limit` in `window_s` seconds. A limit of 0 is none."""

    def __init__(self, limit: float, window_s: float, now: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self._level = limit
        self._at = now

    def remaining(self, now: float) -> float:
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / self.window_s)
        self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until there is so much, or until it is full for what is more than all."""
        if not self.limit:
            return 0.0
        lacking = min(amount, self.limit) - self.remaining(now)
        return max(0.0, lacking * self.window_s / self.limit)

    def spend(self, amount: float, now: float) -> None:
        """May go below 0: what an answer takes is known only afterwards."""
        self._level = self.remaining(now) - amount

    def reset_s(self, now: float) -> float:
        """Seconds until it is full."""
        return self.wait_s(self.limit, now)


class Adaptive(Bucket):
    """A limit that follows use: twice the last minute's, between a floor and twenty times it.

    Steady growth is let through and a steep ramp is not. The factors are ours.
    """

    def __init__(self, floor: float, window_s: float, now: float) -> None:
        super().__init__(floor, window_s, now)
        self._floor = floor
        self._used = 0.0
        self._minute = now

    def spend(self, amount: float, now: float) -> None:
        if now - self._minute >= self.window_s:
            self.limit = min(max(self._floor, 2 * self._used), 20 * self._floor)
            self._used, self._minute = 0.0, now
        self._used += amount
        super().spend(amount, now)


@dataclass(frozen=True, slots=True)
class Full:
    """What is used up, and the seconds until it is there again."""

    what: str  # requests, tokens, requests-day, concurrency
    wait_s: float


class Account:
    """One key's buckets."""

    def __init__(self, settings: Settings, now: Callable[[], float], *, adaptive: bool) -> None:
        bucket = Adaptive if adaptive else Bucket
        self.now = now
        self.requests = Bucket(settings.requests_per_minute, 60, now())
        self.tokens = bucket(settings.tokens_per_minute, 60, now())
        self.day = Bucket(settings.requests_per_day, 86_400, now())
        self.concurrency = settings.concurrency
        self.in_flight = 0

    def full(self, prompt_tokens: int) -> Full | None:
        now = self.now()
        if self.concurrency and self.in_flight >= self.concurrency:
            return Full("concurrency", 0.0)
        for what, bucket, amount in (
            ("requests-day", self.day, 1),
            ("requests", self.requests, 1),
            ("tokens", self.tokens, prompt_tokens),
        ):
            if wait_s := bucket.wait_s(amount, now):
                return Full(what, wait_s)
        return None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def spend_request(self) -> None:
        self.requests.spend(1, self.now())
        self.day.spend(1, self.now())

    def spend_tokens(self, amount: int) -> None:
        self.tokens.spend(amount, self.now())
