"""What an operator can say. Each dataclass is a mapping in the YAML, each field a key."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from gateway.admission.keys import HASHED, NAMED, is_name
from gateway.admission.limits import UNLIMITED, Limits
from gateway.config.bind import Bytes, Date, Seconds, Secret, Share, WrongAt
from gateway.config.urls import check_redis, check_url, is_token
from gateway.domain import CAPABILITIES as REQUESTED
from gateway.domain import CLASSES
from gateway.providers.catalog import find_dialect
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.rules import EVERYTHING, Match
from gateway.tariffs import Change
from routing_policies.base import DATA_POLICIES


@dataclass(frozen=True, slots=True)
class Server:
    host: str = "127.0.0.1"
    port: int = 8000
    max_body: Bytes = Bytes(32 * 1024 * 1024)
    max_connections: int = 8192  # of each worker
    head_timeout: Seconds = Seconds(10)
    body_timeout: Seconds = Seconds(60)
    stalled_reader_timeout: Seconds = Seconds(60)
    keep_alive: Seconds = Seconds(75)
    longest_exchange: Seconds = Seconds(3600)
    drain_notice: Seconds | None = None
    drain: Seconds = Seconds(30)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if self.max_connections < 1:
            raise ValueError("max_connections must be at least 1")

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class ModelMap(dict[str, str]):
    """Client's name -> the endpoint's name. In YAML also a list, where the two are the same."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        if isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
            return cls({name: name for name in value})
        pairs = value.items() if isinstance(value, Mapping) else ()
        if pairs and all(isinstance(text, str) and text for pair in pairs for text in pair):
            return cls(pairs)
        raise ValueError("must list models, or map each model to the endpoint's name of it")


AUTO = 0


class Places(int):
    """Requests at a time; `auto`, which is AUTO here: as many as the endpoint turns out to take."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        if value == "auto":
            return cls(AUTO)
        if type(value) is not int or value < 1:
            raise ValueError("must be at least 1, or auto")
        return cls(value)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Replicas of our own that the gateway starts and keeps running."""

    model: str  # a name that `gateway model list` knows, or a path
    serves: str | None = None  # as clients call it; without it, the key of this mapping
    count: int = 1
    kv_tokens: int | None = None  # None: 16,384, or on a GPU what fits
    threads: int | None = None
    max_in_flight: Places | None = None  # of each one; further requests wait in the gateway
    backend: str = "auto"  # cuda, cpu or reference
    gpu_memory: float = 0.9  # of what is free there
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.serves is not None and not is_name(self.serves):
            raise ValueError(f"serves {NAMED}")
        if self.count < 1:
            raise ValueError("count must be at least 1")
        if self.kv_tokens is not None and self.kv_tokens < 256:
            raise ValueError("kv_tokens must be at least 256")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")
        if self.backend not in ("auto", "cuda", "cpu", "reference"):
            raise ValueError("backend must be auto, cuda, cpu or reference")
        if not 0 < self.gpu_memory <= 1:
            raise ValueError("gpu_memory must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Dollars per million tokens, and when somebody last looked."""

    input: float
    output: float
    cached: float | None = None  # prompt tokens from the cache; without it, as `input`
    cache_write: float = 0.0  # on top of `input`
    when: tuple[Change, ...] = ()  # other rates for some requests, or at some hours
    as_of: Date | None = None
    ends: Date | None = None  # after this day the price, or the model, is gone

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached or 0, self.cache_write) < 0:
            raise ValueError("a price is not negative")


@dataclass(frozen=True, slots=True)
class Machine:
    """What an endpoint runs on, where that is paid by the hour."""

    dollars_per_hour: float
    stops_after: Seconds | None = None  # without a request; None: it always runs
    starts_in: Seconds = Seconds(60)

    def __post_init__(self) -> None:
        if self.dollars_per_hour < 0:
            raise ValueError("a price is not negative")


@dataclass(frozen=True, slots=True)
class EndpointTimeouts:
    connect: Seconds = Seconds(5)
    first_event: Seconds | None = None  # the dialect's patience: 600 s, or more where places wake
    between_events: Seconds = Seconds(60)
    total: Seconds = Seconds(3600)
    slowest: float = 0.0  # events per second of waiting, once the first has come

    def __post_init__(self) -> None:
        if self.slowest < 0:
            raise ValueError("slowest is not negative")


