"""An engine with continuous batching, chunked prefill and a prefix cache, as a model of its steps.

A step computes chunks of prompts, first come first served, and one token of every answer:

    step_s + tokens / tokens_per_s + attention_s · Σ tokens · context + sequence_s · sequences
           + kv_token_s · KV tokens read

tokens are those of the chunks, context the mean position of a chunk's tokens, and KV tokens those
that the answers under way attend to. Steps without a chunk follow each other unchanged but for the
growing KV, so a run of them up to the next finished answer is one event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from gateway.domain import ReplicaReport
from gateway.replay.blocks import BlockCache
from gateway.replay.server import Job, Progress


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """The defaults are a guess at a model of 70B parameters on one node."""

    step_s: float = 0.015
    tokens_per_s: float = 12_000.0
    attention_s: float = 1.4e-9  # per token and token of its context
    sequence_s: float = 6e-5
    kv_token_s: float = 1.5e-8
    chunk_tokens: int = 4096  # in a step, answers' tokens included
    max_sequences: int = 128
    cache_tokens: int = 1_024_000

    def __post_init__(self) -> None:
        if min(self.step_s, self.tokens_per_s) <= 0:
            raise ValueError("step_s and tokens_per_s must be above 0")
        if min(self.attention_s, self.sequence_s, self.kv_token_s) < 0:
            raise ValueError("a step's terms must not be negative")
        if not 0 < self.max_sequences < self.chunk_tokens:
            raise ValueError("chunk_tokens must be above max_sequences, and that above 0")


@dataclass(eq=False, slots=True)
class Running:
    job: Job
    answer_blocks: int
    computed: int  # prompt tokens, the cached ones included


@dataclass(frozen=True, slots=True)
class Chunk:
    sequence: Running
    tokens: int


class Replica:
    def __init__(self, spec: ReplicaSpec, block_size: int) -> None:
        self.due: float | None = None
        self.steps = 0
        self.cache = BlockCache(spec.cache_tokens // block_size)
        self._spec = spec
        self._block_size = block_size
        self._waiting: deque[Job] = deque()
        self._queued_tokens = 0  # prompt tokens still to be computed
        self._prefilling: Running | None = None  # the one that the last step left unfinished
        self._decoding: list[tuple[int, int, Running]] = []  # heap: (last step, job, …)
        self._kv_tokens = 0  # of those
        # What runs until `due`: so many equal steps, the first of them with these chunks.
        self._started = 0.0
        self._steps = 0
        self._chunks: list[Chunk] = []

    def submit(self, job: Job, now: float) -> None:
        """Raises ValueError for a request that the whole cache could not hold."""
        if self._blocks(job) > self.cache.capacity:
            raise ValueError(
                f"a request of {job.request.prompt_tokens} + {job.request.output_tokens} tokens "
                f"does not fit a cache of {self._spec.cache_tokens}"
            )
        self._waiting.append(job)
        self._queued_tokens += job.request.prompt_tokens
        if self.due is None:
            self._begin(now)
        elif self._steps > 1:
            # A run of steps ends with the step that is under way.
            done = bisect_left(range(1, self._steps), now - self._started, key=self._run_s)
            self._steps = done + 1
            self.due = self._started + self._run_s(self._steps)

    def advance(self, now: float) -> Sequence[Progress]:
        self.steps += self._steps
        self._kv_tokens += len(self._decoding) * self._steps
        told = [p for chunk in self._chunks if (p := self._computed(chunk))]
        while self._decoding and self._decoding[0][0] <= self.steps:
            _, _, sequence = heappop(self._decoding)
            request = sequence.job.request
            self._kv_tokens -= request.prompt_tokens + request.output_tokens - 1
            self.cache.release(request.blocks, sequence.answer_blocks, now)
            told.append(Progress(sequence.job, finished=True))
        self._begin(now)
        return told

    def stats(self) -> tuple[int, float]:
        return len(self._waiting), self.cache.in_use / self.cache.capacity

    def report(self, now: float) -> ReplicaReport:
        evicted = self.cache.evicted_touched
        running = len(self._decoding) + len(self._chunks)
        age = None if evicted is None else now - evicted
        return ReplicaReport("1", running, self._queued_tokens, age)

    def _computed(self, chunk: Chunk) -> Progress | None:
        """Account for a chunk; the first token comes with the prompt's last."""
        sequence, request = chunk.sequence, chunk.sequence.job.request
        sequence.computed += chunk.tokens
        self._queued_tokens -= chunk.tokens
        if sequence.computed < request.prompt_tokens:
            self.cache.computed(request.blocks[: sequence.computed // self._block_size])
            return None
        self.cache.computed(request.blocks)
        self._kv_tokens += request.prompt_tokens
        last = self.steps + request.output_tokens - 1
        heappush(self._decoding, (last, sequence.job.number, sequence))
        return Progress(sequence.job, finished=False)

    def _begin(self, now: float) -> None:
        """Plan what runs next, and until when."""
        self._chunks = self._fill()
        self._started = now
        if self._chunks:
            self._steps = 1
        elif self._decoding:
            self._steps = self._decoding[0][0] - self.steps
        else:
            self._steps = 0
        self.due = now + self._run_s(self._steps) if self._steps else None

    def _fill(self) -> list[Chunk]:
        budget = self._spec.chunk_tokens - len(self._decoding)
        chunks: list[Chunk] = []
        while budget > 0:
            sequence = self._prefilling or self._admit(len(chunks))
            if sequence is None:
                break
            left = sequence.job.request.prompt_tokens - sequence.computed
            chunks.append(Chunk(sequence, min(left, budget)))
            self._prefilling = sequence if left > budget else None
            budget -= min(left, budget)
            if self._prefilling:
                break
        return chunks

    def _admit(self, admitted: int) -> Running | None:
        """The next that waits, if there is a place and room for all its KV, answer included."""
        if not self._waiting or len(self._decoding) + admitted >= self._spec.max_sequences:
            return None
        job = self._waiting[0]
        request = job.request
        answer_blocks = self._blocks(job) - len(request.blocks)
        cached = self.cache.acquire(request.blocks, answer_blocks)
        if cached is None:
            return None
        self._waiting.popleft()
        # The last token of a prompt is always computed: its logits start the answer.
        job.cached_tokens = min(cached * self._block_size, request.prompt_tokens - 1)
        self._queued_tokens -= job.cached_tokens
        return Running(job, answer_blocks, job.cached_tokens)

    def _blocks(self, job: Job) -> int:
        return -(-(job.request.prompt_tokens + job.request.output_tokens) // self._block_size)

    def _run_s(self, steps: int) -> float:
        """Seconds of the first `steps` steps of this run; in each, every answer's KV grows by 1."""
        spec, answers = self._spec, len(self._decoding)
        tokens = sum(c.tokens for c in self._chunks)
        context = sum(c.tokens * (c.sequence.computed + c.tokens / 2) for c in self._chunks)
        first = (
            spec.step_s
            + tokens / spec.tokens_per_s
            + spec.attention_s * context
            + spec.sequence_s * (answers + len(self._chunks))
            + spec.kv_token_s * self._kv_tokens
        )
        return steps * first + spec.kv_token_s * answers * steps * (steps - 1) / 2
