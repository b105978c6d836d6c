"""What computes behind an imitated API: replicas with slots, queues and prefix caches of their own.

An answer takes `queue + overhead + uncached prompt / prefill rate + tokens / rate`. `speed` divides
these times and those of starting up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from gateway.emulator.settings import Settings
from gateway.replay.blocks import BlockCache


class Replica:
    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.cache = BlockCache(settings.cache_tokens // settings.block_tokens)
        self.slots = asyncio.Semaphore(settings.slots)
        self.running = 0
        self.waiting = 0

    @property
    def load(self) -> int:
        return self.running + self.waiting


@dataclass(slots=True)
class Place:
    """Where a request is computed, and what was there already."""

    replica: Replica
    cached_tokens: int
    prefill_s: float
    queue_s: float = 0.0


class Machine:
    def __init__(
        self, settings: Settings, seed: int, speed: float, now: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.speed = speed
        self.now = now
        self.replicas = [Replica(number, settings) for number in range(settings.replicas)]
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.generated_tokens = 0
        self.finished = 0  # requests
        self._draws = Random(seed)
        self._ready_at = None if settings.cold_start_s else now()
        self._last_used = now()

    # Starting up

    def start(self) -> float:
        """Begin to start, if nothing runs or starts; the seconds until something runs."""
        idle = self.now() - self._last_used
        if self.settings.cold_start_s and not self.load and idle > self.settings.idle_s:
            self._ready_at = None
        if self._ready_at is None:
            self._ready_at = self.now() + self.settings.cold_start_s / self.speed
        self._last_used = max(self.now(), self._ready_at)
        return max(0.0, self._ready_at - self.now())

    @property
    def asleep(self) -> bool:
        """Nothing runs, and nobody has had it start."""
        return self._ready_at is None

    def stop(self) -> None:
        """Scale to zero now."""
        self._ready_at = None if self.settings.cold_start_s else self.now()
        self.replicas = [Replica(r.number, self.settings) for r in self.replicas]

    @property
    def load(self) -> int:
        return sum(replica.load for replica in self.replicas)

    @property
    def waiting(self) -> int:
        return sum(replica.waiting for replica in self.replicas)

    # Computing

    @asynccontextmanager
    async def place(
        self, blocks: Sequence[int], prompt_tokens: int, affinity: str | None
    ) -> AsyncIterator[Place]:
        """A slot of a replica: with an affinity always the same one, else the least busy."""
        replica = self._replica(affinity)
        arrived = self.now()
        replica.waiting += 1
        try:
            await replica.slots.acquire()
        finally:
            replica.waiting -= 1
        replica.running += 1
        size = self.settings.block_tokens
        # Without room the prompt is computed all the same, and nothing of it stays.
        found = replica.cache.acquire(blocks, 0)
        held = () if found is None else blocks
        # The last token is always computed: its logits are the answer's beginning.
        cached = min((found or 0) * size, max(0, prompt_tokens - 1) // size * size)
        self.queried_tokens += prompt_tokens
        self.hit_tokens += cached
        uncached_s = (prompt_tokens - cached) / self.settings.prefill_tokens_per_s
        place = Place(replica, cached, self.settings.overhead_s + uncached_s)
        place.queue_s = self.now() - arrived
        try:
            yield place
        finally:
            replica.cache.computed(held)
            replica.cache.release(held, 0, self.now())
            replica.running -= 1
            replica.slots.release()
            self._last_used = self.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)

    def _replica(self, affinity: str | None) -> Replica:
        if affinity is not None:  # rendezvous
            return max(self.replicas, key=lambda r: _weight(affinity, r.number))
        least = min(replica.load for replica in self.replicas)
        return self._draws.choice([r for r in self.replicas if r.load == least])


def _weight(affinity: str, number: int) -> bytes:
    return blake2b(f"{affinity}\0{number}".encode("utf-8", "replace"), digest_size=8).digest()
