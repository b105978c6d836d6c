"""
The nouns of one exchange. Nobody changes them once they are built; `Outcome` alone, and its
attempts, fill up as the exchange goes. Those that each exchange makes are not frozen: that takes
Python several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from gateway.errors import Fault

Json = Mapping[str, Any]

CLASSES = ("interactive", "standard", "batch")
"""Of requests, the most urgent first: who waits for whom, and what numbers a policy has."""

CAPABILITIES = ("tools", "json_schema", "logprobs", "n", "vision", "audio", "embeddings")
"""What a request may need of an endpoint. `json_schema`: answers in JSON by request, with a schema
or without. `n`: several choices."""


class Operation(StrEnum):
    """What the client asks an endpoint to do; the value is the path below `/v1`."""

    CHAT = "chat/completions"
    COMPLETION = "completions"
    EMBEDDINGS = "embeddings"

    @property
    def writes(self) -> bool:
        """Its answer is made of tokens."""
        return self is not Operation.EMBEDDINGS


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. Caches, limits and ledgers never cross `tenant`."""

    tenant: str
    key_name: str
    models: frozenset[str] | None = None  # None: every model
    may_explain: bool = False  # it may ask why an endpoint was chosen
    data_policy: str | None = None  # what every endpoint that it uses must keep to at least
    request_class: str = "standard"  # one of CLASSES
    policies: frozenset[str] | None = None  # None: whichever the rules name
    endpoints: frozenset[str] | None = None  # None: every endpoint
    admin: bool = False  # it may make and revoke keys, and see what others did

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def may_reach(self, endpoint: str) -> bool:
        return self.endpoints is None or endpoint in self.endpoints


class Quota(NamedTuple):
    """What is left of a limit: for OpenAI's `x-ratelimit-*` headers."""

    what: str  # requests, tokens
    limit: float
    left: float
    reset_s: float  # until it is as new


class PrefixKey(NamedTuple):
    """Names the first `size` canonical bytes of a request, for one tenant."""

    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the client has of an answer that broke off, for an endpoint to go on from."""

    text: str
    token_ids: tuple[int, ...] | None  # all of its tokens, in order; None: they were not told
    tokens: int = 0  # how many; where they were not told, as many as there were pieces


@dataclass(slots=True)
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
    delivered: Delivered | None = None  # the beginning of its answer, which is not sent again
    service_tier: str | None = None  # as the client asks for it
    prompt_tokens: int | None = None  # exactly, of a prompt of token ids; None: not known yet
    images: int = 0  # their tokens are no matter of bytes
    hints: tuple[str, ...] = ()  # of requests that belong together; the closest first, keyed
    needs: frozenset[str] = frozenset()  # capabilities, by the names that configs use
    data_policy: str | None = None  # its principal's
    request_class: str = "standard"  # likewise, or a less urgent one that the caller asks for
    trace_headers: Mapping[str, str] | None = None  # for the endpoint's own spans
    native: Json | None = None  # the same as a response's fields, for endpoints that speak them


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as its endpoint counted them; None means not told."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    cost_usd: float | None = None  # what the endpoint says that it will bill
    service_tier: str | None = None  # in which it says that it answered


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica tells of itself with each answer and in `/stats`: docs/replica-protocol.md."""

    epoch: str
    running: int
    queued_tokens: int
    horizon_age_s: float | None  # None: nothing has been evicted yet


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """What an endpoint tells of itself when asked; None: not told."""

    running: int | None = None  # requests, whoever sent them
    waiting: int | None = None
    kv_usage: float | None = None  # share of its KV cache that running requests hold, 0 to 1
    context_length: int | None = None  # tokens
    report: ReplicaReport | None = None  # from replicas of ours


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
    native: dict[str, Any] | None = None  # of a request's `native`: as the endpoint said it
    text: str | None = None  # of a piece of a chat that is the next of one choice's text, no more

    @property
    def is_usage_only(self) -> bool:
        """The extra last chunk that `stream_options.include_usage` asks for."""
        return self.usage is not None and not self.payload.get("choices")


