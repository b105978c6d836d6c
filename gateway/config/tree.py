"""What an operator can say. Each dataclass is a mapping in the YAML, each field a key."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from gateway.config.bind import Bytes, Date, Seconds, Secret, Share
from gateway.rules import EVERYTHING, Match


def is_token(text: str) -> bool:
    """Whether a header can carry it as it is."""
    return text.isascii() and not any(map(str.isspace, text))


def check_url(url: str, name: str = "base_url") -> None:
    """Raises ValueError, without the URL: it may hold a password where none should be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises when it is read
    except ValueError:
        raise ValueError(f"{name} is not a URL like http://host:port/v1") from None
    if parts.scheme not in ("http", "https") or not host or not is_token(url):
        raise ValueError(f"{name} must start with http:// or https:// and a host")
    if parts.username is not None:
        raise ValueError(f"{name} must hold no user or password")


@dataclass(frozen=True, slots=True)
class Server:
    host: str = "127.0.0.1"
    port: int = 8000
    max_body: Bytes = Bytes(32 * 1024 * 1024)
    head_timeout: Seconds = Seconds(10)
    body_timeout: Seconds = Seconds(60)
    stalled_reader_timeout: Seconds = Seconds(60)
    keep_alive: Seconds = Seconds(75)
    drain: Seconds = Seconds(30)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")

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


@dataclass(frozen=True, slots=True)
class Replicas:
    """Replicas of our own that the gateway starts and keeps running."""

    model: str  # a name that `gateway model list` knows, or a path
    serves: str | None = None  # as clients call it; without it, the key of this mapping
    count: int = 1
    kv_tokens: int = 16_384
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be at least 1")
        if self.kv_tokens < 256:
            raise ValueError("kv_tokens must be at least 256")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Dollars per million tokens, and when somebody last looked."""

    input: float
    output: float
    cached: float | None = None  # prompt tokens from the cache; without it, as `input`
    cache_write: float = 0.0  # on top of `input`
    as_of: Date | None = None
    ends: Date | None = None  # after this day the price, or the model, is gone

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached or 0, self.cache_write) < 0:
            raise ValueError("a price is not negative")


@dataclass(frozen=True, slots=True)
class EndpointTimeouts:
    connect: Seconds = Seconds(5)
    first_event: Seconds = Seconds(600)
    between_events: Seconds = Seconds(60)


@dataclass(frozen=True, slots=True)
class Endpoint:
    base_url: str
    models: ModelMap
    dialect: str = "openai"
    api_key: Secret | None = None
    secret: Secret | None = None  # a replica's, started by somebody else
    context_length: int | None = None
    dedicated: bool = False  # it computes for us alone, as a replica does
    prices: dict[str, ModelPrice] = field(default_factory=dict)
    timeouts: EndpointTimeouts = EndpointTimeouts()

    def __post_init__(self) -> None:
        check_url(self.base_url)
        for name, secret in (("api_key", self.api_key), ("secret", self.secret)):
            if secret is not None and not is_token(secret.value):
                raise ValueError(
                    f"{name} must be ASCII without white space, as a header carries it"
                )
        if self.dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of: {', '.join(DIALECTS)}")
        if self.dialect == "replica" and self.secret is None:
            raise ValueError("a replica needs its secret: it refuses our fields without it")
        if self.dialect != "replica" and self.secret is not None:
            raise ValueError("only a replica has a secret; others have an api_key")
        if self.context_length is not None and self.context_length < 1:
            raise ValueError("context_length must be at least 1")

    @property
    def missing(self) -> str | None:
        """The environment variable without which this endpoint cannot be used."""
        secrets = (self.api_key, self.secret)
        return next((s.missing for s in secrets if s is not None and s.missing), None)


DIALECTS = ("openai", "replica")


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    key: Secret
    tenant: str = "default"
    models: tuple[str, ...] | None = None  # None: all
    explain: bool = False  # it may ask why an endpoint was chosen
    admin: bool = False  # it may read /metrics and what the dashboard shows

    def __post_init__(self) -> None:
        if self.key.missing:
            raise ValueError(f"the environment has no {self.key.missing}")
        if len(self.key.value) < 8:
            raise ValueError("a key has at least 8 characters")
        if not is_token(self.key.value):
            raise ValueError("a key is ASCII without white space, as a header can carry it")


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
    keys: tuple[Key, ...] = ()
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
                raise ValueError(f"{name!r} names a replica and an endpoint")
        for what, values in (
            ("name", [key.name for key in self.keys]),
            ("key", [key.key.value for key in self.keys]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"two of the keys have the same {what}")

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

    def replica_names(self) -> dict[str, Replicas]:
        """Each replica process by its endpoint's name: `smollm2-0`, `smollm2-1`, …"""
        return {
            f"{name}-{index}": replicas
            for name, replicas in self.replicas.items()
            for index in range(replicas.count)
        }
