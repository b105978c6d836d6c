"""W3C Trace Context: joining a caller's trace, or beginning one, and who is sampled.

https://www.w3.org/TR/trace-context/. A header that is not well formed begins a new trace; it never
fails a request.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain import TraceContext

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MAX_STATE = 512  # characters that everyone must pass on


@dataclass(frozen=True, slots=True)
class Parent:
    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(header: str | None) -> Parent | None:
    match = TRACEPARENT.fullmatch(header.strip()) if header else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    parent = Parent(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1))
    return parent if parent.trace_id and parent.span_id else None


@dataclass(frozen=True, slots=True)
class Sampling:
    """`share` of the traces that begin here; of a trusted caller's, those that it samples."""

    share: float = 1.0
    parent_decides: bool = True
    trust_callers: bool = True

    def begin(self, headers: Mapping[str, str], draws: random.Random) -> TraceContext:
        """`headers` takes names in lower case."""
        caller = parse_traceparent(headers.get("traceparent"))
        span_id = draws.getrandbits(64) or 1
        if caller is not None and self.trust_callers:
            sampled = caller.sampled if self.parent_decides else self._drawn(caller.trace_id)
            state = headers.get("tracestate", "")[:MAX_STATE]
            return TraceContext(caller.trace_id, span_id, sampled, caller.span_id, state=state)
        trace_id = draws.getrandbits(128) or 1
        linked = (caller.trace_id, caller.span_id) if caller else None
        return TraceContext(trace_id, span_id, self._drawn(trace_id), linked=linked)

    def _drawn(self, trace_id: int) -> bool:
        """By the id, so that every process that has this share decides alike (OpenTelemetry's
        TraceIdRatioBased)."""
        return trace_id & (2**64 - 1) < round(self.share * 2**64)


def sampling_of(environ: Mapping[str, str]) -> Sampling:
    """OTEL_TRACES_SAMPLER and its argument; what they say wrongly is as if they said nothing."""
    name = environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    parent_decides = name.startswith("parentbased_")
    match name.removeprefix("parentbased_"):
        case "always_off":
            share = 0.0
        case "traceidratio":
            share = _share(environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
        case _:
            share = 1.0
    return Sampling(share, parent_decides)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        return 1.0
    return share if 0 <= share <= 1 else 1.0


def wanted(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether anyone has said where spans are to go."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(endpoint) or any(environ.get(name) for name in ENDPOINTS)
