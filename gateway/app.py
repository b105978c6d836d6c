"""The composition root: the one file that chooses classes and knows every room."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway import configured
from gateway.admission.key_store import KeyFile, KeyStore, MadeKeys, watch_keys
from gateway.admission.keys import Key, KeyRing
from gateway.admission.limits import Limiter
from gateway.admission.meters import Kind
from gateway.admission.queue import Queue
from gateway.admission.response_cache import ResponseCache
from gateway.beside import beside
from gateway.config import Config, ConfigError
from gateway.config.changes import needs_restart
from gateway.config.load import known_names
from gateway.dispatch import Dispatcher
from gateway.domain import Operation
from gateway.errors import GatewayError, UpstreamError
from gateway.filing import Filing
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.fleet.watch import watch
from gateway.front.admin import Admin
from gateway.front.api import Api, OpenAI
from gateway.front.count import Count
from gateway.front.drain import Drain
from gateway.front.entrance import Entrance
from gateway.front.health import Health
from gateway.front.in_flight import InFlight
from gateway.front.inference import Inference
from gateway.front.kept import ResponseStore
from gateway.front.kept_responses import KeptResponses
from gateway.front.loopback import LoopbackOnly
from gateway.front.messages import Messages
from gateway.front.models import Models
from gateway.front.rescue import counted, defect, no_such_route, rescue
from gateway.front.responses import Responses
from gateway.local_replicas import LocalReplicas, replica_commands
from gateway.observers import Observer
from gateway.pacer import Pacers
from gateway.providers.http1 import Http1Client
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.reload import Live, Source, watch_config
from gateway.rules import Rules
from gateway.seeing import Seeing
from gateway.state.connect import connect
from gateway.state.gossip import Gossip, SharedIndex, shared_secret
from gateway.state.keys import RedisKeys
from gateway.state.memory import MemoryMeters, steady_wall
from gateway.state.responses import Bounds, FileResponses, RedisResponses
from gateway.state.shared import SharedMeters
from gateway.supervisor import Supervisor, Watcher

logger = logging.getLogger("gateway")

SECRET_S = 2.0

Clock = Callable[[], float]
ReplicasElsewhere = Callable[[Watcher], AbstractAsyncContextManager[None]]
"""Tells the watcher of replicas that another process keeps."""


@dataclass
class Gateway:
    """Everything that lives as long as one gateway process."""

    config: Config
    rules: Rules
    on_ready: Callable[[str], None] = lambda model: None
    observers: Sequence[Observer] = ()
    clock: Clock = time.monotonic
    random: random.Random = field(default_factory=random.Random)
    source: Source | None = None  # where the config is read again when it changes
    state_url: str | None = None  # of a server for this gateway's workers; the config's goes first
    replicas_elsewhere: ReplicasElsewhere | None = None  # None: we start and keep them

    def __post_init__(self) -> None:
        for name, endpoint in self.config.endpoints.items():
            if endpoint.missing:
                logger.warning("%s is left out: no %s in the environment", name, endpoint.missing)
        configured.warn_of_doubts(self.config)
        self.live, self.in_flight = Live(), InFlight()
        self.drain = Drain()
        self._made_keys: Sequence[Key] = ()  # those of the store, when it was last read
        self._made_keys_known = False
        self.door = configured.door(self.config)
        self.shared = self._shared()
        shared_by_all = configured.usable(self.config).keys() | (
            self.config.replica_names() if self.replicas_elsewhere else ()
        )
        index = SharedIndex(shared_by_all, self.clock) if self.shared else PlacementIndex()
        self.fleet = Fleet(configured.endpoints(self.config, self.random.random), index, self.clock)
        self.gossip = self._gossip(index, shared_by_all)
        pacers = Pacers(self.clock)
        pacers.use(self.rules.policies)
        limiter = Limiter(self.shared or MemoryMeters(steady_wall()))
        queue = Queue(self.fleet.endpoints, configured.queue_limits(self.config), self.clock)
        for known in self.fleet.endpoints.values():
            known.freed = queue.freed
        if self.gossip is not None:
            self.gossip.heard = queue.freed
        self.dispatcher = Dispatcher(
            self.fleet,
            self.rules,
            pacers,
            limiter,
            queue,
            ResponseCache(configured.cache_limits(self.config), self.clock),
            [],
            self.clock,
            self.random,
            self.config.server.longest_exchange,
            tokenizers=configured.tokenizers(self.config),
        )
        self.seeing = Seeing(
            self.config,
            self.door,
            self.fleet,
            pacers,
            limiter,
            queue,
            self.live,
            lambda: self.dispatcher.rules,
            self.clock,
        )
        self.dispatcher.observers = [
            self.fleet,
            pacers,
            self.seeing.observer,
            *self.observers,
        ]
        self._set_limits()
        self.responses = Responses(
            self._response_store(), time.time, _number, self._speaks_responses
        )
        self.key_store = self._key_store()
        self._set_keys()
        self._drain_by_hand(self.config)
        self.filing = Filing(self.config.files, self.door, self.clock, self.random)
        self._said_ready = False

    def put_in_force(self, config: Config, rules: Rules) -> None:
        """What a changed config says, at once: nothing here waits. Endpoints, replicas and the
        server's address stay as they were at the start. Raises ConfigError."""
        if self.config.keys and not config.keys:  # it was not started to be open to everyone
            raise ConfigError(None, None, ("keys",), "to take away the last one takes a restart")
        for path in needs_restart(self.config, config):
            logger.warning("%s has changed, which takes effect after a restart", path)
        configured.warn_of_doubts(config)
        door = configured.door(config)
        self.door.limits = door.limits
        self.config = dataclasses.replace(
            self.config,
            keys=config.keys,
            tenants=config.tenants,
            queue=config.queue,
            cache=config.cache,
        )
        self.dispatcher.cache.limits = configured.cache_limits(config)
        self._set_limits()
        self._set_keys()
        self.dispatcher.rules = rules
        self.dispatcher.longest_s = config.server.longest_exchange
        self._drain_by_hand(config)
        self.dispatcher.pacers.use(rules.policies)
        for name in configured.usable(self.config).keys() & config.endpoints.keys():
            self.fleet.endpoints[name].tariffs = configured.tariffs(config.endpoints[name])

    def _drain_by_hand(self, config: Config) -> None:
        for name, endpoint in self.fleet.endpoints.items():
            endpoint.drained = name in config.drained

    def asgi(self) -> ASGIApp:
        local_only = not self.config.keys
        admin = Admin(self.door, self._manageable_keys())
        models = Models(self.door, self.fleet, int(time.time()), self.clock)
        health = Health(self.fleet, self.live, self.drain)
        messages = Messages(_number)
        refused = self.seeing.metrics.refused

        def inference(api: Api[Any], operation: Operation = Operation.CHAT) -> Inference:
            return Inference(
                api,
                operation,
                self.door,
                self.drain,
                self.dispatcher,
                self.clock,
                self.seeing.tracing,
                refused,
            )

        exchanges = {
            **{f"/v1/{each}": inference(OpenAI(each), each) for each in Operation},
            "/v1/responses": inference(self.responses),
            "/v1/messages": inference(messages),
        }
        app = Starlette(
            routes=[
                *(Route(path, each, methods=["POST"]) for path, each in exchanges.items()),
                *self._of_responses(),
                self._count(
                    "messages/count_tokens", messages, lambda tokens: {"input_tokens": tokens}
                ),
                Route("/v1/models", models.every),
                Route("/v1/models/{name:path}", models.one),
                *self.filing.routes(),
                Route("/admin/keys", admin.every, methods=["GET"]),
                Route("/admin/keys", admin.create, methods=["POST"]),
                Route("/admin/keys/{id}", admin.revoke, methods=["DELETE"]),
                Route("/admin/keys/{id}/rotate", admin.rotate, methods=["POST"]),
                Route("/health", health.alive),
                Route("/ready", health.ready),
                *self.seeing.routes(),
            ],
            middleware=[Middleware(LoopbackOnly, refused=refused)] if local_only else [],
            exception_handlers={
                GatewayError: counted(rescue, refused),
                HTTPException: counted(no_such_route, refused),
                Exception: defect,
            },
            lifespan=self.lifespan,
        )
        app.router.redirect_slashes = False  # to the caller's `Host`, and with an empty body
        self.filing.app = entrance = Entrance(app, exchanges, self.in_flight, local_only)
        return entrance

    def _of_responses(self) -> list[Route]:
        kept = KeptResponses(
            self.door, self.responses, time.time, lambda: self.dispatcher.longest_s
        )
        one = "/v1/responses/{id}"
        return [
            self._count(
                "responses/input_tokens",
                self.responses,
                lambda tokens: {"object": "response.input_tokens", "input_tokens": tokens},
            ),
            Route(one, kept.retrieve, methods=["GET"]),
            Route(one, kept.delete, methods=["DELETE"]),
            Route(f"{one}/cancel", kept.cancel, methods=["POST"]),
            Route(f"{one}/input_items", kept.input_items, methods=["GET"]),
        ]

    def _count(
        self, path: str, api: Responses | Messages, shown: Callable[[int], dict[str, object]]
    ) -> Route:
        refused = self.seeing.metrics.refused
        count = Count(
            self.door, self.dispatcher, api.count, shown, api.refusal, refused, self.clock
        )
        return Route(f"/v1/{path}", count.answer, methods=["POST"])

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.seeing.running())
            stack.push_async_callback(self.responses.store.aclose)
            stack.push_async_callback(self.in_flight.ended)  # so that all are settled before them
            if self.shared is not None:
                stack.push_async_callback(self.shared.redis.aclose)
                await stack.enter_async_context(self.shared.running())
                self.door.secret = await shared_secret(self.shared.redis, self.door.secret)
                sharing = beside(self._share_secret(), "the tenants' secret is")
                await stack.enter_async_context(sharing)
            if self.gossip is not None:
                await stack.enter_async_context(self.gossip.running())
            client = Http1Client()
            stack.push_async_callback(client.aclose)
            for name, endpoint in configured.usable(self.config).items():
                provider = configured.provider(name, endpoint, client, self.clock, self.door.secret)
                self.fleet.endpoints[name].up(provider)
                if endpoint.wake:
                    waking = beside(_wake(name, provider), f"{name}'s waking is")
                    await stack.enter_async_context(waking)
            watching = watch(self.fleet, self.clock, on_reached=self._say_ready)
            await stack.enter_async_context(beside(watching, "endpoints are"))
            if self.key_store is not None:
                closed = self.config.state.when_lost.keys == "closed"
                keys = watch_keys(self.key_store, self._use_made_keys, closed=closed)
                await stack.enter_async_context(beside(keys, "the key store is"))
            if self.source is not None:
                reloading = watch_config(self.source, self.live, self.put_in_force)
                await stack.enter_async_context(beside(reloading, "the config is"))
            local = LocalReplicas(self.fleet, client, self._say_ready)
            if self.replicas_elsewhere is None:
                supervisor = Supervisor(replica_commands(self.config), local)
                await stack.enter_async_context(supervisor)
            else:
                await stack.enter_async_context(self.replicas_elsewhere(local))
            await stack.enter_async_context(self.filing.running())
            yield

    def _say_ready(self) -> None:
        """Once, as soon as an endpoint answers, with a model that it serves."""
        if not self._said_ready and self.fleet.ready():
            self._said_ready = True
            ready = (e for e in self.fleet.endpoints.values() if e.ready)
            self.on_ready(min(next(ready).models))

    def _shared(self) -> SharedMeters | None:
        state = self.config.state
        url = state.redis.value if state.redis else self.state_url
        if url is None:
            return None
        closed = {
            kind
            for kind, what in (
                (Kind.RATE, state.when_lost.limits),
                (Kind.HELD, state.when_lost.limits),
                (Kind.SPEND, state.when_lost.budgets),
            )
            if what == "closed"
        }
        redis = connect(url, state.deadline)
        return SharedMeters(redis, uuid.uuid4().hex, state.deadline, frozenset(closed))

    def _response_store(self) -> ResponseStore:
        """A file is there for several workers too; without one, they have their server."""
        wanted = self.config.responses
        bounds = Bounds(wanted.ttl, wanted.size)
        shared = self.shared and (self.config.state.redis is not None or wanted.file is None)
        if self.shared is not None and shared:
            return RedisResponses(self.shared.redis, bounds)
        return FileResponses(wanted.file, bounds)

    def _key_store(self) -> KeyStore | None:
        """Made keys add to the config's: a gateway that was open to everyone has none."""
        if not self.config.keys:
            return None
        if self.shared is not None and self.config.state.redis is not None:
            return RedisKeys(self.shared.redis)
        file = self.config.state.keys_file
        return None if file is None else KeyFile(file)

    def _manageable_keys(self) -> MadeKeys | None:
        if self.key_store is None:
            return None
        return MadeKeys(
            self.key_store,
            lambda: {key.name for key in self.config.keys},
            lambda: known_names(self.config, self.dispatcher.rules),
        )

    def _use_made_keys(self, keys: Sequence[Key], known: bool) -> None:
        self._made_keys, self._made_keys_known = keys, known
        self._set_keys()

    def _set_keys(self) -> None:
        keys = [*self._made_keys, *configured.keys(self.config)]  # the config's go before made ones
        unsure = self.key_store is not None and not self._made_keys_known
        self.door.ring = KeyRing(keys, unsure=unsure)
        self.dispatcher.limiter.keys = {key.name: key.limits for key in keys}

    async def _share_secret(self) -> None:
        """Again and again: the server may have been away, or may have lost it."""
        while self.shared is not None:
            await asyncio.sleep(SECRET_S)
            self.door.secret = await shared_secret(self.shared.redis, self.door.secret)

    def _gossip(self, index: PlacementIndex, names: Collection[str]) -> Gossip | None:
        if self.shared is None or not isinstance(index, SharedIndex):
            return None
        endpoints = {n: e for n, e in self.fleet.endpoints.items() if n in names}
        closed = self.config.state.when_lost.in_flight == "closed"
        return Gossip(
            self.shared.redis, self.shared.gateway, endpoints, index, self.clock, closed=closed
        )

    def _set_limits(self) -> None:
        tenants, limiter, queue = (
            self.config.tenants,
            self.dispatcher.limiter,
            self.dispatcher.queue,
        )
        limiter.tenants = {name: tenant.limits for name, tenant in tenants.items()}
        queue.weights = {name: tenant.weight for name, tenant in tenants.items()}
        for endpoint in self.fleet.endpoints.values():
            endpoint.places.weights = queue.weights
        queue.limits = configured.queue_limits(self.config)

    def _speaks_responses(self, model: str) -> bool:
        return any(
            model in endpoint.models and "responses" in (endpoint.capabilities or ())
            for endpoint in configured.usable(self.config).values()
        )


def _number() -> str:
    return uuid.uuid4().hex


async def _wake(name: str, provider: OpenAICompatible) -> None:
    try:
        await provider.wake()
    except UpstreamError as exc:
        logger.warning("%s could not be woken: %s", name, exc.message)
