"""Which exchanges are traced: some from their start, others because of how they ended."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.domain import Outcome, TraceContext
from gateway.errors import Fault
from gateway.telemetry.otlp import SpanQueue
from gateway.telemetry.spans import SpanFactory
from gateway.telemetry.trace_context import Sampling


@dataclass
class Tracing:
    """An observer. `clock` is the exchanges'; `wall` gives nanoseconds since 1970."""

    sampling: Sampling
    spans: SpanFactory
    queue: SpanQueue
    slow_s: float | None  # exchanges that took longer are kept, sampled or not
    clock: Callable[[], float]
    wall: Callable[[], int] = time.time_ns
    random: random.Random = field(default_factory=random.Random)

    @property
    def content(self) -> bool:
        return self.spans.content

    def begin(self, headers: Mapping[str, str]) -> TraceContext:
        return self.sampling.begin(headers, self.random)

    def settled(self, outcome: Outcome) -> None:
        trace = outcome.trace
        if trace is not None and (trace.sampled or self._must_be_kept(outcome)):
            now, here = self.wall(), self.clock()
            self.queue.put(self.spans.of(outcome, lambda t: now - round((here - t) * 1e9)))

    def _must_be_kept(self, outcome: Outcome) -> bool:
        """What somebody will want to look up afterwards."""
        if outcome.fault in (Fault.OURS, Fault.PROVIDER):
            return True
        # Another made up for it, or there were two at once.
        if any(attempt.failed or attempt.hedge for attempt in outcome.attempts):
            return True
        return self.slow_s is not None and outcome.total_s >= self.slow_s
