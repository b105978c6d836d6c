"""A prefix cache of fixed size: blocks by id, least recently used out first, none while in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    """Every block is pinned by those who use it, idle, or reserved for somebody's answer."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.evicted_touched: float | None = None
        """When the block that was evicted last had been let go of; None before the first."""
        self._pins: dict[int, int] = {}  # id -> requests that use it
        self._uncomputed: set[int] = set()  # pinned, and not there to be reused yet
        self._idle: OrderedDict[int, float] = OrderedDict()  # id -> let go of at; oldest first
        self._reserved = 0

    @property
    def used(self) -> int:
        return len(self._pins) + len(self._idle) + self._reserved

    @property
    def in_use(self) -> int:
        """Blocks that cannot be evicted."""
        return len(self._pins) + self._reserved

    def acquire(self, ids: Sequence[int], answer: int) -> int | None:
        """Pin a prompt's blocks and reserve `answer` more; how many of its first are computed.

        None, and nothing changed, when there is no room.
        """
        new = sum(block not in self._pins for block in ids)
        if self.in_use + new + answer > self.capacity:
            return None
        cached = next((i for i, b in enumerate(ids) if not self._is_computed(b)), len(ids))
        for block in ids:
            self._pins[block] = self._pins.get(block, 0) + 1
            if self._pins[block] == 1 and self._idle.pop(block, None) is None:
                self._uncomputed.add(block)
        self._reserved += answer
        while self.used > self.capacity:
            _, self.evicted_touched = self._idle.popitem(last=False)
        return cached

    def computed(self, ids: Sequence[int]) -> None:
        self._uncomputed.difference_update(ids)

    def release(self, ids: Sequence[int], answer: int, now: float) -> None:
        """Let go of what `acquire` gave; all of it has been computed."""
        for block in reversed(ids):  # a prompt's end is evicted before its beginning
            self._pins[block] -= 1
            if not self._pins[block]:
                del self._pins[block]
                self._idle[block] = now
        self._reserved -= answer

    def _is_computed(self, block: int) -> bool:
        return block in self._idle or (block in self._pins and block not in self._uncomputed)
