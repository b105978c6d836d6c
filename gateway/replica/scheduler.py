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
from gateway.replica.plan import Plan, Row, check_apart
from gateway.replica.request import Finish, Request, State
from gateway.replica.waiting import WaitingQueue, urgency


class Scheduler:
    """Owns the requests from `add` to `remove`, and through them the pool's blocks.

    As many steps may be in flight as there are `workers`, each between its `plan` and its `commit`.
    A request is in at most one of them, or in one and the one that follows it; until those are over
    nobody touches its blocks. So what steps at once write is private to each, and what they read
    besides is published.

    A step has at most `chunk_tokens` tokens. Whoever decodes is in the next step, if there is one
    worker or no other step of decodes in flight: it never waits for more than one chunk of
    somebody's prompt, and beside a second worker not even for that.
    """

    def __init__(
        self, pool: BlockPool, *, max_running: int, chunk_tokens: int, workers: int = 1
    ) -> None:
        if not 1 <= max_running <= chunk_tokens:
            # with fewer tokens than requests, decodes alone would fill a step
            raise ValueError(
                f"max_running must be from 1 to chunk_tokens ({chunk_tokens}), not {max_running}"
            )
        self.preemptions = 0
        self._pool = pool
        self._max_running = max_running
        self._chunk_tokens = chunk_tokens
        self._workers = workers
        self._in_flight: list[Plan] = []
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
    def leaves_some(self) -> bool:
        """Whether somebody is in no step, so that another worker may find something to do."""
        return bool(self._waiting) or any(not r.in_flight for r in self._running.values())

    @property
    def queued_tokens(self) -> int:
        """Tokens accepted and still to be computed: without those that the cache holds, and once
        where several requests begin alike."""
        counted: set[bytes] = set()
        return sum(self._uncounted(r, counted) for r in self if not r.decoding)

    def _uncounted(self, request: Request, counted: set[bytes]) -> int:
        """What the request has to compute beside the blocks `counted`, to which its own are added.

        A name stands for a whole prefix: where one is known or counted, so are all before it.
        """
        full, new = len(request.tokens) // BLOCK_SIZE, 0
        for name in reversed(request.hashes[request.computed // BLOCK_SIZE : full]):
            if name in counted or self._pool.holds(name):
                break
            counted.add(name)
            new += 1
        tail = len(request.tokens) - full * BLOCK_SIZE
        # the last token is computed in any case
        return min(request.missing, max(1, new * BLOCK_SIZE + tail))

    def get(self, request_id: str) -> Request | None:
        return self._running.get(request_id) or self._waiting.get(request_id)

    def add(self, request: Request) -> None:
        """The request's limit must be within the pool: alone, it always fits."""
        self._waiting.add(request)

    def remove(self, request: Request) -> None:
        """Takes a request out and frees its blocks, whatever it was doing, but in flight."""
        assert not request.in_flight, "a step reads and writes its blocks"
        if request.state is State.RUNNING:
            self._leave(request)
        else:
            self._waiting.remove(request)

    def plan(self, now: float) -> Plan | None:
        """The next step, or None if there is nothing to do before another one is committed.

        One worker mixes: single tokens first, then chunks, and what is left is for newcomers. Of
        several, one decodes and the others prefill, whoever comes first.
        """
        for request in self.running:
            if request.yields and not request.in_flight:
                request.yields = False
                if not self._pool.can_take(1):
                    self._preempt(request)
        rows: list[Row] = []
        if not any(plan.decodes for plan in self._in_flight):
            rows += self._decodes(now)
        if not rows or self._workers == 1:
            rows += self._prefills(self._chunk_tokens - len(rows), now)
        return self._launched(rows)

    def follow(self, plan: Plan, now: float) -> Plan | None:
        """The step after one in flight, planned before its tokens are known; of one worker.

        Who gets a token there gets the next one here, and newcomers begin. None where that is not
        worth it or cannot be: a chunk leaves its prompt unfinished, and takes long anyway; somebody
        is left out; there is no block to grow into.
        """
        others = any((r.decoding and not r.in_flight) or r.yields for r in self.running)
        if others or not all(row.sampled for row in plan.rows):
            return None
        rows = [
            row.after(place)
            for place, row in enumerate(plan.rows)
            if row.request.ending is None and row.stop + 1 < row.request.limit
        ]
        if not all(self._has_room(row.request, row.stop) for row in rows):
            return None
        rows += self._prefills(self._chunk_tokens - len(rows), now)
        return self._launched(rows)

    def _launched(self, rows: Sequence[Row]) -> Plan | None:
        if not rows:
            return None
        plan = Plan(tuple(rows))
        for row in rows:
            row.request.in_flight += 1
        self._in_flight.append(plan)
        return plan

    def commit(self, plan: Plan, tokens: Sequence[int | None]) -> list[Finish | None]:
        """Books a step that has been computed; `tokens` are those of `plan.sampled`.

        Returns for each of them why it ends with this token, or None. A request that got no token
        (None) has failed or is ending, and the caller removes it, as it removes the ended ones.
        """
        self.abandon(plan)
        for row in plan.rows:
            # what follows a token that never came is nothing
            stop = row.request.computed = min(row.stop, len(row.request.tokens))
            for index in range(row.start // BLOCK_SIZE, stop // BLOCK_SIZE):
                self._pool.publish(row.request.blocks, index, row.request.hashes[index])
        return [
            None if token is None else request.append(token)
            for request, token in zip(plan.sampled, tokens, strict=True)
        ]

    def abandon(self, plan: Plan) -> None:
        """The step ends as if it had not begun; nothing happens if it has been committed."""
        if plan in self._in_flight:
            self._in_flight.remove(plan)
            for request in plan.requests:
                request.in_flight -= 1

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
        if self._workers > 1:  # the steps of one worker are computed one after the other
            check_apart(self._in_flight)
        in_flight = [request for plan in self._in_flight for request in plan.requests]
        assert all(request.in_flight == in_flight.count(request) for request in self), "counts"

    def _decodes(self, now: float) -> list[Row]:
        """The next token of each answer."""
        free = [request for request in self.running if request.decoding and not request.in_flight]
        # growing may preempt those that come later
        return [
            Row.of(request, 1)
            for request in sorted(free, key=lambda r: urgency(r, now))
            if request.state is State.RUNNING and self._grow(request, now)
        ]

    def _prefills(self, budget: int, now: float) -> Iterator[Row]:
        """Chunks of prompts, those that run and newcomers': tenants take turns, chunk by chunk.

        Nobody is let in past one who needs more room.
        """
        prompts = [r for r in self.running if not (r.decoding or r.in_flight)]
        tries = self._max_running
        for request in self._waiting.in_order(now, prompts):
            if not budget:
                return
            row: Row | None
            if request.state is State.RUNNING:
                row = Row.of(request, budget)
            else:
                if not tries or len(self._running) >= self._max_running:
                    continue
                tries -= 1
                hits = self._pool.match(request.hashes)
                if self._being_computed(request, len(hits)):
                    continue  # a step later that block is a hit
                row = self._admit(request, hits, budget)
                if row is None:
                    tries = 0
                    continue
            self._waiting.serve(request)
            yield row
            budget -= len(row)

    def _grow(self, request: Request, now: float) -> bool:
        """Gives the table a block for the next token, at the cost of the least urgent request.

        False if that was the request itself, or if that one's step must end first. Only decodes
        need to grow, and they are planned first and in the order of urgency: a victim has no row
        in this step yet.
        """
        while len(request.blocks) * BLOCK_SIZE < len(request.tokens):
            taken = self._pool.take(1)
            if taken is not None:
                request.blocks.extend(taken)
                continue
            victim = max(self.running, key=lambda r: urgency(r, now))
            if victim.in_flight:
                victim.yields = True
                return False
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _has_room(self, request: Request, position: int) -> bool:
        """Whether the table has a block for this position, or could be given one."""
        if len(request.blocks) * BLOCK_SIZE > position:
            return True
        taken = self._pool.take(1)
        request.blocks.extend(taken or ())
        return taken is not None

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

    def _admit(self, request: Request, hits: list[int], budget: int) -> Row | None:
        """The request runs from here on and owns the blocks of all its tokens; `hits` are those
        that the cache has. None, and no change, if there is no room.
        """
        known = min(len(hits) * BLOCK_SIZE, len(request.tokens) - 1)
        # The last token is computed in any case, and where it goes must be writable.
        source = hits.pop() if known < len(hits) * BLOCK_SIZE else None
        needed = -(-len(request.tokens) // BLOCK_SIZE) - len(hits)
        # a spare block for each running request, or the next step would preempt
        if not self._pool.can_take(needed + len(self._running), beside=hits):
            return None
        self._pool.acquire(hits)
        taken = self._pool.take(needed)
        assert taken is not None, "can_take said so"
        request.blocks.extend(hits + taken)
        request.computed = known
        if request.cached_tokens is None:
            request.cached_tokens = known
        request.state = State.RUNNING
        self._running[request.submission.id] = request
        return Row.of(request, budget, source)

    def _being_computed(self, request: Request, index: int) -> bool:
        """Whether a running request has yet to publish the block that would be the next hit."""
        if index == len(request.hashes):
            return False  # there is no next: the rest must be computed in any case
        name = request.hashes[index : index + 1]
        return any(name == other.hashes[index : index + 1] for other in self.running)