@dataclass(frozen=True, slots=True)
class Endpoint:
    base_url: str | None = None  # None: where the dialect has its place
    models: ModelMap = field(default_factory=ModelMap)
    dialect: str = "openai"
    api_key: Secret | None = None
    api_keys: tuple[Secret, ...] = ()  # more of them, for when the first is refused or at its limit
    secret: Secret | None = None  # beside the key: a replica's, or a Modal token's
    headers: dict[str, Secret] = field(default_factory=dict)  # to send along
    wake: bool = False  # have it start when the gateway does
    context_length: int | None = None
    dedicated: bool = False  # it computes for us alone, as a replica does
    max_in_flight: Places | None = None  # requests at a time; further ones wait in the gateway
    prices: dict[str, ModelPrice] = field(default_factory=dict)
    machine: Machine | None = None
    capabilities: tuple[str, ...] | None = None  # None: as its dialect has them
    data_policy: str | None = None
    region: str | None = None
    timeouts: EndpointTimeouts = EndpointTimeouts()

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("needs 'models'")
        if not all(map(is_name, self.models)):
            raise WrongAt(f"a model's name {NAMED}", "models")
        provider = self.provider
        if self.base_url is None and provider.URL is None:
            raise ValueError(f"needs 'base_url': {self.dialect} has no place of its own")
        check_url(self.url)
        for name, secret in self._secrets():
            if not is_token(secret.value):
                raise ValueError(
                    f"{name} must be ASCII without white space, as a header carries it"
                )
        if self.secret is not None and provider.secret_header is None:
            raise ValueError(f"the dialect {self.dialect} has no secret: it has an api_key")
        if self.secret is not None and len(self.key_values) > 1:
            raise ValueError("a secret goes with one api_key: make an endpoint for each")
        if self.dialect == "replica" and self.secret is None:
            raise ValueError("a replica needs its secret: it refuses our fields without it")
        for capability in self.capabilities or ():
            if capability not in CAPABILITIES:
                raise ValueError(f"capabilities are some of: {', '.join(CAPABILITIES)}")
        _check_data_policy(self.data_policy)
        if self.context_length is not None and self.context_length < 1:
            raise ValueError("context_length must be at least 1")
        for name in self.headers:
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or name.lower() in FRAMING:
                raise ValueError(f"{name!r} is no header to send along")

    @property
    def provider(self) -> type[OpenAICompatible]:
        return find_dialect(self.dialect)

    @property
    def url(self) -> str:
        return (self.base_url or self.provider.URL or "").rstrip("/")

    @property
    def key_values(self) -> list[str]:
        """Those that the environment has."""
        keys = (self.api_key, *self.api_keys)
        return list(dict.fromkeys(k.value for k in keys if k is not None and not k.missing))

    @property
    def missing(self) -> str | None:
        """The environment variable without which this endpoint cannot be used."""
        keys = {"api_key", "api_keys"} if self.key_values else set()  # one is enough
        secrets = (secret for name, secret in self._secrets() if name not in keys)
        return next((secret.missing for secret in secrets if secret.missing), None)

    def _secrets(self) -> Iterator[tuple[str, Secret]]:
        if self.api_key is not None:
            yield "api_key", self.api_key
        yield from (("api_keys", key) for key in self.api_keys)
        if self.secret is not None:
            yield "secret", self.secret
        yield from ((f"headers.{name}", value) for name, value in self.headers.items())


CAPABILITIES = (*REQUESTED, "isolates_tenants", "responses")
"""`responses`: it speaks OpenAI's Responses API itself, and is sent them as they are."""


def _check_data_policy(name: str | None) -> None:
    if name is not None and name not in DATA_POLICIES:
        raise ValueError(f"data_policy must be one of: {', '.join(DATA_POLICIES)}")


