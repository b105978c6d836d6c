"""The keys that we have for one endpoint, and which of them has to rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


class Keys:
    """One is used until the endpoint refuses it, or says that nothing is left of its limit; then
    the next in turn. Staying with one keeps what the endpoint has cached for it."""

    def __init__(self, keys: Sequence[str], clock: Callable[[], float]) -> None:
        # Without a key there still is an account that can be at its limit: the machine itself.
        self._free_at: dict[str | None, float] = dict.fromkeys(keys or (None,), 0.0)
        self._soonest = 0.0  # when one of them is free
        self._clock = clock

    def __repr__(self) -> str:
        return f"Keys({len(self._free_at)})"

    def in_turn(self) -> Iterator[str | None]:
        """Every key that need not rest; if all must, the one that is free soonest."""
        now = self._clock()
        free = [key for key, at in self._free_at.items() if at <= now]
        yield from free or [min(self._free_at, key=self._free_at.__getitem__)]

    def rest(self, key: str | None, seconds: float) -> None:
        self._free_at.pop(key)
        self._free_at[key] = self._clock() + seconds  # now it is the last in turn
        self._soonest = min(self._free_at.values())

    def rests_s(self) -> float:
        return max(0.0, self._soonest - self._clock()) if self._soonest else 0.0
