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
import dataclasses
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.admission.meters import Charge, Kind, Meter, Verdict, judge, moved, used
from gateway.state.scripts import BEAT, GIVE, TAKE

logger = logging.getLogger(__name__)

Value = str | int | float

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
    gateways: int = 1  # that were alive at the last beat
    _offset: float = field(default_factory=lambda: time.time() - time.monotonic())
    _meters: dict[str, Meter] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)  # the server's numbers
    _own: dict[str, float] = field(default_factory=dict)  # taken alone, times the gateways
    _held: dict[str, float] = field(default_factory=dict)
    _trips: list[_Trip] = field(default_factory=list)
    _gives: list[Charge] = field(default_factory=list)
    _some: asyncio.Event = field(default_factory=asyncio.Event)
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    _sent: float | None = None  # when the batch that is under way was
    _data: str = ""  # the name of the server's data
    _beat_due: float = 0.0
    _over: bool = False
    _back: float = field(default=0.0)  # when the server was last found again

    def now(self) -> float:
        return self._offset + self.clock()

    # What the line calls.

    async def take(self, charges: Sequence[Charge]) -> Verdict:
        if self.lost:
            return self._alone(charges)
        trip = _Trip(charges, asyncio.get_running_loop().create_future())
        self._trips.append(trip)
        self._some.set()
        self._urgent.set()
        try:
            async with asyncio.timeout(self.deadline_s):
                return await asyncio.shield(trip.answer)
        except TimeoutError:
            if self._sent is not None and self.clock() - self._sent > PATIENCE_S:
                self._lose("it does not answer")
            if not trip.answer.done():
                trip.alone = self._alone(charges)
            return trip.alone or trip.answer.result()
        except asyncio.CancelledError:
            if trip.answer.done():
                self.give(_of(charges, [-a for a in trip.answer.result().granted]))
            trip.left = True
            raise

    def give(self, charges: Sequence[Charge]) -> None:
        self._hold(charges, [charge.amount for charge in charges])
        if self.lost:
            self._keep(charges)
        else:
            self._gives.extend(charges)
            self._some.set()

    # Decided here.

    def _alone(self, charges: Sequence[Charge]) -> Verdict:
        now, share = self.now(), self.gateways
        for index, charge in enumerate(charges):
            if charge.meter.kind in self.closed and not charge.at_most:
                none = (0.0,) * len(charges)
                return Verdict(none, none, now, index, PROBE_S, alone=True)
        scaled = [dataclasses.replace(c, amount=c.amount * share) for c in charges]
        numbers = {c.meter.key: self._combined(c.meter, now) for c in charges}
        verdict = judge(scaled, numbers, now)
        granted = tuple(
            0.0 if c.meter.kind in self.closed else amount / share
            for c, amount in zip(charges, verdict.granted, strict=True)
        )
        if verdict.refused_by is None:
            self._hold(charges, granted)
            self._keep(_of(charges, granted))
        left = tuple(room / share for room in verdict.left)
        return dataclasses.replace(verdict, granted=granted, left=left, alone=True)

    def _combined(self, meter: Meter, now: float) -> float:
        """The number as this gateway must take it to be: what was last seen, and its own since."""
        if meter.kind is Kind.HELD:
            return self._held.get(meter.key, 0.0) * self.gateways
        seen, own = self._seen.get(meter.key, 0.0), self._own.get(meter.key, 0.0)
        if meter.kind is Kind.SPEND:
            return seen + own
        return max(seen, now) + max(0.0, own - now)

    def _keep(self, charges: Sequence[Charge], sign: int = 1) -> None:
        """Taken, and not told to the server yet."""
        now = self.now()
        for charge in charges:
            meter = charge.meter
            if meter.kind is not Kind.HELD:
                self._meters[meter.key] = meter
                amount = sign * charge.amount * self.gateways
                number = self._own.get(meter.key, 0.0)
                self._own[meter.key] = (
                    number + amount
                    if meter.kind is Kind.SPEND  # below zero: more was given back than taken
                    else moved(meter, number, amount, now)
                )

    def _hold(self, charges: Sequence[Charge], amounts: Sequence[float]) -> None:
        for charge, amount in zip(charges, amounts, strict=True):
            key = charge.meter.key
            if charge.meter.kind is Kind.HELD:
                self._meters[key] = charge.meter
                self._held[key] = max(0.0, self._held.get(key, 0.0) + amount)

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
        summed = _summed(gives)
        if summed:
            self._call(pipe, GIVE, summed)
        for trip in trips:
            self._call(pipe, TAKE, trip.charges)
        try:
            replies = await pipe.execute()
        except BaseException:
            self._keep(summed)
            raise
        if summed and not replies[0]:
            self._keep(summed)
        return [
            self._verdict(trip.charges, reply) if reply else None
            for trip, reply in zip(trips, replies[bool(summed) :], strict=True)
        ]

    def _verdict(self, charges: Sequence[Charge], reply: Sequence[bytes]) -> Verdict:
        now, *numbers = map(float, reply)
        self._offset = now - self.clock()
        before = {c.meter.key: n for c, n in zip(charges, numbers, strict=True)}
        verdict = judge(charges, before, now)
        for charge, number, granted in zip(charges, numbers, verdict.granted, strict=True):
            meter = charge.meter
            self._meters[meter.key] = meter
            if meter.kind is not Kind.HELD:
                self._seen[meter.key] = moved(meter, number, granted, now) if granted else number
        return verdict

    def _answered(self, trip: _Trip, verdict: Verdict | None) -> None:
        """`verdict` None: the server has not done it, or will not be heard of any more."""
        waiting = trip.alone is None and not trip.left
        if waiting and not trip.answer.done():
            if verdict is None:
                verdict = self._alone(trip.charges)
            else:
                self._hold(trip.charges, verdict.granted)
            trip.answer.set_result(verdict)
        elif verdict is not None:
            # What the server did is replaced by what was decided without it.
            decided = trip.alone.granted if trip.alone else (0.0,) * len(trip.charges)
            self._keep(_of(trip.charges, decided), sign=-1)
            more = (a - b for a, b in zip(decided, verdict.granted, strict=True))
            self._gives += [c for c in _of(trip.charges, list(more)) if c.amount]
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
        self._keep(gives)
        for trip in trips:
            self._answered(trip, None)

    async def _beat(self) -> None:
        """Tell the server that this gateway lives, and what it does not know."""
        self._forget(self.now())
        try:
            if self.lost:
                for text in (TAKE, GIVE, BEAT):
                    await self.redis.script_load(text)
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
        known = [self._known(meter, now) for meter in self._meters.values()]
        told = [c for c in known if merge or c.amount or c.meter.kind is Kind.HELD]
        beat: list[Value] = [self._data, uuid.uuid4().hex, int(merge), 0, 0, 0]
        reply = await self._call(self.redis, BEAT, told, beat)
        if not reply:
            raise TimeoutError("it answered late")
        self._offset = float(reply[0]) - self.clock()
        data = reply[2].decode()
        if merge or data == self._data:
            self._keep([c for c in told if c.meter.kind is not Kind.HELD], sign=-1)
            for charge in told:
                if charge.meter.kind is Kind.HELD and not self._held.get(charge.meter.key):
                    self._drop(charge.meter.key)
        return int(reply[1]), data

    def _count(self, gateways: int) -> None:
        now = self.clock()
        if self.lost:
            self.lost = False
            self._back = now
            logger.info("state is shared by %d gateways", gateways)
        # When the server has just come back, the others may not have said so yet.
        settled = now - self._back > LEASE_S
        self.gateways = gateways if settled else max(gateways, self.gateways)

    def _known(self, meter: Meter, now: float) -> Charge:
        if meter.kind is Kind.HELD:
            return Charge(meter, self._held.get(meter.key, 0.0))
        own = self._own.get(meter.key, 0.0)
        amount = own if meter.kind is Kind.SPEND else used(meter, own, now)
        return Charge(meter, amount / self.gateways)

    def _forget(self, now: float) -> None:
        """Numbers that say nothing any more."""
        for key, meter in list(self._meters.items()):
            newest = max(self._seen.get(key, 0.0), self._own.get(key, 0.0))
            if (meter.kind is Kind.SPEND and meter.ends + LEASE_S < now) or (
                meter.kind is Kind.RATE and newest < now
            ):
                self._drop(key)

    def _drop(self, key: str) -> None:
        del self._meters[key]
        for numbers in (self._seen, self._own, self._held):
            numbers.pop(key, None)

    def _call(
        self,
        server: Redis,
        script: str,
        charges: Sequence[Charge],
        beat: Sequence[Value] | None = None,
    ) -> Awaitable[list[bytes]]:
        """`beat`: the values that begin one."""
        keys = [f"{self.prefix}gateways"]
        values: list[Value] = [self.gateway, LEASE_S, self.now() + GIVEN_UP_S]
        if beat is not None:
            keys.append(f"{self.prefix}data")
            values += beat
        for charge in charges:
            meter = charge.meter
            keys.append(self.prefix + meter.key)
            last = int(charge.at_most) if beat is None else self._seen.get(meter.key, 0.0)
            values += [str(meter.kind), meter.limit, meter.window_s, meter.ends]
            values += [charge.amount, last]
        return server.evalsha(_sha(script), len(keys), *keys, *map(_exact, values))


@functools.cache
def _sha(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()  # its name, as Redis has it


def _of(charges: Sequence[Charge], amounts: Sequence[float]) -> list[Charge]:
    return [dataclasses.replace(c, amount=a) for c, a in zip(charges, amounts, strict=True)]


def _exact(value: Value) -> Value:
    return repr(value) if isinstance(value, float) else value


def _said(why: Exception | str) -> str:
    return why if isinstance(why, str) else type(why).__name__


def _summed(charges: Sequence[Charge]) -> list[Charge]:
    """One charge for each meter."""
    sums: dict[str, Charge] = {}
    for charge in charges:
        key = charge.meter.key
        before = sums[key].amount if key in sums else 0.0
        sums[key] = Charge(charge.meter, charge.amount + before)
    return list(sums.values())
