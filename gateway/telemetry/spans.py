"""
What an exchange looks like in a trace, built once it is over from the times that it noted.

    POST /v1/chat/completions     the caller's request                                     SERVER
    ├── queue                     it waited for room at an endpoint
    ├── route                     the decision: one event per candidate, then what became of it
    ├── chat m                    an attempt, refused                                      CLIENT
    └── chat m                    the attempt that answered                                CLIENT
        └── queue, prefill, decode    the replica's own (replica_spans.py), or vLLM's

A span tells nothing of a prompt or an answer unless the operator has asked for content; never a
key, a prefix key or a salt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from gateway.domain import (
    Attempt,
    Considered,
    Ended,
    Outcome,
    TraceContext,
    Usage,
    first_choice,
)
from gateway.errors import Fault
from gateway.telemetry import names
from gateway.telemetry.facts import OPERATIONS, forecast, model_of, place_of, reason

MAX_CANDIDATES = 16
"""Events of one decision: a viewer shows no more, and the SDK's own limit is 128."""

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
"""Also on spans that were kept afterwards: a collector takes what it is sent."""

Attributes = dict[str, str | bool | int | float | tuple[str, ...]]
Address = Callable[[str], tuple[str, int] | None]
"""An endpoint's host and port, by its name; None: not known."""


def nowhere(endpoint: str) -> None:
    return None


_UNSET, _FAILED = Status(StatusCode.UNSET), StatusCode.ERROR
_WORDS = ("endpoint", "dropped_by", "unavailable")
_NUMBERS = tuple(name for name in Considered.__slots__ if name not in _WORDS)
_SCALARS = {
    "max_tokens": names.REQUEST_MAX_TOKENS,
    "max_completion_tokens": names.REQUEST_MAX_TOKENS,
    "temperature": names.REQUEST_TEMPERATURE,
    "top_p": names.REQUEST_TOP_P,
    "seed": names.REQUEST_SEED,
    "frequency_penalty": names.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": names.REQUEST_PRESENCE_PENALTY,
    "dimensions": names.REQUEST_DIMENSIONS,
}
"""Fields of a request that are numbers and become attributes; a `stop` would be content."""


