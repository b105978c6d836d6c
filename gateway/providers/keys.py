"""The keys that we have for one endpoint, and which of them has to rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

LONGEST_REST_S = 300.0
"""What an endpoint says of a limit is believed for so long, and then tried: it may have meant
another unit, or been given more."""


class Keys:
    """One is used until the endpoint refuses it, or says that nothing is left of its limit; then
    the next in turn. Staying with one keeps what the endpoint has cached for it."""

    def __init__(self, keys: Sequence[str], clock: Callable[[], float]) -> None:
        # Without a key there still is an account that can be at its limit: the machine itself.
        self._free_at: dict[str | None, float] = dict.fromkeys(keys or (None,), 0.0)
        self._rests_since: dict[str | None, float] = {}
        self._soonest = 0.0  # when one of them is free
        self.clock = clock

    def __repr__(self) -> str:
        return f"Keys({len(self._free_at)})"

    def in_turn(self) -> Iterator[str | None]:
        """Every key that need not rest; if all must, the one that is free soonest."""
        now = self.clock()
        free = [key for key, at in self._free_at.items() if at <= now]
        yield from free or [min(self._free_at, key=self._free_at.__getitem__)]

    def rest(self, key: str | None, seconds: float) -> None:
        self._rests_since[key] = now = self.clock()
        self._free_at.pop(key)
        self._free_at[key] = now + min(seconds, LONGEST_REST_S)  # now it is the last in turn
        self._soonest = min(self._free_at.values())

    def served(self, key: str | None, asked: float) -> None:
        """It was good for what it was `asked` then: a rest from before that is over."""
        since = self._rests_since.get(key)
        if since is not None and since <= asked:
            del self._rests_since[key]
            self._free_at[key] = 0.0
            self._soonest = 0.0

    def rests_s(self) -> float:
        return max(0.0, self._soonest - self.clock()) if self._soonest else 0.0