FRAMING = {"host", "content-length", "transfer-encoding", "connection", "te", "upgrade"}
"""What the HTTP client says itself."""


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    key: Secret = Secret()
    hash: str | None = None  # instead of the key: `gateway keys create` tells it
    tenant: str = "default"
    models: tuple[str, ...] | None = None  # None: all
    policies: tuple[str, ...] | None = None  # None: whichever the rules name
    endpoints: tuple[str, ...] | None = None  # None: all
    explain: bool = False  # it may ask why an endpoint was chosen
    data_policy: str | None = None  # that its endpoints must keep to at least
    request_class: str = "standard"  # who waits for whom; policies name it under `classes`
    admin: bool = False  # it may make and revoke keys, and see what others did
    expires: Date | None = None  # from the beginning of this day on (UTC) it is refused
    limits: Limits = UNLIMITED

    def __post_init__(self) -> None:
        for what in ("name", "tenant"):
            if not is_name(getattr(self, what)):
                raise WrongAt(NAMED, what)
        _check_data_policy(self.data_policy)
        if self.request_class not in CLASSES:
            raise ValueError(f"request_class must be one of: {', '.join(CLASSES)}")
        if self.hash is not None:
            if self.key != Secret():
                raise ValueError("a key has a key or a hash, not both")
            if not HASHED.fullmatch(self.hash):
                raise ValueError("hash must be sha256: and 64 hexadecimal digits")
            return
        if self.key == Secret():
            raise ValueError("needs 'key' or 'hash'")
        if self.key.missing:
            raise ValueError(f"the environment has no {self.key.missing}")
        if len(self.key.value) < 8:
            raise ValueError("a key has at least 8 characters")
        if not is_token(self.key.value):
            raise ValueError("a key is ASCII without white space, as a header can carry it")

    @property
    def secret(self) -> str:
        return self.hash or self.key.value

    @property
    def expires_s(self) -> float:
        if self.expires is None:
            return math.inf
        day = self.expires
        return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Tenant:
    limits: Limits = UNLIMITED
    weight: float = 1.0  # its share when endpoints are full, beside the others'

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError("weight must be more than 0")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits while every endpoint is full."""

    interactive: Seconds = Seconds(10)
    standard: Seconds = Seconds(30)
    batch: Seconds = Seconds(300)


@dataclass(frozen=True, slots=True)
class Queue:
    size: int = 1000
    patience: Patience = Patience()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers given again to the same request of the same tenant."""

    size: Bytes = Bytes(64 * 1024 * 1024)
    ttl: Seconds = Seconds(300)  # of what a request asks to keep
    models: dict[str, Seconds] = field(default_factory=dict)  # kept unasked, and how long


@dataclass(frozen=True, slots=True)
class Files:
    """What tenants keep here, and the batches that are run from it."""

    folder: Path | None = None  # made when it is not there. None: no files, no batches
    max_file: Bytes = Bytes(200 * 1024 * 1024)
    max_stored: Bytes = Bytes(10 * 1024 * 1024 * 1024)  # of each tenant
    batch_concurrency: int = 8  # requests of batches at a time, where there is room

    def __post_init__(self) -> None:
        if self.batch_concurrency < 1:
            raise ValueError("batch_concurrency must be at least 1")


@dataclass(frozen=True, slots=True)
class StoredResponses:
    """What `/v1/responses` keeps, in redis where there is one."""

    file: Path | None = None  # SQLite; without it and redis, in memory
    ttl: Seconds = Seconds(30 * 24 * 3600)
    size: Bytes = Bytes(256 * 1024 * 1024)  # of each tenant's; beyond, the oldest go


@dataclass(frozen=True, slots=True)
class WhenLost:
    """What a gateway does while it cannot reach the shared state."""

    limits: str = "open"  # open: it enforces its share; closed: it refuses
    budgets: str = "open"
    in_flight: str = "open"  # open: it fills its share of max_in_flight; closed: nothing of it
    keys: str = "open"  # open: made keys last read stay in force; closed: they are refused

    def __post_init__(self) -> None:
        for concern in fields(self):
            if getattr(self, concern.name) not in ("open", "closed"):
                raise ValueError(f"{concern.name} must be open or closed")


