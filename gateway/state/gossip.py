"""
What gateways tell each other: where prompts were placed, and how busy each keeps the endpoints.

Nothing on a request's path asks the server: every gateway tells what is new within `TELL_S`, hears
what the others tell, and decides on what it has heard. A gateway that falls silent is forgotten
with all that it had in flight. Times travel as ages, since clocks that never jump share no origin;
what a newcomer hears of before its time is older by what the server's clock says.
While the server is lost, every gateway knows what it knew and what it does itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.domain import Json, PrefixKey
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.load import IDLE, Load
from gateway.fleet.placement import PlacementIndex

logger = logging.getLogger(__name__)

TELL_S = 0.02
BEAT_S = 1.0  # even if there is nothing to tell
LEASE_S = 10.0  # a gateway that was silent for so long holds nothing
HEAR_MS = 200  # less than the client's timeout
LENGTH = 20_000  # messages that a new gateway may still hear
AGAIN_S = 0.2

Heard = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]
"""Streams by name, each with its messages by id."""

Loads = Mapping[str, tuple[int, int, Mapping[str, int]]]
"""By endpoint: requests, uncached tokens that wait, and the requests of each tenant."""

LOST = (RedisError, OSError, TimeoutError)


class SharedIndex(PlacementIndex):
    """An index whose placements on `shared` endpoints are told to the other gateways."""

    def __init__(self, shared: Iterable[str], clock: Callable[[], float]) -> None:
        super().__init__()
        self.news: list[tuple[float, list[object]]] = []
        self._shared = frozenset(shared)
        self._clock = clock

    def place(
        self,
        endpoint: str,
        keys: Sequence[PrefixKey],
        now: float,
        prompt_tokens: int | None = None,
    ) -> None:
        super().place(endpoint, keys, now, prompt_tokens)
        if endpoint in self._shared and keys:
            told = [[key.digest.hex(), key.size] for key in keys]
            self.news.append((now, ["place", endpoint, told, prompt_tokens]))

    def forget(self, endpoint: str, keys: Sequence[PrefixKey], beyond: int) -> None:
        super().forget(endpoint, keys, beyond)
        void = [[key.digest.hex(), key.size] for key in keys if key.size > beyond]
        if endpoint in self._shared and void:
            self.news.append((self._clock(), ["forget", endpoint, void]))

    def expire(self, endpoint: str, before: float) -> None:
        super().expire(endpoint, before)
        if endpoint in self._shared:
            self.news.append((before, ["expire", endpoint]))

    def hear(self, news: Sequence[Json], ago_s: float = 0.0) -> None:
        """What another gateway told, so long ago. Raises ValueError, TypeError or KeyError for
        nonsense."""
        for item in news:
            when = self._clock() - ago_s - float(item["age"])
            match item["what"]:
                case ["place", str(endpoint), list(told), int() | None as tokens]:
                    super().place(endpoint, _keys(told), when, tokens)
                case ["forget", str(endpoint), list(told)]:
                    super().forget(endpoint, _keys(told), beyond=0)
                case ["expire", str(endpoint)]:
                    super().expire(endpoint, when)


def _keys(told: Iterable[tuple[str, int]]) -> list[PrefixKey]:
    return [PrefixKey(bytes.fromhex(digest), size) for digest, size in told]


@dataclass(eq=False)
class Gossip:
    redis: Redis
    gateway: str
    endpoints: Mapping[str, Endpoint]  # those that are the same for every gateway
    index: SharedIndex
    clock: Callable[[], float]
    heard: Callable[[], None] = lambda: None  # called when others' loads have changed
    stream: str = "{gateway}:gossip"
    _others: dict[str, tuple[float, Loads]] = field(default_factory=dict)  # when last heard
    _last: bytes = b"0-0"  # heard, by the id that the server's clock gave it
    _told: Loads = field(default_factory=dict)
    _told_at: float = float("-inf")
    closed: bool = False  # while the server is lost, endpoints that may be full take nothing
    _lost: bool = False
    _over: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._keep(act)) for act in (self._tell, self._hear)]
        try:
            yield
        finally:
            self._over = True  # a client may take a cancellation for its own timeout
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(*LOST):
                await self._say({}, [])  # nothing is in flight here any more

    async def _keep(self, act: Callable[[], Awaitable[None]]) -> None:
        while not self._over:
            try:
                await act()
            except LOST:
                self._lose()
                self._forget_silent()
                await asyncio.sleep(AGAIN_S)

    def _lose(self) -> None:
        """What the others have in flight is not known any more: each fills its share."""
        if self._lost:
            return
        self._lost = True
        for endpoint in self.endpoints.values():
            endpoint.share = 0.0 if self.closed else 1 / (1 + len(self._others))
            endpoint.heard(IDLE, {})

    def _found(self) -> None:
        if self._lost:
            self._lost = False
            for endpoint in self.endpoints.values():
                endpoint.share = 1.0
            self._add_up()

    async def _tell(self) -> None:
        while not self._over:
            await asyncio.sleep(TELL_S)
            self._forget_silent()
            loads = {
                name: (endpoint.in_flight, endpoint.queued_tokens, endpoint.held_by_tenant())
                for name, endpoint in self.endpoints.items()
                if endpoint.in_flight
            }
            news, self.index.news = self.index.news[-LENGTH:], []
            if news or loads != self._told or self.clock() - self._told_at > BEAT_S:
                await self._say(loads, news)
                self._told, self._told_at = loads, self.clock()

    async def _say(self, loads: Loads, news: Sequence[tuple[float, list[object]]]) -> None:
        now = self.clock()
        aged = [{"age": now - when, "what": what} for when, what in news]
        message = json.dumps({"loads": loads, "news": aged}, separators=(",", ":"))
        await self.redis.xadd(
            self.stream, {"from": self.gateway, "told": message}, maxlen=LENGTH, approximate=True
        )

    async def _hear(self) -> None:
        began_s, _ = await self.redis.time()
        while not self._over:
            heard = await self.redis.xread({self.stream: self._last}, count=500, block=HEAR_MS)
            self._found()
            for _, messages in cast("Heard", heard or []):
                for id, message in messages:
                    self._last = id  # nothing is heard twice, whatever happens to the connection
                    if message[b"from"].decode() != self.gateway:
                        ago_s = max(0.0, began_s - int(id.partition(b"-")[0]) / 1000)
                        self._take_in(message[b"from"].decode(), message[b"told"], ago_s)

    def _take_in(self, gateway: str, raw: bytes, ago_s: float) -> None:
        try:
            told = json.loads(raw)
            loads = {name: _load(*said) for name, said in told["loads"].items()}
            self.index.hear(told["news"], ago_s)
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("another gateway's message makes no sense")
            return
        self._others[gateway] = (self.clock() - ago_s, loads)
        self._forget_silent()
        self._add_up()

    def _forget_silent(self) -> None:
        oldest = self.clock() - LEASE_S
        silent = [name for name, (heard, _) in self._others.items() if heard < oldest]
        for name in silent:
            del self._others[name]
        if silent:
            self._add_up()

    def _add_up(self) -> None:
        if self._lost:
            return
        for name, endpoint in self.endpoints.items():
            loads = [loads[name] for _, loads in self._others.values() if name in loads]
            tenants: Counter[str] = Counter()
            for load in loads:
                tenants.update(load[2])
            whole = Load(sum(load[0] for load in loads), sum(load[1] for load in loads))
            endpoint.heard(whole, tenants)
        self.heard()


def _load(
    in_flight: int, queued_tokens: int, tenants: Mapping[str, int] | None = None
) -> tuple[int, int, Mapping[str, int]]:
    """As told; by gateways of an earlier version without the tenants. Raises ValueError."""
    whose = {} if tenants is None else dict(tenants.items())
    if any(type(count) is not int for count in (in_flight, queued_tokens, *whose.values())):
        raise ValueError("loads are counts")
    return in_flight, queued_tokens, whose


async def shared_secret(redis: Redis, own: bytes, name: str = "{gateway}:secret") -> bytes:
    """What keys salts and prefix keys, the same for all; `own` where there is none to be had."""
    try:
        await redis.set(name, own, nx=True)
        return cast("bytes | None", await redis.get(name)) or own
    except LOST:
        return own
