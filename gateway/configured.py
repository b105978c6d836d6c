"""What the config says, made into the values and endpoints that the parts are given."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import date
from hashlib import blake2b
from pathlib import Path

from gateway.admission.keys import Key, KeyRing
from gateway.admission.queue import QueueLimits
from gateway.admission.response_cache import CacheLimits
from gateway.config import Config, ConfigError
from gateway.config.doubts import doubts
from gateway.config.tree import AUTO
from gateway.config.tree import Endpoint as EndpointConfig
from gateway.counting import Counter
from gateway.domain import CLASSES
from gateway.fleet.capacity import Capacity
from gateway.fleet.endpoint import Endpoint
from gateway.front.body import BodyLimits
from gateway.front.door import Door
from gateway.models import ModelError
from gateway.providers.dialects.replica import Replica
from gateway.providers.http1 import Http1Client
from gateway.providers.keys import Keys
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.reading import Timeouts
from gateway.tariffs import Machine, Tariff, Tariffs
from gateway.tokenizers import counter
from routing_policies.base import DATA_POLICIES, Price

logger = logging.getLogger("gateway")

Clock = Callable[[], float]


def tokenizers(config: Config, file: Path | None = None) -> Mapping[str, Counter]:
    """By the clients' model. Raises ConfigError for one that is not here, or not right."""
    found = {}
    for model, name in config.tokenizers.items():
        try:
            found[model] = counter(name)
        except (ModelError, ValueError, OSError) as error:
            raise ConfigError(file, None, ("tokenizers", model), str(error)) from None
    return found


def usable(config: Config) -> Mapping[str, EndpointConfig]:
    return {n: e for n, e in config.endpoints.items() if e.missing is None}


def endpoints(config: Config, draw: Callable[[], float]) -> list[Endpoint]:
    """Local replicas first; without those whose key is missing."""
    local = [
        Endpoint(
            name,
            frozenset({replicas.serves or name.rpartition("-")[0]}),
            dedicated=True,
            max_in_flight=replicas.max_in_flight or None,
            capacity=_capacity(replicas.max_in_flight),
            capabilities=Replica.traits.capabilities,
            data_policy=DATA_POLICIES[-1],
            draw=draw,
        )
        for name, replicas in config.replica_names().items()
    ]
    configured = [
        Endpoint(
            name,
            frozenset(endpoint.models),
            endpoint.context_length,
            dedicated=endpoint.dedicated or _is_ours(endpoint),
            tariffs=tariffs(endpoint),
            machine=_machine(endpoint),
            max_in_flight=endpoint.max_in_flight or None,
            capacity=_capacity(endpoint.max_in_flight),
            capabilities=_capabilities(endpoint),
            data_policy=endpoint.data_policy or endpoint.provider.traits.data_policy,
            region=endpoint.region,
            draw=draw,
        )
        for name, endpoint in usable(config).items()
    ]
    return [*local, *configured]


def provider(
    name: str, endpoint: EndpointConfig, client: Http1Client, clock: Clock, secret: bytes
) -> OpenAICompatible:
    """`secret`: of this gateway, or of those that share its state."""
    waits, dialect = endpoint.timeouts, endpoint.provider
    return dialect(
        client,
        endpoint.url,
        endpoint.models,
        Keys(endpoint.key_values, clock),
        Timeouts(
            waits.connect,
            waits.first_event or dialect.patience_s,
            waits.between_events,
            waits.total,
            waits.slowest,
        ),
        endpoint.secret.value if endpoint.secret else "",
        {header: secret.value for header, secret in endpoint.headers.items()},
        # Its own, so that no other endpoint knows a session by the same name.
        blake2b(name.encode(), key=secret, person=b"endpoint").digest(),
        "responses" in (endpoint.capabilities or ()),
    )


def keys(config: Config) -> list[Key]:
    return [
        Key(
            key.name,
            key.tenant,
            key.secret,
            _all_or(key.models),
            key.explain,
            key.data_policy,
            key.request_class,
            _all_or(key.policies),
            _all_or(key.endpoints),
            key.admin,
            key.expires_s,
            key.limits,
        )
        for key in config.keys
    ]


def door(config: Config) -> Door:
    # The secret need only outlive what it names: what this process knows of caches.
    limits = BodyLimits(config.server.max_body, config.server.body_timeout)
    return Door(KeyRing(keys(config)), limits, secrets.token_bytes(32))


def cache_limits(config: Config) -> CacheLimits:
    return CacheLimits(config.cache.size, config.cache.ttl, config.cache.models)


def queue_limits(config: Config) -> QueueLimits:
    patience = config.queue.patience
    return QueueLimits(config.queue.size, {name: getattr(patience, name) for name in CLASSES})


def tariffs(endpoint: EndpointConfig) -> Tariffs:
    return {
        model: Tariff(Price(p.input, p.output, p.cached, p.cache_write), p.when)
        for model, p in endpoint.prices.items()
    }


def _capacity(places: int | None) -> Capacity | None:
    return Capacity() if places == AUTO else None


def _is_ours(endpoint: EndpointConfig) -> bool:
    return endpoint.dialect == "replica"


def _capabilities(endpoint: EndpointConfig) -> frozenset[str] | None:
    if endpoint.capabilities is not None:
        return frozenset(endpoint.capabilities)
    return endpoint.provider.traits.capabilities


def _machine(endpoint: EndpointConfig) -> Machine | None:
    machine = endpoint.machine
    if machine is None:
        return None
    return Machine(machine.dollars_per_hour, machine.stops_after, machine.starts_in)


def warn_of_doubts(config: Config) -> None:
    for doubt in doubts(config, date.today()):
        logger.warning("%s", doubt)


def _all_or(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