@dataclass(frozen=True, slots=True)
class SpanFactory:
    """Spans of one process. `to_wall` makes nanoseconds since 1970 of the exchange's clock."""

    resource: Resource
    scope: InstrumentationScope
    content: bool = False  # prompts and answers too
    address: Address = nowhere

    def span(
        self,
        name: str,
        kind: SpanKind,
        ids: tuple[int, int, int | None],  # trace, span, parent
        times: tuple[int, int],
        attributes: Attributes,
        *,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        error: str | None = None,
    ) -> ReadableSpan:
        trace_id, span_id, parent_id = ids
        parent = None
        if parent_id is not None:
            parent = SpanContext(trace_id, parent_id, is_remote=False, trace_flags=SAMPLED)
        return ReadableSpan(
            name,
            context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=SAMPLED),
            parent=parent,
            resource=self.resource,
            attributes=attributes,
            events=events,
            links=links,
            kind=kind,
            status=_UNSET if error is None else Status(_FAILED, error),
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=self.scope,
        )

    def of(self, outcome: Outcome, to_wall: Callable[[float], int]) -> list[ReadableSpan]:
        trace = outcome.trace
        assert trace is not None, "an exchange that nobody traces has no spans"
        spans = [self._server(outcome, trace, to_wall)]
        if outcome.policy is not None and outcome.decided is not None:
            spans.append(self._route(outcome, trace, outcome.decided, to_wall))
        spans += (
            self.span(
                "queue",
                SpanKind.INTERNAL,
                (trace.trace_id, trace.attempt_id(-3 - index), trace.span_id),
                (to_wall(began), to_wall(ended)),
                {names.REQUEST_CLASS: outcome.request.request_class if outcome.request else ""},
            )
            for index, (began, ended) in enumerate(outcome.queued.items())
        )
        spans += (self._attempt(outcome, trace, attempt, to_wall) for attempt in outcome.attempts)
        return spans

    def _server(
        self, outcome: Outcome, trace: TraceContext, to_wall: Callable[[float], int]
    ) -> ReadableSpan:
        path = outcome.path or f"/v1/{outcome.operation}"
        attributes: Attributes = {
            names.METHOD: "POST",
            names.ROUTE: path,
            names.URL_PATH: path,
            names.URL_SCHEME: "http",
            names.REQUEST_ID: outcome.request_id,
            names.TENANT: outcome.principal.tenant,
            names.ENDED: str(outcome.ended),
            **_request(outcome),
            **_tokens(outcome.usage),
        }
        if outcome.finish_reasons:
            attributes[names.FINISH_REASONS] = outcome.finish_reasons
        if outcome.status is not None:
            attributes[names.STATUS] = outcome.status
        if outcome.policy is not None:
            attributes[names.POLICY] = outcome.policy
        place = place_of(outcome)
        if place is not None:
            attributes[names.ENDPOINT] = place
            attributes[names.COST_USD] = sum(a.billed_usd for a in outcome.attempts)
        if outcome.cache is not None:
            attributes[names.CACHE] = outcome.cache
        if outcome.error is not None:
            attributes[names.ERROR] = outcome.error
        if self.content:
            attributes |= _content(outcome)
        links = []
        if trace.linked is not None:
            links.append(Link(SpanContext(*trace.linked, is_remote=True)))
        # A caller's own mistake is no error of this server: HTTP's conventions say so too.
        ours = outcome.fault in (Fault.OURS, Fault.PROVIDER)
        return self.span(
            f"POST {path}",
            SpanKind.SERVER,
            (trace.trace_id, trace.span_id, trace.parent_id),
            (to_wall(outcome.started), to_wall(outcome.finished or outcome.started)),
            attributes,
            links=links,
            error=outcome.error if ours else None,
        )

    def _route(
        self,
        outcome: Outcome,
        trace: TraceContext,
        decided: tuple[float, float],
        to_wall: Callable[[float], int],
    ) -> ReadableSpan:
        begun, done = map(to_wall, decided)
        chosen = first_choice(outcome.considered)
        others = [c for c in outcome.considered if c.dropped_by is None and c is not chosen]
        attributes: Attributes = {
            names.POLICY: outcome.policy or "",
            names.POLICY_VERSION: outcome.policy_version,
            names.REASON: reason(outcome.considered),
            names.CANDIDATES: len(outcome.considered),
        }
        if chosen is not None:
            attributes[names.WINNER] = chosen.endpoint
        if chosen is not None and others:
            attributes[names.RUNNER_UP] = others[0].endpoint
            attributes[names.MARGIN] = others[0].cost - chosen.cost
        # What became of it: the numbers that the winner was chosen for, beside the real ones.
        for name, (expected, actual) in forecast(outcome.answering, outcome.usage).items():
            attributes[f"{names.EXPECTED}.{name}"] = expected
            if actual is not None:
                attributes[f"{names.ACTUAL}.{name}"] = actual
        events = [
            Event("candidate", _candidate(considered), done)
            for considered in outcome.considered[:MAX_CANDIDATES]
        ]
        return self.span(
            "route",
            SpanKind.INTERNAL,
            (trace.trace_id, trace.attempt_id(-2), trace.span_id),
            (begun, done),
            attributes,
            events=events,
        )

    def _attempt(
        self,
        outcome: Outcome,
        trace: TraceContext,
        attempt: Attempt,
        to_wall: Callable[[float], int],
    ) -> ReadableSpan:
        request = _request(outcome)
        attributes: Attributes = {
            names.PROVIDER: attempt.endpoint,
            names.ENDPOINT: attempt.endpoint,
            **request,
            f"{names.EXPECTED}.ttft_s": attempt.expected_ttft_s,
            f"{names.EXPECTED}.cached_tokens": attempt.expected_cached_tokens,
            f"{names.EXPECTED}.cost_usd": attempt.expected_cost_usd,
        }
        where = self.address(attempt.endpoint)
        if where is not None:
            attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = where
        if attempt.number:
            attributes[names.RESENDS] = attempt.number
        attributes |= _tokens(attempt.billed)
        if outcome.finish_reasons and attempt is outcome.answering:
            attributes[names.FINISH_REASONS] = outcome.finish_reasons
        for name, is_so in (
            (names.HEDGE, attempt.hedge),
            (names.RESUMED, attempt.resumed),
            (names.PROBE, attempt.probe),
            (names.OVERTAKEN, attempt.ended is Ended.OVERTAKEN),
        ):
            if is_so:
                attributes[name] = True
        if attempt.error is not None:
            attributes[names.ERROR] = attempt.error
        if attempt.billed_by is not None:
            attributes[names.COST_USD] = attempt.billed_usd
            attributes[names.BILLED_BY] = attempt.billed_by
        events = []
        if attempt.first_event is not None:
            if outcome.request is not None and outcome.request.stream:
                attributes[names.RESPONSE_FIRST_CHUNK] = attempt.first_event - attempt.started
            events.append(Event("first event", {}, to_wall(attempt.first_event)))
        ended = attempt.last_event or outcome.finished or attempt.started
        return self.span(
            " ".join(filter(None, (_operation(outcome), model_of(outcome)))),
            SpanKind.CLIENT,
            (trace.trace_id, trace.attempt_id(attempt.number), trace.span_id),
            (to_wall(attempt.started), to_wall(ended)),
            attributes,
            events=events,
            error=attempt.error,
        )


