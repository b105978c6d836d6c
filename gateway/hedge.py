"""
Two tries for one answer: whoever begins first gives it, the other is ended at once.

For machines of ours only: elsewhere both are billed. Before the first event only: after it there is
something to lose.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gateway.attempts import Opened
from gateway.domain import Attempt, Ended
from gateway.errors import GatewayError
from routing_policies.base import Ranked
from routing_policies.estimate import lateness_at
from routing_policies.policy import Hedge

P95 = 1.645
"""Standard deviations above the median, as quantiles of lateness are counted."""


def hedge_after_s(hedge: Hedge, ranked: Ranked) -> float:
    if hedge.after_s is not None:
        return hedge.after_s
    late = lateness_at(P95, ranked.candidate.coefficients.lateness)
    return ranked.estimate.ttft_s * math.exp(late)


@dataclass(eq=False)
class Racer:
    attempt: Attempt
    opening: AbstractAsyncContextManager[Opened]
    let_go: Callable[[], None]  # of the room that was taken for it, however little came of it
    held: AsyncExitStack = field(default_factory=AsyncExitStack)
    ending: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self.held.enter_async_context(self.opening))

    @property
    def error(self) -> GatewayError | None:
        """What the endpoint failed with instead of opening."""
        if not self.task.done() or self.task.cancelled():
            return None
        error = self.task.exception()
        return error if isinstance(error, GatewayError) else None

    def end(self, how: Ended) -> asyncio.Future[None]:
        """Once it is over nothing of it is left, whatever it was doing; who waits for that may be
        cancelled: a hang-up, or two, must not leave a lease to its own devices."""
        if self.ending is None:
            self.ending = asyncio.create_task(self._end(how))
        return asyncio.shield(self.ending)

    async def _end(self, how: Ended) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.held.aclose()
        self.let_go()  # the task may have ended before it began
        if self.attempt.error is None:
            self.attempt.ended = how


@asynccontextmanager
async def race(
    first: Racer,
    after_s: float,
    second: Callable[[], Racer | None],
    lost: Callable[[Attempt, GatewayError], None],
) -> AsyncIterator[Opened]:
    """Whoever opens first. `second` is called when `first` has not opened after `after_s`. Raises
    the last one's error when nobody opens; `lost` hears of each that fails before that."""
    racers = [first]
    try:
        await asyncio.wait([first.task], timeout=after_s)
        if not first.task.done() and (other := second()) is not None:
            racers.append(other)
        winner = await _first_to_open(racers, lost)
        for loser in [racer for racer in racers if racer is not winner]:
            await loser.end(Ended.OVERTAKEN)
            if (error := loser.error) is not None:
                lost(loser.attempt, error)
        async with winner.held:
            racers = []
            yield winner.task.result()
    finally:
        await asyncio.gather(*(racer.end(Ended.HUNG_UP) for racer in racers))


async def _first_to_open(
    racers: list[Racer], lost: Callable[[Attempt, GatewayError], None]
) -> Racer:
    """Of those that fail before, none is left among `racers`."""
    while True:
        await asyncio.wait([r.task for r in racers], return_when=asyncio.FIRST_COMPLETED)
        done = [r for r in racers if r.task.done()]
        winner = next((r for r in done if r.task.exception() is None), None)
        if winner is not None:
            return winner
        for racer in done:
            error = racer.error
            if error is None or len(racers) == 1:
                racer.task.result()  # raises
            else:
                racers.remove(racer)
                lost(racer.attempt, error)
