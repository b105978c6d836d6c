"""
Meters that several gateways share in Redis or Valkey.

A request makes at most one trip, and waits for it no longer than the deadline: trips that come in
while another is under way go together with the next one, and so does everything that need not
wait. A trip that is not answered in time is decided here alone, by this gateway's share (as if
every living gateway took as much as this one), and put right when its answer comes after all.
While the server is lost nothing waits for it; what was taken meanwhile is told when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.admission.meters import Charge, Kind, Verdict
from gateway.state.book import Book, amounting, summed
from gateway.state.calls import Calls

logger = logging.getLogger(__name__)

FLUSH_S = 0.02  # what need not wait goes at the latest after this
PATIENCE_S = 0.05  # a server silent for so long is lost
BATCH = 64  # trips that go together; more would make the first of them late
BEAT_S = 1.0
PROBE_S = 0.2  # between beats while the server is lost
GIVEN_UP_S = 0.2  # the server does nothing with what reaches it later
LEASE_S = 10.0  # after so long without a beat, what a gateway held is free again


@dataclass(eq=False)
class _Trip:
    charges: Sequence[Charge]
    answer: asyncio.Future[Verdict]
    alone: Verdict | None = None  # decided here, when the answer was late
    left: bool = False  # nobody waits for it any more, and nothing is to be kept


@dataclass(eq=False)
class SharedMeters:
    """`closed`: kinds that nothing is granted of while the server is lost."""

    redis: Redis
    gateway: str  # this one's name among the others
    deadline_s: float = 0.002
    closed: frozenset[Kind] = frozenset()
    prefix: str = "{gateway}:"
    clock: Callable[[], float] = time.monotonic
    lost: bool = True  # until the first beat
    book: Book = field(default_factory=Book)
    _offset: float = field(default_factory=lambda: time.time() - time.monotonic())
    _trips: list[_Trip] = field(default_factory=list)
    _gives: list[Charge] = field(default_factory=list)
    _some: asyncio.Event = field(default_factory=asyncio.Event)
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    _sent: float | None = None  # when the batch that is under way was
    _data: str = ""  # the name of the server's data
    _beat_due: float = 0.0
    _over: bool = False
    _back: float = field(default=0.0)  # when the server was last found again

    def __post_init__(self) -> None:
        self._calls = Calls(self.prefix, self.gateway, LEASE_S)

    @property
    def gateways(self) -> int:
        """That were alive at the last beat."""
        return self.book.gateways

    def now(self) -> float:
        return self._offset + self.clock()

    # What the line calls.

    async def take(self, charges: Sequence[Charge], deadline_s: float | None = None) -> Verdict:
        if self.lost:
            return self._alone(charges)
        trip = _Trip(charges, asyncio.get_running_loop().create_future())
        self._trips.append(trip)
        self._some.set()
        self._urgent.set()
        try:
            async with asyncio.timeout(deadline_s or self.deadline_s):
                return await asyncio.shield(trip.answer)
        except TimeoutError:
            if self._sent is not None and self.clock() - self._sent > PATIENCE_S:
                self._lose("it does not answer")
            if not trip.answer.done():
                trip.alone = self._alone(charges)
            return trip.alone or trip.answer.result()
        except asyncio.CancelledError:
            if trip.answer.done():
                self.give(amounting(charges, [-a for a in trip.answer.result().granted]))
            trip.left = True
            raise

    def peek(self, charges: Sequence[Charge]) -> Verdict:
        return self.book.peek(charges, self.now())

    def give(self, charges: Sequence[Charge]) -> None:
        self.book.hold(charges, [charge.amount for charge in charges])
        if self.lost:
            self.book.keep(charges, self.now())
        else:
            self._gives.extend(charges)
            self._some.set()

    def _alone(self, charges: Sequence[Charge]) -> Verdict:
        return self.book.alone(charges, self.closed, self.now())

    # To the server and back.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self._beat()
        if self.lost:
            logger.warning("shared state cannot be reached: every gateway enforces its share")
        task = asyncio.create_task(self._carry(), name="shared meters are")
        try:
            yield
        finally:
            self._over = True  # a client may take a cancellation for its own timeout
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gives, self._gives = self._gives, []
            if gives and not self.lost:
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    await self._send([], gives)

    async def _carry(self) -> None:
        """One batch after the other, so that what is HELD here and there is the same in between."""
        while not self._over:
            await self._something_to_carry()
            trips, self._trips = self._trips[:BATCH], self._trips[BATCH:]
            gives, self._gives = self._gives, []
            if self._trips:
                self._some.set()
            if trips or gives:
                self._sent = self.clock()
                try:
                    verdicts = await self._send(trips, gives)
                except (RedisError, OSError, TimeoutError) as error:
                    self._lose(error)
                    verdicts = [None] * len(trips)
                self._sent = None
                for trip, verdict in zip(trips, verdicts, strict=True):
                    self._answered(trip, verdict)
            if self.clock() >= self._beat_due:
                await self._beat()

    async def _something_to_carry(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._beat_due - self.clock())):
                await self._some.wait()
                if not self._trips:
                    async with asyncio.timeout(FLUSH_S):
                        await self._urgent.wait()
        self._some.clear()
        self._urgent.clear()

    async def _send(self, trips: Sequence[_Trip], gives: Sequence[Charge]) -> list[Verdict | None]:
        """Verdicts, None for a trip that came too late. Raises what redis raises."""
        pipe = self.redis.pipeline(transaction=False)
        given, until = summed(gives), self.now() + GIVEN_UP_S
        if given:
            self._calls.give(pipe, given, until)
        for trip in trips:
            self._calls.take(pipe, trip.charges, until)
        try:
            replies = await pipe.execute()
        except BaseException:
            self.book.keep(given, self.now())
            raise
        if given and not replies[0]:
            self.book.keep(given, self.now())
        return [
            self._verdict(trip.charges, reply) if reply else None
            for trip, reply in zip(trips, replies[bool(given) :], strict=True)
        ]

    def _verdict(self, charges: Sequence[Charge], reply: Sequence[bytes]) -> Verdict:
        now, *numbers = map(float, reply)
        self._offset = now - self.clock()
        return self.book.told(charges, numbers, now)

    def _answered(self, trip: _Trip, verdict: Verdict | None) -> None:
        """`verdict` None: the server has not done it, or will not be heard of any more."""
        waiting = trip.alone is None and not trip.left
        if waiting and not trip.answer.done():
            if verdict is None:
                verdict = self._alone(trip.charges)
            else:
                self.book.hold(trip.charges, verdict.granted)
            trip.answer.set_result(verdict)
        elif verdict is not None:
            # What the server did is replaced by what was decided without it.
            decided = trip.alone.granted if trip.alone else (0.0,) * len(trip.charges)
            self.book.keep(amounting(trip.charges, decided), self.now(), sign=-1)
            more = [a - b for a, b in zip(decided, verdict.granted, strict=True)]
            self._gives += [c for c in amounting(trip.charges, more) if c.amount]
            self._some.set()

    # Whether the server is there.

    def _lose(self, why: Exception | str) -> None:
        if self.lost:
            return
        self.lost = True
        self._beat_due = self.clock() + PROBE_S
        logger.warning("shared state is lost (%s): every gateway enforces its share", _said(why))
        trips, self._trips = self._trips, []
        gives, self._gives = self._gives, []
        self.book.keep(gives, self.now())
        for trip in trips:
            self._answered(trip, None)

    async def _beat(self) -> None:
        """Tell the server that this gateway lives, and what it does not know."""
        self.book.forget(self.now(), LEASE_S)
        try:
            if self.lost:
                await self._calls.load(self.redis)
            gateways, data = await self._tell(merge=False)
            if data != self._data:
                gateways, self._data = await self._tell(merge=True)
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            self._beat_due = self.clock() + PROBE_S
            return
        self._beat_due = self.clock() + BEAT_S
        self._count(gateways)

    async def _tell(self, *, merge: bool) -> tuple[int, str]:
        now = self.now()
        self._gives = [c for c in self._gives if c.meter.kind is not Kind.HELD]  # in what follows
        untold = self.book.untold(now)
        told = [c for c in untold if merge or c.amount or c.meter.kind is Kind.HELD]
        reply = await self._calls.beat(
            self.redis,
            told,
            now + GIVEN_UP_S,
            data=self._data,
            fresh=uuid.uuid4().hex,
            seen=self.book.seen,
            merge=merge,
        )
        if not reply:
            raise TimeoutError("it answered late")
        self._offset = float(reply[0]) - self.clock()
        data = reply[2].decode()
        if merge or data == self._data:
            self.book.told_all(told, self.now())
        return int(reply[1]), data

    def _count(self, gateways: int) -> None:
        now = self.clock()
        if self.lost:
            self.lost = False
            self._back = now
            logger.info("state is shared by %d gateways", gateways)
        # When the server has just come back, the others may not have said so yet.
        settled = now - self._back > LEASE_S
        self.book.gateways = gateways if settled else max(gateways, self.book.gateways)


def _said(why: Exception | str) -> str:
    return why if isinstance(why, str) else type(why).__name__
