"""How many of a batch's requests run at a time: as many as there is room for beside the others.

One more for each round of answers, up to the most that the operator allows; half as many when
somebody says that there is no room, and none until the time that he names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""After a refusal that names no time: doubling with each that follows."""


class Pace:
    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.limit = 1.0
        self.running = 0
        self._most = most
        self._clock = clock
        self._not_before = 0.0
        self._wait_s = FIRST_WAIT_S
        self._turn = asyncio.Lock()  # first come, first served
        self._changed = asyncio.Event()

    async def begin(self) -> None:
        """Until one more may run; it does from here on, until `ended` or `refused`."""
        async with self._turn:
            while True:
                left_s = self._not_before - self._clock()
                if left_s > 0:
                    await asyncio.sleep(left_s)
                elif self.running >= int(self.limit):
                    self._changed.clear()
                    await self._changed.wait()
                else:
                    break
            self.running += 1

    def ended(self, *, answered: bool = True) -> None:
        self.running -= 1
        if answered:
            self.limit = min(self._most, self.limit + 1 / self.limit)
            self._wait_s = FIRST_WAIT_S
        self._changed.set()

    def refused(self, retry_after_s: float | None) -> None:
        """There is no room for it."""
        self.ended(answered=False)
        now = self._clock()
        if now >= self._not_before:  # of many that were refused at once, the first tells
            self.limit = max(1.0, self.limit / 2)
            wait_s = self._wait_s if retry_after_s is None else retry_after_s
            self._not_before = now + min(wait_s, LONGEST_WAIT_S)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
