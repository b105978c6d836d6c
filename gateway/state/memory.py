"""One process's meters."""

from __future__ import annotations

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
            for charge, amount in zip(charges, verdict.granted, strict=True):
                self._move(charge, amount)
        return verdict

    def peek(self, charges: Sequence[Charge]) -> Verdict:
        return judge(charges, self.numbers, self.now())

    def give(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            self._move(charge, charge.amount)

    def _move(self, charge: Charge, amount: float) -> None:
        meter, now = charge.meter, self.now()
        number = moved(meter, self.numbers.get(meter.key, 0.0), amount, now)
        self.numbers[meter.key] = number
        if meter.kind is Kind.HELD:
            self._dead_after[meter.key] = now if number == 0 else float("inf")
        else:
            self._dead_after[meter.key] = number if meter.kind is Kind.RATE else meter.ends
        self._moves += 1
        if self._moves % SWEEP == 0:
            for key in [k for k, dead in self._dead_after.items() if dead < now]:
                del self.numbers[key], self._dead_after[key]
