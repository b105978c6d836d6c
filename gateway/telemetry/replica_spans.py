"""What a replica did for one request, as spans below the gateway's attempt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from gateway.telemetry import names
from gateway.telemetry.otlp import SpanQueue, exporter, factory
from gateway.telemetry.spans import Attributes, SpanFactory
from gateway.telemetry.trace_context import Parent


@dataclass(frozen=True, slots=True)
class Phases:
    """One request's times, on the engine's clock; None: it never came to that."""

    arrived: float
    planned: float | None  # its first tokens were put into a step
    first_token: float | None
    ended: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish: str


@dataclass
class ReplicaTracing:
    """`clock` is the engine's; `wall` gives nanoseconds since 1970. Any thread may tell."""

    spans: SpanFactory
    queue: SpanQueue
    clock: Callable[[], float]
    wall: Callable[[], int] = time.time_ns
    random: random.Random = field(default_factory=random.Random)

    def ended(self, parent: Parent, phases: Phases) -> None:
        now, here = self.wall(), self.clock()
        self.queue.put(list(self._spans(parent, phases, lambda t: now - round((here - t) * 1e9))))

    def _spans(
        self, parent: Parent, phases: Phases, to_wall: Callable[[float], int]
    ) -> Iterator[ReadableSpan]:
        def span(name: str, start: float, end: float, attributes: Attributes) -> ReadableSpan:
            ids = (parent.trace_id, self.random.getrandbits(64) or 1, parent.span_id)
            times = (to_wall(start), to_wall(end))
            return self.spans.span(name, SpanKind.INTERNAL, ids, times, attributes)

        planned, first = phases.planned, phases.first_token
        finish: Attributes = {names.FINISH: phases.finish}
        last = {names.OUTPUT_TOKENS: phases.completion_tokens, **finish}
        yield span("queue", phases.arrived, planned or phases.ended, {} if planned else finish)
        if planned is None:
            return
        prompt: Attributes = {
            names.INPUT_TOKENS: phases.prompt_tokens,
            names.CACHED_TOKENS: phases.cached_tokens,
        }
        if first is None:
            yield span("prefill", planned, phases.ended, prompt | finish)
            return
        yield span("prefill", planned, first, prompt)
        yield span("decode", first, phases.ended, last)


def replica_tracing(endpoint: str | None, clock: Callable[[], float]) -> ReplicaTracing:
    """Started; whoever starts it closes its queue."""
    queue = SpanQueue(exporter(endpoint))
    queue.start()
    return ReplicaTracing(factory("replica"), queue, clock)