class BilledBy(StrEnum):
    """How we know what an attempt cost us."""

    REPORT = "report"  # the endpoint said so
    TARIFF = "tariff"  # its tokens, at our table's rates
    ESTIMATE = "estimate"  # an answer had begun, and no tokens were told


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where an exchange stands in a trace, as W3C Trace Context has it."""

    trace_id: int  # 128 bits
    span_id: int  # 64 bits: the exchange's own span
    sampled: bool  # decided at its start, so that every process below agrees
    parent_id: int | None = None  # the caller's span
    linked: tuple[int, int] | None = None  # trace and span of a caller who is not trusted with ours
    state: str = ""  # the caller's tracestate

    def attempt_id(self, index: int) -> int:
        """The span of the attempt with this number: known before there is a span."""
        return (self.span_id + (index + 1) * 0x9E3779B97F4A7C15) % 2**64 or 1

    def headers(self, index: int) -> Mapping[str, str]:
        """What the endpoint of that attempt is told."""
        parent = f"00-{self.trace_id:032x}-{self.attempt_id(index):016x}-{int(self.sampled):02x}"
        return {"traceparent": parent} | ({"tracestate": self.state} if self.state else {})


class Ended(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    HUNG_UP = "hung_up"
    OVERTAKEN = "overtaken"  # an attempt: another one for the same request was quicker


@dataclass(slots=True)
class Considered:
    """One candidate of a decision, in numbers: for whoever asks why."""

    endpoint: str
    dropped_by: str | None  # the filter; None: it was ranked, and stands in the order of choice
    unavailable: str | None = None  # why it should not be asked, as far as the fleet knows
    limited: bool = False  # by its own word it would refuse now: it stands last, whatever it costs
    full: bool = False  # it had no room, and was passed over
    cost: float = 0.0  # in the policy's unit
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    cost_usd: float = 0.0
    cached_tokens: int = 0
    uncached_tokens: int = 0
    p_miss: float = 0.0
    in_flight: int = 0
    queued_tokens: int = 0


def first_choice(considered: Sequence[Considered]) -> Considered | None:
    """Where a request is sent first: the first in order that has room, or the one to wait for."""
    ranked = [c for c in considered if c.dropped_by is None]
    return next((c for c in ranked if not c.full), ranked[0] if ranked else None)


@dataclass(slots=True)
class Attempt:
    """One try of an exchange on one endpoint. Times are monotonic, in seconds."""

    endpoint: str
    started: float
    number: int = 0  # in the order of their beginning
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
    hinted: bool = False  # no prefix was known, and the caller's hint pointed there
    first_event: float | None = None
    last_event: float | None = None
    probe: bool = False  # of an endpoint that was ejected
    resumed: bool = False  # it takes up an answer that broke off elsewhere
    hedge: bool = False  # sent while another attempt was still waited for
    ended: Ended | None = None
    error: str | None = None  # the error's code, when the endpoint refused or broke
    failed: bool = False  # and the fault was the endpoint's, not the request's
    start_usd: float = 0.0  # for a machine that stood still,
    start_s: float = 0.0  # and how long that was to take
    # What really happened, once settled; nothing was billed while `billed_by` is None.
    billed_usd: float = 0.0
    billed_by: BilledBy | None = None
    cached_tokens: int | None = None  # None: not told
    delivered_tokens: int = 0  # of its answer that went to the client; where untold, its pieces
    billed: Usage | None = None  # as the endpoint computed and bills it; None: it did not tell

    @property
    def ttft_s(self) -> float | None:
        """Until its first event; of an answer that was not streamed, until all of it."""
        return None if self.first_event is None else self.first_event - self.started


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
    usage: Usage | None = None  # of the client's answer, however many attempts it took
    report: ReplicaReport | None = None
    status: int | None = None
    error: str | None = None  # the code of what the client was told
    blamed: Fault = Fault.OURS  # for that, by its class
    ended: Ended | None = None
    finished: float | None = None
    request: InferenceRequest | None = None
    quotas: tuple[Quota, ...] = ()
    cache: str | None = None  # hit, miss; None: not one whose answer is kept
    trace: TraceContext | None = None  # None: nobody traces
    policy_version: str = ""  # a digest of the policy's file
    decided: tuple[float, float] | None = None  # when the last decision began and ended
    finish_reasons: tuple[str, ...] = ()  # of its choices, in OpenAI's words
    queued: dict[float, float] = field(default_factory=dict)  # waits for room: began, ended
    answer: list[Json] | None = None  # the answer's payloads; None unless an operator wants them
    path: str | None = None  # of the HTTP request: several come to one operation

    @property
    def fault(self) -> Fault | None:
        """None unless it failed: hanging up is nobody's fault."""
        if self.ended is not Ended.FAILED:
            return None
        if self.answering is not None and self.answering.failed:
            return Fault.PROVIDER  # also where it only used up the exchange's time
        return self.blamed

    @property
    def answering(self) -> Attempt | None:
        """The attempt that answered, or was the last to try: the dispatcher sees to the order."""
        return self.attempts[-1] if self.attempts else None

    @property
    def total_s(self) -> float:
        return 0.0 if self.finished is None else self.finished - self.started

    @property
    def first_event_s(self) -> float | None:
        """What the caller waited for the first of the answer, refused attempts included; a resumed
        answer had begun before it broke off."""
        began = [
            attempt.first_event
            for attempt in self.attempts
            if attempt.first_event is not None and attempt.ended is not Ended.OVERTAKEN
        ]
        return min(began) - self.started if began else None
