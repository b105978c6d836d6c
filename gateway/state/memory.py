"""One process's meters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from gateway.admission.meters import Charge, Kind, Verdict, judge, moved

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
        self._dead_after: dict[str, float] = {}
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
        numbers, dead_after = self.numbers, self._dead_after
        for (meter, _, _), amount in zip(charges, amounts, strict=True):
            key, kind = meter.key, meter.kind
            numbers[key] = number = moved(meter, numbers.get(key, 0.0), amount, now)
            if kind is Kind.HELD:
                dead_after[key] = now if number == 0 else math.inf
            else:
                dead_after[key] = number if kind is Kind.RATE else meter.ends
        self._moves += len(charges)
        if self._moves >= SWEEP:
            self._moves = 0
            for key in [k for k, dead in dead_after.items() if dead < now]:
                del numbers[key], dead_after[key]
