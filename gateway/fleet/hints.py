"""What callers say of requests that belong together: `prompt_cache_key`, `user`, a session's id.

A hint is no proof: it names no bytes. Where no prefix is known, it says which endpoint the last
request of the same name went to, and what share of a prompt such a request was found to have cached
there; until answers have told, next to nothing. So a hint decides between equals, and draws harder
only where it has been right.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.fleet.learning import Average

FIRST_SHARE = 0.05
"""Of a prompt, before any answer has told: more than a tie, less than a queue."""


class Hints:
    """Bounded: the names least recently seen go first."""

    def __init__(self, *, capacity: int = 20_000, ttl_s: float = 3600.0) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._went: OrderedDict[str, tuple[str, float]] = OrderedDict()  # endpoint, when
        self._share = Average(FIRST_SHARE, weight=5)

    def __len__(self) -> int:
        return len(self._went)

    @property
    def share(self) -> float:
        """Of a prompt, that is found cached where its hint points and no prefix was known."""
        return self._share.mean

    def endpoint(self, names: Iterable[str], now: float) -> str | None:
        """Where the last request with the first of these names that is known went."""
        for name in names:
            went = self._went.get(name)
            if went is not None and now - went[1] <= self._ttl_s:
                return went[0]
        return None

    def sent(self, names: Iterable[str], endpoint: str, now: float) -> None:
        for name in names:
            self._went[name] = (endpoint, now)
            self._went.move_to_end(name)
        while len(self._went) > self._capacity:
            self._went.popitem(last=False)

    def learn(self, cached_tokens: int, prompt_tokens: int, now: float) -> None:
        """What an answer told where only a hint had pointed."""
        self._share.learn(min(1.0, cached_tokens / max(1, prompt_tokens)), now)
