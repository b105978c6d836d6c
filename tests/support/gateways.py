"""A whole gateway over real sockets, in front of upstreams that tests control."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI
from starlette.types import ASGIApp

from gateway.app import Gateway
from gateway.config import Config
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Endpoint, ModelMap
from gateway.domain import Outcome
from gateway.front.server import ConnectionLimits
from gateway.reload import Source
from gateway.rules import Rules, always
from routing_policies.catalog import Catalog
from tests.support.serving import serving


@dataclass
class Settled:
    """Every exchange that ended, in order."""

    outcomes: list[Outcome] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def settled(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._more.set()

    async def wait_for(self, count: int) -> list[Outcome]:
        async with asyncio.timeout(30):
            while len(self.outcomes) < count:
                self._more.clear()
                await self._more.wait()
        return self.outcomes


@dataclass
class Running:
    url: str
    gateway: Gateway
    settled: Settled
    sdk: AsyncOpenAI

    async def reached(self) -> None:
        """Somebody was asked and has answered."""
        async with asyncio.timeout(30):
            while not self.gateway.fleet.ready():
                await asyncio.sleep(0.001)
                assert self.gateway.fleet.endpoints

    def in_flight(self) -> dict[str, int]:
        return {name: e.in_flight for name, e in self.gateway.fleet.endpoints.items()}


class FirstInOrder(random.Random):
    """Ties go to the endpoint that the config names first."""

    def random(self) -> float:
        return 0.0


@asynccontextmanager
async def gateway(
    *upstreams: ASGIApp | str,
    policy: str = "cache_aware",
    rules: Rules | None = None,
    source: Source | None = None,
    models: tuple[str, ...] = ("m",),
    api_key: str = "unused",
    endpoint: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    limits: ConnectionLimits | None = None,
    drain_s: float = 1.0,
    draws: random.Random | None = None,
    **config: Any,
) -> AsyncIterator[Running]:
    """Endpoints are called u0, u1, … in the order of `upstreams`, apps or base URLs; what the
    config says of them is the same for all, or listed."""
    async with AsyncExitStack() as stack:
        endpoints: dict[str, Endpoint] = dict(config.pop("endpoints", {}))
        options = (
            [endpoint or {}] * len(upstreams) if isinstance(endpoint, dict | None) else endpoint
        )
        for index, upstream in enumerate(upstreams):
            if not isinstance(upstream, str):
                upstream = f"{await stack.enter_async_context(serving(upstream))}/v1"
            names = ModelMap({name: f"theirs-{name}" for name in models})
            endpoints[f"u{index}"] = Endpoint(upstream, names, **options[index])
        settled = Settled()
        whole = Gateway(
            Config(endpoints=endpoints, **config),
            rules or always(load_policy(PACKAGED / f"{policy}.yaml", Catalog.load())),
            observers=[settled],
            random=draws or FirstInOrder(),
            source=source,
        )
        url = await stack.enter_async_context(serving(whole.asgi(), limits, drain_s, whole.drain))
        sdk = await stack.enter_async_context(
            AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=10)
        )
        yield Running(url, whole, settled, sdk)
