"""
How many requests an endpoint takes at a time, learnt from what it says of itself.

Nothing is known until it complains. One that refuses for want of room has as many places as it was
busy with, less a part: additive increase, multiplicative decrease, as congestion is avoided (Chiu
and Jain 1989). One that tells of its queue has as many as it runs while others wait there, and a
few more, so that it never waits for us. Either way places are added while all are in use and nobody
complains: what was learnt once is found out again.
"""

from __future__ import annotations

from dataclasses import dataclass

LESS = 0.8
STEP = 8
"""One place in so many is added at a time, or waits in an engine's own queue."""

LOOKS = 3
"""An engine's queue must be there so often in a row: one prompt that waits for another's prefill
says nothing."""


@dataclass(slots=True)
class Capacity:
    limit: int | None = None  # None: it has not complained yet
    _cut: float = float("-inf")  # when it was last lowered
    _answered: int = 0  # while all places were in use, since it last changed
    _queued: int = 0  # looks in a row that found a queue
    _most_running: int = 0  # in these

    def refused(self, in_flight: int, began: float, now: float) -> None:
        """For want of room: a request sent when it `began`, `in_flight` with it."""
        if began < self._cut:
            return  # sent before we knew: the same complaint again
        at_most = in_flight if self.limit is None else min(self.limit, in_flight)
        self.limit = max(1, int(at_most * LESS))
        self._cut, self._answered = now, 0

    def answered(self, taken: int) -> None:
        """An answer is whole; it had one of the places that were `taken`."""
        if self.limit is None or taken < self.limit:
            return
        self._answered += 1
        if self._answered >= self.limit:
            self._more()

    def told(self, running: int, waiting: int, taken: int) -> None:
        """By an engine, of all its requests; of its places so many are `taken` by gateways."""
        if waiting == 0:
            self._queued = self._most_running = 0
            if self.limit is not None and taken >= self.limit:
                self._more()
            return
        if running == 0:
            return  # it loads, or pauses: how many it could run, it does not say
        self._queued += 1
        self._most_running = max(self._most_running, running)
        if self._queued >= LOOKS:
            limit = self._most_running + max(1, self._most_running // STEP)
            self.limit = limit if self.limit is None else min(self.limit, limit)
            self._queued = self._most_running = 0

    def _more(self) -> None:
        assert self.limit is not None
        self.limit += max(1, self.limit // STEP)
        self._answered = 0
