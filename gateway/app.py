"""The composition root: the one file that chooses classes and knows every room."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.admission.keys import Key, KeyRing
from gateway.config import Config
from gateway.config.prices import price_doubts
from gateway.config.tree import Endpoint as EndpointConfig
from gateway.dispatch import Dispatcher, Observer
from gateway.domain import Operation
from gateway.errors import GatewayError
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.fleet.watch import watch
from gateway.front.body import BodyLimits
from gateway.front.completions import Completions
from gateway.front.health import Health
from gateway.front.models import Models
from gateway.front.request_id import RequestId
from gateway.front.rescue import no_such_route, rescue
from gateway.providers.base import Provider
from gateway.providers.openai_compatible import OpenAICompatible, Timeouts
from gateway.providers.replica import Replica
from gateway.providers.transport import AiohttpTransport
from gateway.supervisor import Supervisor, replica_command, threads_per_replica
from gateway.telemetry.log import ExchangeLog
from routing_policies.base import Price
from routing_policies.policy import Policy

logger = logging.getLogger("gateway")

Clock = Callable[[], float]


@dataclass
class Gateway:
    """Everything that lives as long as one gateway process."""

    config: Config
    policy: Policy
    on_ready: Callable[[Sequence[str]], None] = lambda models: None
    observers: Sequence[Observer] = ()
    clock: Clock = time.monotonic
    random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        for name, endpoint in self.config.endpoints.items():
            if endpoint.missing:
                logger.warning("%s is left out: no %s in the environment", name, endpoint.missing)
            for doubt in price_doubts(endpoint, date.today()):
                logger.warning("%s: %s", name, doubt)
        self.fleet = Fleet(self._endpoints(), PlacementIndex(), self.clock)
        self.dispatcher = Dispatcher(
            self.fleet,
            self.policy,
            [self.fleet, ExchangeLog(), *self.observers],
            self.clock,
            self.random,
        )
        # Salts and prefix keys need only outlive what they name: this process's knowledge.
        self._secret = secrets.token_bytes(32)

    def asgi(self) -> Starlette:
        server = self.config.server
        ring = KeyRing(
            Key(key.name, key.tenant, key.key.value, _all_or(key.models))
            for key in self.config.keys
        )
        limits = BodyLimits(server.max_body, server.body_timeout)
        models = Models(ring, self.fleet, created=int(time.time()))
        health = Health(self.fleet)

        def completions(operation: Operation) -> Route:
            endpoint = Completions(
                operation, ring, self.dispatcher, limits, self._secret, self.clock
            )
            return Route(f"/v1/{operation}", endpoint, methods=["POST"])

        return Starlette(
            routes=[
                completions(Operation.CHAT),
                completions(Operation.COMPLETION),
                Route("/v1/models", models.every),
                Route("/v1/models/{name:path}", models.one),
                Route("/health", health.alive),
                Route("/ready", health.ready),
            ],
            middleware=[
                Middleware(RequestId),  # names the request; everything below may log the name
            ],
            exception_handlers={GatewayError: rescue, HTTPException: no_such_route},
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            transport = AiohttpTransport()
            stack.push_async_callback(transport.aclose)
            for name, endpoint in self._usable().items():
                self.fleet.endpoints[name].up(_provider(endpoint, transport))
            watching = asyncio.create_task(watch(self.fleet, self.clock))
            stack.callback(watching.cancel)
            local = LocalReplicas(self, transport)
            await stack.enter_async_context(Supervisor(local.commands(), local))
            if not local.awaited:
                self.on_ready(self.fleet.models())
            yield

    def _endpoints(self) -> list[Endpoint]:
        local = [
            Endpoint(name, frozenset({replicas.serves or name.rpartition("-")[0]}), dedicated=True)
            for name, replicas in self.config.replica_names().items()
        ]
        configured = [
            Endpoint(
                name,
                frozenset(endpoint.models),
                endpoint.context_length,
                dedicated=endpoint.dedicated or endpoint.dialect == "replica",
                prices={
                    model: Price(price.input, price.output, price.cached, price.cache_write)
                    for model, price in endpoint.prices.items()
                },
            )
            for name, endpoint in self._usable().items()
        ]
        return [*local, *configured]

    def _usable(self) -> Mapping[str, EndpointConfig]:
        return {n: e for n, e in self.config.endpoints.items() if e.missing is None}


def _all_or(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _provider(endpoint: EndpointConfig, transport: AiohttpTransport) -> Provider:
    timeouts = Timeouts(
        endpoint.timeouts.connect,
        endpoint.timeouts.first_event,
        endpoint.timeouts.between_events,
    )
    api_key = endpoint.api_key.value if endpoint.api_key else None
    url = endpoint.base_url.rstrip("/")
    if endpoint.dialect == "replica":
        secret = endpoint.secret.value if endpoint.secret else ""
        return Replica(transport, url, endpoint.models, api_key, timeouts, secret)
    return OpenAICompatible(transport, url, endpoint.models, api_key, timeouts)


class LocalReplicas:
    """Makes endpoints of the supervisor's processes as they come and go."""

    def __init__(self, gateway: Gateway, transport: AiohttpTransport) -> None:
        self._gateway = gateway
        self._transport = transport
        self._steps: dict[str, str] = {}
        self.awaited = set(gateway.config.replica_names())  # not heard of yet

    def commands(self) -> dict[str, Sequence[str]]:
        names = self._gateway.config.replica_names()
        threads = threads_per_replica(os.cpu_count() or 1, len(names))
        return {
            name: replica_command(
                replicas.model,
                *("--name", self._model(name)),
                *("--kv-tokens", str(replicas.kv_tokens)),
                *("--threads", str(replicas.threads or threads)),
            )
            for name, replicas in names.items()
        }

    def replica_progress(self, name: str, step: str, done: float) -> None:
        if self._steps.get(name) != step:
            self._steps[name] = step
            logger.info("%s: %s (%d %%)", name, step, round(done * 100))

    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None:
        logger.info("%s: ready", name)
        model = self._model(name)
        provider = Replica(self._transport, f"{url}/v1", {model: model}, secret=secret)
        self._gateway.fleet.endpoints[name].up(provider)
        self._heard_of(name)

    def replica_gone(self, name: str, reason: str) -> None:
        logger.info("%s: gone: %s", name, reason)
        self._gateway.fleet.endpoints[name].gone(reason)

    def replica_failed(self, name: str, error: str) -> None:
        logger.error("%s: cannot start: %s", name, error)
        self._heard_of(name)

    def _model(self, name: str) -> str:
        (model,) = self._gateway.fleet.endpoints[name].models
        return model

    def _heard_of(self, name: str) -> None:
        """Once every replica has come up or given up for the first time, say so."""
        if name in self.awaited:
            self.awaited.remove(name)
            if not self.awaited and self._gateway.fleet.ready():
                self._gateway.on_ready(self._gateway.fleet.models())
