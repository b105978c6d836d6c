"""The nouns of one exchange. Frozen once built; `Outcome` alone fills up as the exchange goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]


class Operation(StrEnum):
    """What the client asks an endpoint to do; the value is the path below `/v1`."""

    CHAT = "chat/completions"
    COMPLETION = "completions"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. Caches, limits and ledgers never cross `tenant`."""

    tenant: str
    key_name: str
    models: frozenset[str] | None = None  # None: every model
    may_explain: bool = False  # it may ask why an endpoint was chosen
    policies: frozenset[str] | None = None  # None: whichever the rules name
    endpoints: frozenset[str] | None = None  # None: every endpoint
    admin: bool = False  # it may make and revoke keys
    priority: str = "standard"  # the class of its requests

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def may_reach(self, endpoint: str) -> bool:
        return self.endpoints is None or endpoint in self.endpoints


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a limit: for OpenAI's `x-ratelimit-*` headers."""

    what: str  # requests, tokens
    limit: float
    left: float
    reset_s: float  # until it is as new


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """Names the first `size` canonical bytes of a request, for one tenant."""

    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the client has of an answer that broke off, for an endpoint to go on from."""

    text: str
    token_ids: tuple[int, ...] | None  # all of its tokens, in order; None: they were not told


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A client's request, parsed once at the door.

    `forwarded` holds every field that goes upstream as the client sent it; `model` and the
    fields that the gateway owns are not in it.
    """

    operation: Operation
    model: str
    forwarded: Json
    stream: bool
    include_usage: bool  # the client asked for usage in its stream
    max_tokens: int | None
    prompt_size: int  # canonical bytes of model, tools and messages
    prefix: tuple[PrefixKey, ...]  # shortest first
    cache_salt: str  # names tenant and caller's own salt to a replica; tells neither
    session_id: str | None = None  # likewise
    tenant: str = "default"
    priority: str = "standard"  # its class: interactive, standard, batch
    delivered: Delivered | None = None  # the beginning of its answer, which is not sent again


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as its endpoint counted them; `cached_tokens` None means not told."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica tells of itself with each answer and in `/stats`: docs/replica-protocol.md."""

    epoch: str
    running: int
    queued_tokens: int
    horizon_age_s: float | None  # None: nothing has been evicted yet


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What `/stats` adds to the report."""

    report: ReplicaReport
    context_length: int | None  # tokens


@dataclass(slots=True)
class Event:
    """One piece of an answer, parsed once: a streamed chunk, or the whole of a plain answer.

    `payload` is ours to change until it is sent on.
    """

    payload: dict[str, Any]
    usage: Usage | None
    report: ReplicaReport | None
    finishes: bool  # some choice has its finish_reason
    token_ids: tuple[int, ...] | None = None  # sampled since the event before; None: not told

    @property
    def is_usage_only(self) -> bool:
        """The extra last chunk that `stream_options.include_usage` asks for."""
        return not self.payload.get("choices") and self.usage is not None


class Ended(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    HUNG_UP = "hung_up"


@dataclass(frozen=True, slots=True)
class Considered:
    """One candidate of a decision, in numbers: for whoever asks why."""

    endpoint: str
    dropped_by: str | None  # the filter; None: it was ranked, and stands in the order of choice
    cost: float = 0.0  # in the policy's unit
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    cost_usd: float = 0.0
    cached_tokens: int = 0
    uncached_tokens: int = 0
    p_miss: float = 0.0
    in_flight: int = 0
    queued_tokens: int = 0


@dataclass(slots=True)
class Attempt:
    """One try of an exchange on one endpoint. Times are monotonic, in seconds."""

    endpoint: str
    started: float
    # What the decision knew and expected.
    in_flight: int = 0
    queued_tokens: int = 0
    expected_cached_tokens: int = 0
    expected_ttft_s: float = 0.0
    expected_cost_usd: float = 0.0
    # The placement behind that expectation; tokens are None when no answer has confirmed it.
    matched_size: int = 0
    matched_tokens: int | None = None
    matched_touched: float = 0.0
    first_event: float | None = None
    last_event: float | None = None
    error: str | None = None  # the error's code, when the endpoint refused or broke
    failed: bool = False  # and the fault was the endpoint's, not the request's


@dataclass(slots=True)
class Outcome:
    """How an exchange went. Filled in as it goes, settled once, whatever ended it."""

    request_id: str
    principal: Principal
    started: float
    operation: Operation | None = None
    model: str | None = None
    policy: str | None = None
    considered: tuple[Considered, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    events: int = 0
    usage: Usage | None = None
    report: ReplicaReport | None = None
    status: int | None = None
    error: str | None = None  # the code of what the client was told
    ended: Ended | None = None
    finished: float | None = None
    request: InferenceRequest | None = None
    quotas: tuple[Quota, ...] = ()
    cache: str | None = None  # hit, miss; None: not one whose answer is kept
