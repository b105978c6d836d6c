"""How often something happened lately."""

from __future__ import annotations

SLICES = 10


class Window:
    """A count over the last `seconds`. It falls in slices, a tenth of the window each: what it
    says is right to within one of them. Times are monotonic and never go back."""

    __slots__ = ("_counts", "_slice", "_slice_s")

    def __init__(self, seconds: float) -> None:
        self._slice_s = seconds / SLICES
        self._slice = 0  # the latest, by its number since the clock's zero
        self._counts = [0] * SLICES

    def add(self, now: float) -> None:
        self._turn(now)
        self._counts[self._slice % SLICES] += 1

    def total(self, now: float) -> int:
        self._turn(now)
        return sum(self._counts)

    def clear(self) -> None:
        self._counts = [0] * SLICES

    def _turn(self, now: float) -> None:
        current = int(now / self._slice_s)
        for passed in range(min(current - self._slice, SLICES)):
            self._counts[(current - passed) % SLICES] = 0
        self._slice = max(current, self._slice)
