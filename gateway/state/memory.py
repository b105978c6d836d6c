"""One process's meters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.admission.meters import Charge, Kind, Meter, Verdict, judge, moved

SWEEP = 10_000
"""After so many movements, numbers that say nothing any more are dropped."""


def steady_wall() -> Callable[[], float]:
    """Unix time that never jumps: this moment's, and from then on by the monotonic clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class MemoryMeters:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        self.numbers: dict[str, float] = {}
        self._meters: dict[str, Meter] = {}  # of each number
        self._moves = 0

    async def take(self, charges: Sequence[Charge], deadline_s: float | None = None) -> Verdict:
        verdict = judge(charges, self.numbers, self.now())
        if verdict.refused_by is None:
            self._move(charges, verdict.granted, verdict.now)
        return verdict

    def peek(self, charges: Sequence[Charge]) -> Verdict:
        return judge(charges, self.numbers, self.now())

    def give(self, charges: Sequence[Charge]) -> None:
        self._move(charges, [charge.amount for charge in charges], self.now())

    def _move(self, charges: Sequence[Charge], amounts: Sequence[float], now: float) -> None:
        numbers = self.numbers
        for (meter, _, _), amount in zip(charges, amounts, strict=True):
            key = meter.key
            number = numbers.get(key)
            if number is None:
                self._meters[key], number = meter, 0.0
            numbers[key] = moved(meter, number, amount, now)
        self._moves += len(charges)
        if self._moves >= SWEEP:
            self._moves = 0
            for key in [key for key, number in numbers.items() if self._is_void(key, number, now)]:
                del numbers[key], self._meters[key]

    def _is_void(self, key: str, number: float, now: float) -> bool:
        """It says no more than if there were none."""
        match self._meters[key]:
            case Meter(kind=Kind.HELD):
                return number == 0
            case Meter(kind=Kind.SPEND, ends=ends):
                return ends < now
        return number < now
