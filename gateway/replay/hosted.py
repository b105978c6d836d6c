"""A provider's API: any number of requests at once, a price, and a prompt cache that ages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from gateway.replay.server import Job, Progress


@dataclass(frozen=True, slots=True)
class HostedSpec:
    """Dollars are per million tokens."""

    ttft_s: float = 0.5  # of a prompt that is all cached
    prefill_tokens_per_s: float = 20_000.0
    tokens_per_s: float = 80.0  # of one answer
    input_usd: float = 0.6
    cached_usd: float = 0.3
    output_usd: float = 0.8
    cache_ttl_s: float = 300.0
    cache_min_tokens: int = 1024  # shorter prefixes are not looked up

    def __post_init__(self) -> None:
        if min(self.prefill_tokens_per_s, self.tokens_per_s) <= 0:
            raise ValueError("rates must be above 0")
        if min(self.ttft_s, self.input_usd, self.cached_usd, self.output_usd) < 0:
            raise ValueError("times and prices must not be negative")


class Hosted:
    steps = 0  # its answers are counted when they end

    def __init__(self, spec: HostedSpec, block_size: int) -> None:
        self._spec = spec
        self._block_size = block_size
        self._touched: dict[int, float] = {}
        self._events: list[tuple[float, int, bool, Job]] = []  # heap

    @property
    def due(self) -> float | None:
        return self._events[0][0] if self._events else None

    def submit(self, job: Job, now: float) -> None:
        spec, request = self._spec, job.request
        job.cached_tokens = self._cached_tokens(job, now)
        uncached = request.prompt_tokens - job.cached_tokens
        job.cost_usd = (
            uncached * spec.input_usd
            + job.cached_tokens * spec.cached_usd
            + request.output_tokens * spec.output_usd
        ) / 1e6
        first = now + spec.ttft_s + uncached / spec.prefill_tokens_per_s
        last = first + (request.output_tokens - 1) / spec.tokens_per_s
        heappush(self._events, (first, job.number, False, job))
        heappush(self._events, (last, job.number, True, job))

    def advance(self, now: float) -> Sequence[Progress]:
        told = []
        while self._events and self._events[0][0] <= now:
            _, _, finished, job = heappop(self._events)
            told.append(Progress(job, finished))
        return told

    def stats(self) -> tuple[None, None]:
        return None, None

    def report(self, now: float) -> None:
        return None

    def _cached_tokens(self, job: Job, now: float) -> int:
        blocks, oldest = job.request.blocks, now - self._spec.cache_ttl_s
        found = (i for i, b in enumerate(blocks) if self._touched.get(b, -1e9) < oldest)
        tokens = min(next(found, len(blocks)) * self._block_size, job.request.prompt_tokens - 1)
        self._touched.update(dict.fromkeys(blocks, now))
        return tokens if tokens >= self._spec.cache_min_tokens else 0