def _operation(outcome: Outcome) -> str:
    return OPERATIONS[outcome.operation] if outcome.operation else ""


def _request(outcome: Outcome) -> Attributes:
    attributes: Attributes = {names.OPERATION: _operation(outcome)}
    model = model_of(outcome)
    if model is not None:
        attributes[names.REQUEST_MODEL] = model
    if outcome.request is None:
        return attributes
    forwarded = outcome.request.forwarded
    for field, name in _SCALARS.items():
        value = forwarded.get(field)
        if isinstance(value, int | float):
            # Protobuf's integers have 64 bits, JSON's have any number.
            attributes[name] = value if abs(value) < 2**63 else float(value)
    if outcome.request.stream:
        attributes[names.REQUEST_STREAM] = True
    encoding = forwarded.get("encoding_format")
    if isinstance(encoding, str):
        attributes[names.REQUEST_ENCODINGS] = (encoding,)
    choices = forwarded.get("n")
    if isinstance(choices, int) and choices != 1:
        attributes[names.REQUEST_CHOICES] = choices
    return attributes


def _tokens(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    attributes: Attributes = {
        names.INPUT_TOKENS: usage.prompt_tokens,
        names.OUTPUT_TOKENS: usage.completion_tokens,
    }
    if usage.cached_tokens is not None:
        attributes[names.CACHED_TOKENS] = usage.cached_tokens
    return attributes


def _candidate(considered: Considered) -> Attributes:
    attributes: Attributes = {f"{names.CANDIDATE}.endpoint": considered.endpoint}
    if considered.dropped_by is not None:
        return attributes | {names.REJECTED_BY: considered.dropped_by}
    if considered.unavailable is not None:
        attributes[names.UNAVAILABLE] = considered.unavailable
    for name in _NUMBERS:
        attributes[f"{names.CANDIDATE}.{name}"] = getattr(considered, name)
    return attributes


def _content(outcome: Outcome) -> Attributes:
    """Opt-in: what was asked and answered, as JSON, as the conventions have it."""
    attributes: Attributes = {}
    if outcome.request is not None:
        forwarded = outcome.request.forwarded
        asked = forwarded.get("messages", forwarded.get("prompt"))
        attributes[names.INPUT_MESSAGES] = json.dumps(asked, ensure_ascii=False)
    if outcome.answer:
        text = "".join(_texts(outcome.answer))
        attributes[names.OUTPUT_MESSAGES] = json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": text}]}],
            ensure_ascii=False,
        )
    return attributes


def _texts(payloads: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """What the first choice said; a streamed answer's pieces, or the whole of a plain one."""
    for payload in payloads:
        match payload:
            case {"choices": [{"delta": {"content": str(text)}}, *_]}:
                yield text
            case {"choices": [{"message": {"content": str(text)}}, *_]}:
                yield text
            case {"choices": [{"text": str(text)}, *_]}:
                yield text
