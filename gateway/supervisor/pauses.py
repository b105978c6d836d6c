"""How long to wait before what has died is started again."""

from __future__ import annotations


class Pauses:
    """Each is twice the one before, until a life has lasted: then the first again. In seconds."""

    def __init__(self, first: float = 1.0, longest: float = 30.0, settled: float = 60.0) -> None:
        self._first = self._next = first
        self._longest = longest
        self._settled = settled

    def after(self, life: float) -> float:
        """`life`: how long it had been up; 0 if it never was."""
        pause = self._first if life >= self._settled else self._next
        self._next = min(2 * pause, self._longest)
        return pause
