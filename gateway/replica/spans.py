"""A request's end as spans, where the gateway asked for them and a collector is configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.replica.request import Counts, Finish
from gateway.telemetry.replica_spans import Phases, ReplicaTracing, replica_tracing
from gateway.telemetry.trace_context import parse_traceparent


@dataclass(frozen=True, slots=True)
class Spans:
    tracing: ReplicaTracing

    def watch(self, traceparent: str | None) -> Callable[[Finish, Counts], None] | None:
        parent = parse_traceparent(traceparent)
        if parent is None or not parent.sampled:
            return None

        def ended(finish: Finish, counts: Counts) -> None:
            if counts.times is None:  # it was never given to the engine
                return
            phases = Phases(
                arrived=counts.times.arrived,
                planned=_not_before(counts.times.arrived, counts.times.planned),
                first_token=counts.times.first_token,
                ended=self.tracing.clock(),
                prompt_tokens=counts.prompt_tokens,
                cached_tokens=counts.cached_tokens,
                completion_tokens=counts.completion_tokens,
                finish=finish,
            )
            self.tracing.ended(parent, phases)

        return ended

    def close(self) -> None:
        self.tracing.queue.close()


def _not_before(arrived: float, planned: float | None) -> float | None:
    """A step's time is read before what it has just received."""
    return None if planned is None else max(arrived, planned)


def spans_to(collector: str | None, clock: Callable[[], float]) -> Spans:
    return Spans(replica_tracing(collector, clock))
