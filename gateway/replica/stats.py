"""What an engine tells of itself to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.blocks import BlockPool
from gateway.replica.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the last plan or step. Totals count from the engine's start."""

    epoch: str  # a new random string per engine: under another one, what was cached is gone
    running: int  # requests that hold blocks
    waiting: int
    queued_tokens: int  # accepted and not computed yet, cached ones left out
    horizon_age_s: float | None  # since the last touch of the latest evicted block
    block_size: int  # tokens
    total_blocks: int
    free_blocks: int
    cached_blocks: int
    owned_blocks: int
    context_length: int  # tokens that one request may hold: never more than the pool
    prefill_tokens: int = 0  # computed, recomputation after preemption included
    decode_tokens: int = 0  # sampled
    preemptions: int = 0
    busy_s: float = 0.0  # with at least one step in progress, from its plan to its commit

    @classmethod
    def of(
        cls,
        scheduler: Scheduler,
        pool: BlockPool,
        *,
        epoch: str,
        context_length: int,
        prefill_tokens: int,
        decode_tokens: int,
    ) -> EngineStats:
        return cls(
            epoch=epoch,
            running=len(scheduler.running),
            waiting=scheduler.waiting,
            queued_tokens=scheduler.queued_tokens,
            horizon_age_s=None,  # an age belongs to the moment of asking
            block_size=BLOCK_SIZE,
            total_blocks=pool.total,
            free_blocks=pool.free,
            cached_blocks=pool.cached,
            owned_blocks=pool.owned,
            context_length=context_length,
            prefill_tokens=prefill_tokens,
            decode_tokens=decode_tokens,
            preemptions=scheduler.preemptions,
        )
