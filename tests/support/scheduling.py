"""A scheduler on its own, without a backend and without anybody who listens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from gateway.replica.blocks import BlockPool, Chain
from gateway.replica.plan import Plan
from gateway.replica.request import Request, Submission
from gateway.replica.sampling import Sampling
from gateway.replica.scheduler import Scheduler
from tests.support.clock import ManualClock


class Requests:
    """Makes requests in the order of their arrival; nobody listens to them."""

    def __init__(self, clock: ManualClock, limit: int = 10_000) -> None:
        self._clock, self.limit, self._numbers = clock, limit, count()

    def __call__(
        self, name: str, prompt: Sequence[int], *, salt: bytes = b"", priority: int = 1
    ) -> Request:
        submission = Submission(
            id=name,
            prompt=tuple(prompt),
            sampling=Sampling(stop_tokens=frozenset({99})),
            on_token=lambda token: False,
            on_finish=lambda finish, counts: None,
            on_error=lambda error: None,
            salt=salt,
            priority=priority,
        )
        chain = Chain.of("model", salt)
        return Request(submission, chain, next(self._numbers), self._clock(), self.limit)


class World:
    def __init__(
        self, *, blocks: int = 100, max_running: int = 8, chunk_tokens: int = 32, workers: int = 1
    ) -> None:
        self.clock = ManualClock()
        self.pool = BlockPool(blocks, self.clock)
        self.scheduler = Scheduler(
            self.pool, max_running=max_running, chunk_tokens=chunk_tokens, workers=workers
        )
        self.request = Requests(self.clock)

    def add(
        self, name: str, prompt: Sequence[int], *, salt: bytes = b"", priority: int = 1
    ) -> Request:
        request = self.request(name, prompt, salt=salt, priority=priority)
        self.scheduler.add(request)
        return request

    def step(self) -> dict[str, int]:
        """One step in which every sampled token is 1; returns each request's tokens in it."""
        plan = self.plan()
        if plan is None:
            return {}
        self.commit(plan)
        return sizes(plan)

    def plan(self) -> Plan | None:
        plan = self.scheduler.plan(self.clock())
        self.scheduler.check_integrity()
        return plan

    def commit(self, plan: Plan) -> None:
        self.scheduler.commit(plan, [1] * len(plan.sampled))
        self.scheduler.check_integrity()


def sizes(plan: Plan) -> dict[str, int]:
    return {row.request.submission.id: len(row) for row in plan.rows}