@dataclass(frozen=True, slots=True)
class State:
    """What several gateways share."""

    redis: Secret | None = None  # redis://, rediss:// or unix://; without it, this process alone
    deadline: Seconds = Seconds(0.002)  # no request waits longer for it
    when_lost: WhenLost = WhenLost()
    keys_file: Path | None = None  # keys made by `gateway keys` and /admin/keys, without redis

    def __post_init__(self) -> None:
        if self.redis is not None and self.redis.missing:
            raise ValueError(f"the environment has no {self.redis.missing}")
        if self.redis is not None:
            check_redis(self.redis.value)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    use: str
    match: Match = EVERYTHING


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where spans go, and of which exchanges. What is None here, OTEL_* variables may say."""

    endpoint: str | None = None  # a collector's base URL, for OTLP over HTTP
    sample: Share | None = None  # of the traces that begin here
    slow: Seconds | None = Seconds(30)  # kept whatever `sample` says, as failures are
    trust_callers: bool = True  # join a caller's trace; else begin one that links to it
    content: bool = False  # prompts and answers too

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            check_url(self.endpoint, "endpoint")


@dataclass(frozen=True, slots=True)
class Ledger:
    file: Path | None = None  # SQLite; made when it is not there. None: no ledger
    keep: Seconds | None = None  # older exchanges are deleted. None: for ever
    size: Bytes | None = None  # the oldest make way for new ones. None: as it grows

    def __post_init__(self) -> None:
        # What is deleted is gone: a number whose unit was forgotten must not do it.
        if self.keep is not None and self.keep < 3600:
            raise ValueError("keep must be at least 1h: without a unit, it is seconds")
        if self.size is not None and self.size < 1024**2:
            raise ValueError("size must be at least 1MB: without a unit, it is bytes")


LOG_FORMATS = ("auto", "text", "json")


@dataclass(frozen=True, slots=True)
class Log:
    format: str = "auto"  # text in a terminal, JSON otherwise

    def __post_init__(self) -> None:
        if self.format not in LOG_FORMATS:
            raise ValueError(f"format must be one of: {', '.join(LOG_FORMATS)}")


@dataclass(frozen=True, slots=True)
class Config:
    server: Server = Server()
    policy: str | tuple[PolicyRule, ...] = "cache_aware"
    policies: Path | None = None  # a folder of the operator's own
    replicas: dict[str, Replicas] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)  # model -> encoding, or model's file
    drained: tuple[str, ...] = ()  # names of endpoints and replicas that get nothing new
    keys: tuple[Key, ...] = ()
    tenants: dict[str, Tenant] = field(default_factory=dict)
    queue: Queue = Queue()
    cache: Cache = Cache()
    files: Files = Files()
    responses: StoredResponses = StoredResponses()
    state: State = State()
    tracing: Tracing = Tracing()
    ledger: Ledger = Ledger()
    log: Log = Log()
    dashboard: bool = True

    def __post_init__(self) -> None:
        if not self.replicas and not self.endpoints:
            raise ValueError("needs at least one of: replicas, endpoints")
        if not self.keys and not self.server.loopback:
            raise ValueError(
                f"without keys the gateway listens on loopback only, not on {self.server.host}: "
                "add keys, or set server.host to 127.0.0.1"
            )
        for name in self.replica_names():
            if name in self.endpoints:
                raise WrongAt(f"{name!r} names a replica and an endpoint", "endpoints", name)
        for index, name in enumerate(self.drained):
            if name not in self.endpoints and name not in self.replica_names():
                told = f"drained names {name!r}, which is no endpoint and no replica"
                raise WrongAt(told, "drained", index)
        for section in ("replicas", "endpoints", "tenants"):
            for name in getattr(self, section):
                if not is_name(name):
                    raise WrongAt(f"a name {NAMED}", section, name)
        names: dict[str, int] = {}
        secrets: dict[str, int] = {}
        for index, key in enumerate(self.keys):
            if (first := names.setdefault(key.name, index)) != index:
                raise WrongAt(f"{key.name!r} is the name of keys[{first}] too", "keys", index)
            if (first := secrets.setdefault(key.secret, index)) != index:
                raise WrongAt(f"keys[{first}] has the same key", "keys", index)

    @property
    def policy_rules(self) -> tuple[PolicyRule, ...]:
        return (PolicyRule(self.policy),) if isinstance(self.policy, str) else self.policy

    @property
    def unusable(self) -> str | None:
        """Why there would be nobody to answer, if so."""
        missing = [endpoint.missing for endpoint in self.endpoints.values()]
        if self.replicas or None in missing:
            return None
        return f"none can be used: the environment has no {', no '.join(filter(None, missing))}"

    def models(self) -> list[str]:
        """As clients call them, in order."""
        replicas = [replicas.serves or name for name, replicas in self.replicas.items()]
        endpoints = [model for endpoint in self.endpoints.values() for model in endpoint.models]
        return list(dict.fromkeys([*replicas, *endpoints]))

    def replica_names(self) -> dict[str, Replicas]:
        """Each replica process by its endpoint's name: `smollm2-0`, `smollm2-1`, …"""
        return {
            f"{name}-{index}": replicas
            for name, replicas in self.replicas.items()
            for index in range(replicas.count)
        }
