"""Two tries for one answer are both over, however often their exchange is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.attempts import Opened
from gateway.domain import Attempt, Ended
from gateway.hedge import Racer, race

pytestmark = pytest.mark.anyio


class Endpoint:
    """Never opens, and takes its time to be left."""

    def __init__(self) -> None:
        self.begun, self.leaving, self.may_leave = (asyncio.Event() for _ in range(3))
        self.leases = 0

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[Opened]:
        self.leases += 1
        self.begun.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
            yield
        finally:
            self.leaving.set()
            await self.may_leave.wait()
            self.leases -= 1

    def racer(self) -> Racer:
        return Racer(Attempt("e", 0.0), self.opening(), lambda: None)


async def test_a_second_cancellation_leaves_neither_lease() -> None:
    endpoints = [Endpoint(), Endpoint()]

    async def exchange() -> None:
        first, second = endpoints
        async with race(first.racer(), 0, second.racer, lambda attempt, error: None):
            raise AssertionError("nobody opens")

    task = asyncio.create_task(exchange())
    for endpoint in endpoints:
        await endpoint.begun.wait()
    task.cancel()
    for endpoint in endpoints:
        await endpoint.leaving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for endpoint in endpoints:
        endpoint.may_leave.set()
    async with asyncio.timeout(30):
        while any(endpoint.leases for endpoint in endpoints):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_what_a_hang_up_ends_says_so() -> None:
    endpoint = Endpoint()
    endpoint.may_leave.set()
    racer = endpoint.racer()
    await endpoint.begun.wait()
    await racer.end(Ended.HUNG_UP)
    await racer.end(Ended.OVERTAKEN)
    assert (endpoint.leases, racer.attempt.ended) == (0, Ended.HUNG_UP)
