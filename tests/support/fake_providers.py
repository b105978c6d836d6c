"""Providers without a network, that fail as they are told; and a dispatcher over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.admission.limits import Limiter
from gateway.admission.queue import Queue, QueueLimits
from gateway.admission.response_cache import CacheLimits, ResponseCache
from gateway.dispatch import Dispatcher
from gateway.domain import CLASSES, Event, InferenceRequest, Outcome, Principal, Usage
from gateway.errors import GatewayError, UpstreamBroken
from gateway.fleet.endpoint import Endpoint, Lease
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.pacer import Pacers
from gateway.providers.base import Continuation
from gateway.rules import always
from gateway.state.memory import MemoryMeters
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from tests.support.providers import Silent
from tests.support.requests import chat

ANSWER = ("It ", "was ", "a ", "dark ", "night", ".")
PACE_S = 0.1


@dataclass
class Fake(Silent):
    """Gives `ANSWER` token by token, unless told otherwise."""

    clock: Callable[[], float]
    continuation: Continuation | None = Continuation.TOKEN_IDS  # type: ignore[assignment]
    refuses: GatewayError | None = None  # before the first event
    breaks_at: int | None = None  # before this token, where it comes to it
    first_s: float = 0.5
    asked: list[tuple[float, str, InferenceRequest]] = field(default_factory=list)
    open_now: int = 0

    @asynccontextmanager
    async def _opened(
        self, request: InferenceRequest, request_id: str
    ) -> AsyncIterator[AsyncIterator[Event]]:
        self.asked.append((self.clock(), request_id, request))
        self.open_now += 1
        try:
            await asyncio.sleep(self.first_s)
            if self.refuses is not None:
                raise self.refuses
            async with aclosing(self._events(request)) as events:
                yield events
        finally:
            self.open_now -= 1

    def open(self, request: InferenceRequest, request_id: str) -> Any:
        return self._opened(request, request_id)

    async def _events(self, request: InferenceRequest) -> AsyncGenerator[Event]:
        exact = self.continuation is Continuation.TOKEN_IDS
        begun = 0
        usage = Usage(10, len(ANSWER), 0)
        if request.delivered is not None:
            begun = request.delivered.tokens
            assert request.delivered.text == "".join(ANSWER[:begun])
            if exact:
                assert request.delivered.token_ids == tuple(range(begun))
            else:  # as vLLM continues a message: what was delivered is a prompt to it
                usage = Usage(10 + begun, len(ANSWER) - begun, 0)
        if not request.stream:
            if self.breaks_at is not None:
                raise UpstreamBroken("told to")
            message = {"role": "assistant", "content": "".join(ANSWER)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            yield Event({"choices": [choice], "usage": {}}, usage, None, finishes=True)
            return
        for index in range(begun, len(ANSWER)):
            if index == self.breaks_at:
                raise UpstreamBroken("told to")
            await asyncio.sleep(PACE_S)
            finish = "stop" if index == len(ANSWER) - 1 else None
            delta = {"content": ANSWER[index]}
            if index == 0 or (index == begun and not exact):
                delta["role"] = "assistant"
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            yield Event(
                {"choices": [choice]}, None, None, finish is not None, (index,) if exact else None
            )
        yield Event({"choices": [], "usage": {}}, usage, None, finishes=False)


@dataclass(eq=False)
class Watched(Endpoint):
    """Tells of each lease whether its endpoint was ejected, before it began."""

    leased: list[bool] = field(default_factory=list)
    others: Callable[[str], bool] = lambda name: False  # somebody else could be asked

    def lease(
        self, uncached_tokens: int, now: float, cached_tokens: int = 0, tenant: str = "default"
    ) -> Lease:
        if self.breaker.ejected(now):
            assert not self.others(self.name), "an ejected endpoint gets probes only"
        return super().lease(uncached_tokens, now, cached_tokens, tenant)


@dataclass
class Client:
    """What one client saw."""

    outcome: Outcome
    text: str = ""
    token_ids: tuple[int, ...] = ()
    roles: int = 0
    finishes: int = 0
    usage: Usage | None = None
    error: GatewayError | None = None
    settled: int = 0


class World:
    """A dispatcher over fakes called e0, e1, …; `loop` has its time."""

    def __init__(self, clock: Callable[[], float], count: int, **policy: Any) -> None:
        self.clock = clock
        draws = random.Random(7)
        self.fakes = {f"e{i}": Fake(clock) for i in range(count)}
        endpoints = [
            Watched(name, frozenset("m"), provider=fake, draw=draws.random, dedicated=True)
            for name, fake in self.fakes.items()
        ]
        for endpoint in endpoints:
            endpoint.others = self.others
        self.fleet = Fleet(endpoints, PlacementIndex(), clock)
        spec = {
            "filters": ["serves_model", "healthy"],
            "minimize": {"in_flight": 1},
            "pick": "lowest",
        }
        rules = always(build_policy("p", {**spec, **policy}, Catalog.load()))
        pacers = Pacers(clock)
        queue = Queue(self.fleet.endpoints, QueueLimits(100, dict.fromkeys(CLASSES, 30.0)), clock)
        for endpoint in endpoints:
            endpoint.freed = queue.freed
        self.dispatcher = Dispatcher(
            self.fleet,
            rules,
            pacers,
            Limiter(MemoryMeters(clock)),
            queue,
            ResponseCache(CacheLimits(0, 0.0), clock),
            [self.fleet, self],
            clock,
            draws,
        )
        self.clients: dict[str, Client] = {}
        self.principal = Principal("acme", "key")

    def others(self, name: str) -> bool:
        now = self.clock()
        return any(
            e.unavailable("m", now) is None for e in self.fleet.endpoints.values() if e.name != name
        )

    def settled(self, outcome: Outcome) -> None:
        self.clients[outcome.request_id].settled += 1

    async def ask(
        self, *, stream: bool = True, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Client:
        request = chat("hi", stream=stream, **fields)
        outcome = Outcome(f"r{len(self.clients)}", self.principal, self.clock())
        client = self.clients[outcome.request_id] = Client(outcome)

        async def see(events: AsyncIterator[Event]) -> None:
            async for event in events:
                self._see(client, event)

        try:
            await self.dispatcher.answer(request, outcome, headers or {}, see)
        except GatewayError as error:
            client.error = error
        finally:
            self.dispatcher.settle(outcome)
        return client

    def _see(self, client: Client, event: Event) -> None:
        for choice in event.payload["choices"]:
            said = choice.get("delta") or choice["message"]
            client.text += said.get("content") or ""
            client.roles += "role" in said
            client.finishes += choice["finish_reason"] is not None
        client.usage = event.usage or client.usage
        client.token_ids += event.token_ids or ()
