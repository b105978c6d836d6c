"""The numbers of an imitated provider. Every one can be set by whoever rehearses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """A profile's own values replace these defaults; a script's `settings` replace the profile's.

    0 for a limit or a start-up time: there is none.
    """

    keys: tuple[str, ...] = ()  # those it takes; empty: every key but none
    models: tuple[str, ...] = ()  # those it serves; empty: every name
    context_tokens: int = 131_072

    replicas: int = 1
    slots: int = 16  # requests that a replica computes at once; more wait
    max_queued: int = 0  # requests that wait; more are refused for want of capacity
    overhead_s: float = 0.05
    prefill_tokens_per_s: float = 20_000.0
    tokens_per_s: float = 100.0
    cache_tokens: int = 1_048_576  # of each replica
    block_tokens: int = 16
    cold_start_s: float = 0.0  # it begins cold, where this is not 0
    idle_s: float = 900.0  # without requests, until it is cold again
    wait_s: float = 600.0  # how long a request may wait for a start

    requests_per_minute: int = 0  # of each key, as every limit
    tokens_per_minute: int = 0
    requests_per_day: int = 0
    concurrency: int = 0

    input_usd: float = 0.0  # per million tokens
    cached_usd: float | None = None  # None: as input
    output_usd: float = 0.0

    def __post_init__(self) -> None:
        if min(self.replicas, self.slots, self.block_tokens, self.context_tokens) < 1:
            raise ValueError("replicas, slots, block_tokens and context_tokens must be at least 1")
        if min(self.prefill_tokens_per_s, self.tokens_per_s) <= 0:
            raise ValueError("rates must be above 0")
        if min(self.overhead_s, self.cold_start_s, self.idle_s, self.wait_s) < 0:
            raise ValueError("times must not be negative")

    def usd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        return (
            (prompt_tokens - cached_tokens) * self.input_usd
            + cached_tokens * cached_usd
            + completion_tokens * self.output_usd
        ) / 1e6
