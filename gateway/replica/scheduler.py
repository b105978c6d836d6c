"""
Which tokens the next step computes. Knows no tensors, no threads and no callbacks.

There is no prefill phase and no decode phase: every running request has tokens that are not
computed yet (`missing`), and a step catches up as many as its budget allows. After a step,
whoever has caught up gets one more token. (vLLM's v1 scheduler has this shape.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.blocks import BlockPool
from gateway.replica.plan import Plan, Row
from gateway.replica.request import Finish, Request, State
from gateway.replica.waiting import WaitingQueue, urgency


class Scheduler:
    """Owns the requests from `add` to `remove`, and through them the pool's blocks.

    A step has at most `chunk_tokens` tokens and one token of each decoding request is always
    among them, so no decode waits for more than one chunk of somebody's prompt.
    """

    def __init__(self, pool: BlockPool, *, max_running: int, chunk_tokens: int) -> None:
        if not 1 <= max_running <= chunk_tokens:
            # with fewer tokens than requests, decodes alone would fill a step
            raise ValueError(
                f"max_running must be from 1 to chunk_tokens ({chunk_tokens}), not {max_running}"
            )
        self.preemptions = 0
        self._pool = pool
        self._max_running = max_running
        self._chunk_tokens = chunk_tokens
        self._waiting = WaitingQueue()
        self._running: dict[str, Request] = {}

    def __iter__(self) -> Iterator[Request]:
        yield from self._running.values()
        yield from self._waiting

    @property
    def running(self) -> list[Request]:
        return list(self._running.values())

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Tokens accepted and not computed yet, without those that the cache holds."""
        prefill = sum(r.missing for r in self._running.values() if not r.decoding)
        return prefill + sum(len(r.tokens) - r.matched for r in self._waiting)

    def get(self, request_id: str) -> Request | None:
        return self._running.get(request_id) or self._waiting.get(request_id)

    def add(self, request: Request) -> None:
        """The request's limit must be within the pool: alone, it always fits."""
        request.matched = len(self._match(request)) * BLOCK_SIZE
        self._waiting.add(request)

    def remove(self, request: Request) -> None:
        """Takes a request out and frees its blocks, whatever it was doing; between steps only."""
        if request.state is State.RUNNING:
            self._leave(request)
        else:
            self._waiting.remove(request)

    def plan(self, now: float) -> Plan | None:
        """Running requests first, single tokens before chunks; what is left is for newcomers."""
        rows: list[Row] = []
        budget = self._chunk_tokens
        for request in sorted(self.running, key=lambda r: (r.missing > 1, *urgency(r, now))):
            # the loop may have preempted it meanwhile
            if request.state is State.RUNNING and budget and self._grow(request, now):
                rows.append(Row.of(request, budget))
                budget -= len(rows[-1])
        rows.extend(self._admit(budget, now))
        return Plan(tuple(rows)) if rows else None

    def commit(self, plan: Plan, tokens: Sequence[int | None]) -> list[Finish | None]:
        """Books a step that has been computed; `tokens` are those of `plan.sampled`.

        Returns for each of them why it ends with this token, or None. A request that got no token
        (None) has failed, and the caller removes it, as it removes the ended ones.
        """
        for row in plan.rows:
            row.request.computed = row.stop
            for index in range(row.start // BLOCK_SIZE, row.stop // BLOCK_SIZE):
                self._pool.publish(row.request.blocks, index, row.request.hashes[index])
        return [
            None if token is None else request.append(token)
            for request, token in zip(plan.sampled, tokens, strict=True)
        ]

    def check_integrity(self) -> None:
        """Raises AssertionError unless the pool's books agree with the requests' tables."""
        self._pool.check_integrity([request.blocks for request in self])
        assert all(not request.blocks for request in self._waiting), "who waits holds no blocks"
        held = {(block, r.submission.salt) for r in self.running for block in r.blocks}
        assert len(held) == len({block for block, _ in held}), "tenants share no block"
        for request in self.running:
            published = request.computed // BLOCK_SIZE
            named = self._pool.match(request.hashes[:published])
            assert named == list(request.blocks[:published]), "computed blocks are published"

    def _grow(self, request: Request, now: float) -> bool:
        """Gives the table a block for the next token, at the cost of the least urgent request.

        False if that was the request itself. Only single tokens need to grow, and they are planned
        in the order of urgency: a victim has no row in this step yet.
        """
        while len(request.blocks) * BLOCK_SIZE < len(request.tokens):
            taken = self._pool.take(1)
            if taken is not None:
                request.blocks.extend(taken)
                continue
            victim = max(self.running, key=lambda r: urgency(r, now))
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Back to the queue without blocks; what it computed is cached, so it may hit it again."""
        self.preemptions += 1
        self._leave(request)
        request.state = State.PREEMPTED
        self.add(request)

    def _leave(self, request: Request) -> None:
        del self._running[request.submission.id]
        self._pool.release(request.blocks)
        del request.blocks[:]
        request.computed = 0

    def _admit(self, budget: int, now: float) -> Iterator[Row]:
        """Lets in who fits, in the queue's order; nobody overtakes one who needs more room."""
        if not budget or len(self._running) >= self._max_running:
            return
        for request in self._waiting.in_order(now)[: self._max_running]:
            hits = self._match(request)
            request.matched = len(hits) * BLOCK_SIZE
            if self._being_computed(request, len(hits)):
                continue  # a step later that block is a hit
            needed = -(-len(request.tokens) // BLOCK_SIZE) - len(hits)
            # a spare block for each running request, or the next step would preempt
            if not self._pool.can_take(needed + len(self._running), beside=hits):
                return
            self._start(request, hits, needed)
            row = Row.of(request, budget)
            yield row
            budget -= len(row)
            if not budget or len(self._running) >= self._max_running:
                return

    def _match(self, request: Request) -> list[int]:
        """The known blocks of its prefix, capped so that at least one token is computed."""
        return self._pool.match(request.hashes[: (len(request.tokens) - 1) // BLOCK_SIZE])

    def _being_computed(self, request: Request, index: int) -> bool:
        """Whether a running request has yet to publish the block that would be the next hit."""
        if index >= (len(request.tokens) - 1) // BLOCK_SIZE:
            return False  # there is no next: the rest must be computed in any case
        name = request.hashes[index : index + 1]
        return any(name == other.hashes[index : index + 1] for other in self.running)

    def _start(self, request: Request, hits: list[int], needed: int) -> None:
        """The request owns the blocks of all its tokens from here on."""
        self._pool.acquire(hits)
        taken = self._pool.take(needed)
        assert taken is not None, "can_take said so"
        request.blocks.extend(hits + taken)
        request.computed = len(hits) * BLOCK_SIZE
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
        self._waiting.serve(request)
        request.state = State.RUNNING
        self._running[request.submission.id] = request
