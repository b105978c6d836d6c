"""
Who comes next when every endpoint that could take a request is full.

Classes first: interactive before standard before batch. Within a class tenants share by weight:
start-time fair queueing (Goyal, Vin and Cheng 1996), where a request starts at the virtual time at
which its tenant's last one would have ended, had each tenant a line of its own. A place that an
endpoint keeps from one tenant goes to the next in order of another. The queue is
bounded and knows how fast it moves: who could not be served within its class's patience is refused
at once and told when to come back, and the last of the lowest class makes way for a better one.

An endpoint that gets room is promised to one request, which then decides anew: meanwhile nobody
else may have that room, so newcomers do not overtake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain import CLASSES
from gateway.errors import Overloaded

RECHECK_S = 1.0
"""Endpoints come, go and change without a word to the queue: decide anew at least so often."""

PACE, LATELY_S = 32, 30.0
"""So many turns, none older than this, tell how fast the queue moves."""

NO_PLACE = "all endpoints are full, and so is the queue before them"


class Room(Protocol):
    """An endpoint, as far as the queue knows it."""

    def full(self, tenant: str, now: float) -> bool: ...

    def promise(self, tenant: str, count: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    size: int
    patience_s: Mapping[str, float]  # by class


@dataclass(eq=False, slots=True)
class Turn:
    """One request's place. `endpoints`: whose room would do. If it has not started by the end, it
    brought no work: who is sent away often has not had a share by that."""

    queue: Queue
    tenant: str
    request_class: str
    start: float  # virtual
    arrived: float
    work: float  # likewise
    started: bool = False
    endpoints: Collection[str] = ()
    called: asyncio.Future[str | None] | None = None

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.started:
            self.queue.left(self)

    @property
    def order(self) -> tuple[int, float, float]:
        return CLASSES.index(self.request_class), self.start, self.arrived


@dataclass
class Queue:
    rooms: Mapping[str, Room]
    limits: QueueLimits  # a reload of the config puts others here
    clock: Callable[[], float]
    weights: Mapping[str, float] = field(default_factory=dict)  # by tenant; others have 1
    _waiting: list[Turn] = field(default_factory=list)
    _virtual: float = 0.0
    _ends: dict[str, float] = field(default_factory=dict)  # by tenant: its last request's
    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=PACE))

    def __len__(self) -> int:
        return len(self._waiting)

    def turn(self, tenant: str, request_class: str, tokens: float) -> Turn:
        """A request's place among the others, by the work that it brings."""
        if len(self._ends) > 10_000:  # whoever is not ahead of the virtual time has no history
            self._ends = {t: end for t, end in self._ends.items() if end > self._virtual}
        start = max(self._virtual, self._ends.get(tenant, 0.0))
        work = max(1.0, tokens) / self.weights.get(tenant, 1.0)
        self._ends[tenant] = start + work
        return Turn(self, tenant, request_class, start, self.clock(), work)

    def left(self, turn: Turn) -> None:
        """It went before it had started."""
        if turn.tenant in self._ends:
            self._ends[turn.tenant] -= turn.work

    def started(self, turn: Turn) -> None:
        turn.started = True
        self._virtual = max(self._virtual, turn.start)

    async def wait(self, turn: Turn, endpoints: Collection[str]) -> None:
        """Until one of `endpoints` may have room; the caller decides at once, and may come back.

        Raises Overloaded: no place, or none in time.
        """
        turn.endpoints = endpoints
        patience = self.limits.patience_s[turn.request_class]
        left = turn.arrived + patience - self.clock()
        expected = self._expected_s(turn)
        in_time = f"room within the {patience:g} s that {turn.request_class} requests wait"
        if left <= 0:
            raise self._overloaded(turn, f"no endpoint had {in_time}")
        if expected is not None and expected > left:
            none = f"all endpoints are full, and none is expected to have {in_time}"
            raise self._overloaded(turn, none)
        if len(self._waiting) >= self.limits.size:
            self._make_way(turn)
        turn.called = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(min(left, RECHECK_S)):
                await turn.called
        except TimeoutError:
            pass
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if turn.called.done() and not turn.called.cancelled() and not turn.called.exception():
                self._keep_promise(turn, turn.called.result())

    def _keep_promise(self, turn: Turn, endpoint: str | None) -> None:
        """The room is the caller's now, who takes it before anyone else runs, or it is free."""
        if endpoint is not None:
            self.rooms[endpoint].promise(turn.tenant, -1)
            asyncio.get_running_loop().call_soon(self.freed)

    def freed(self) -> None:
        """An endpoint may have room: call whoever comes next."""
        while (called := self._next()) is not None:
            turn, endpoint = called
            self._waiting.remove(turn)
            self._turns.append(self.clock())
            assert turn.called is not None
            if not turn.called.done():  # else it left this very moment
                self.rooms[endpoint].promise(turn.tenant)
                turn.called.set_result(endpoint)

    def _next(self) -> tuple[Turn, str] | None:
        """Who is first of those that an endpoint has room for, and that endpoint."""
        open_: dict[str, set[str]] = {}  # by tenant
        first: tuple[Turn, str] | None = None
        now = self.clock()
        for turn in self._waiting:
            if first is not None and first[0].order <= turn.order:
                continue
            if turn.tenant not in open_:
                open_[turn.tenant] = {
                    name for name, room in self.rooms.items() if not room.full(turn.tenant, now)
                }
            endpoint = next((e for e in turn.endpoints if e in open_[turn.tenant]), None)
            if endpoint is not None:
                first = turn, endpoint
        return first

    def _make_way(self, turn: Turn) -> None:
        last = max(self._waiting, key=lambda t: t.order, default=None)
        if last is None or last.order <= turn.order:
            raise self._overloaded(turn, NO_PLACE)
        self._waiting.remove(last)
        assert last.called is not None
        if not last.called.done():
            last.called.set_exception(self._overloaded(last, NO_PLACE))

    def _overloaded(self, turn: Turn, why: str) -> Overloaded:
        return Overloaded(why, retry_after_s=self._expected_s(turn) or 1.0)

    def _expected_s(self, turn: Turn) -> float | None:
        """By how fast the queue has moved lately; None: it has not yet."""
        while self._turns and self._turns[0] < self.clock() - LATELY_S:
            self._turns.popleft()
        if len(self._turns) < 4:
            return None
        seconds = (self.clock() - self._turns[0]) / (len(self._turns) - 1)
        return seconds * (1 + sum(t.order < turn.order for t in self._waiting))
