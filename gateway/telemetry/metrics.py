"""
What exchanges add up to, for Prometheus.

With PROMETHEUS_MULTIPROC_DIR in the environment before the start, workers write to files in that
folder, and whichever of them is scraped answers for all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.domain import Attempt, Ended, Outcome
from gateway.telemetry import instruments as of
from gateway.telemetry.facts import OPERATIONS, model_of, reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

Gauges = Mapping[str, Mapping[str, float]]
"""By a gauge's name, then by its label's value; `""` where it has no label."""

Balances = Sequence[tuple[str, str, float, float]]
"""Of budgets: tenant, window, dollars, what is left of them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Balances(Collector):
    """Read when somebody scrapes, so that a tenant without a budget any more is gone."""

    balances: Balances

    def collect(self) -> Iterator[Metric]:
        for name, of_tenant in of.BALANCES.items():
            family = GaugeMetricFamily(f"gateway_{name}", of_tenant, labels=("tenant", "window"))
            for tenant, window, budget, left in self.balances:
                value = left if name == of.LEFT else budget
                family.add_metric((tenant, window), value)
            yield family


class _Histogram(Histogram):
    def add(self, counts: Sequence[float], total: float) -> None:
        """Many values at once: how many there were in each bucket, and their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Metrics:
    """An observer. A model's name is a label only when somebody serves it.

    What it is told is added up here, and handed on when somebody looks: each of a dozen series that
    an exchange counts in is behind a lock, or in a file that workers share.
    """

    def __init__(self, read_gauges: Callable[[], Gauges]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each
        registry = self._registry = CollectorRegistry()
        self._read_gauges = read_gauges
        self._histograms = {
            h.name: _Histogram(h.name, h.text, h.labels, buckets=h.buckets, registry=registry)
            for h in of.HISTOGRAMS
        }
        self._counters = {
            name: Counter(f"gateway_{name}", c.text, c.labels, registry=registry)
            for name, c in of.COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(
                f"gateway_{name}",
                g.text,
                (g.label,) if g.label else (),
                multiprocess_mode=g.several,  # type: ignore[arg-type]
                registry=registry,
            )
            for name, g in of.GAUGES.items()
        }
        # Since the last refresh, by a metric's name and its labels' values.
        self._counted: dict[tuple[str, ...], float] = defaultdict(float)
        self._observed: dict[tuple[str, ...], list[float]] = {}  # of each bucket; their sum

    def exposition(self, balances: Balances = ()) -> bytes:
        """All of it in Prometheus's text format, on whatever thread, as of the last refresh.
        `balances` are of all gateways that share them."""
        registry = self._registry
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        told = CollectorRegistry()
        told.register(_Balances(balances))
        return generate_latest(registry) + generate_latest(told)

    def refresh(self) -> None:
        """For a scrape; with several workers also now and then, since another may be scraped, and
        at the end. On the thread that counts."""
        while self._counted:  # taken out first: what cannot be told must not be told twice
            (name, *labels), by = self._counted.popitem()
            self._counters[name].labels(*labels).inc(by)
        while self._observed:
            (name, *labels), (*counts, total) = self._observed.popitem()
            self._histograms[name].labels(*labels).add(counts, total)
        for name, values in self._read_gauges().items():
            for label, value in values.items():
                gauge = self._gauges[name]
                (gauge.labels(label) if label else gauge).set(value)

    def settled(self, outcome: Outcome) -> None:
        model = model_of(outcome) or "-"
        operation = OPERATIONS[outcome.operation] if outcome.operation else "-"
        self._exchange(outcome, operation, model)
        begun = sorted(outcome.attempts, key=lambda attempt: attempt.number)
        for before, attempt in zip([None, *begun], begun, strict=False):
            self._why(outcome, before, attempt)
            self._attempt(outcome, attempt, operation, model)
        if outcome.decided is not None and outcome.policy is not None:
            self._count("decisions", outcome.policy, reason(outcome.considered))
            for considered in outcome.considered:
                if considered.dropped_by is not None:
                    self._count("rejections", considered.endpoint, considered.dropped_by)
        if outcome.cache is not None:
            self._count("response_cache", model, outcome.cache)
        if outcome.ended is Ended.FAILED and not outcome.attempts:
            self._count("shed", outcome.error or "server_error")

    def refused(self, code: str) -> None:
        """A request that did not come as far as an exchange."""
        self._count("refused", code)

    def _why(self, outcome: Outcome, before: Attempt | None, attempt: Attempt) -> None:
        """There was another attempt before this one: for one of three reasons."""
        name, error = attempt.endpoint, attempt.error or ""
        if attempt.resumed:
            self._count("resumes", name, error)
        elif attempt.hedge:
            won = attempt is outcome.answering and attempt.first_event is not None
            self._count("hedges", name, "yes" if won else "no")
        elif before is not None:
            self._count("fallbacks", name, before.error or "")

    def _exchange(self, outcome: Outcome, operation: str, model: str) -> None:
        self._count("exchanges", model, str(outcome.ended), outcome.fault or "")
        self._observe(of.REQUEST_DURATION, outcome.total_s, operation, model, outcome.error or "")
        first, usage = outcome.first_event_s, outcome.usage
        if first is None or outcome.operation is None or not outcome.operation.writes:
            return
        self._observe(of.FIRST_TOKEN, first, operation, model)
        streamed = outcome.request is not None and outcome.request.stream
        if streamed and usage is not None and usage.completion_tokens > 1:
            pace = (outcome.total_s - first) / (usage.completion_tokens - 1)
            self._observe(of.PER_TOKEN, pace, operation, model)

    def _attempt(self, outcome: Outcome, attempt: Attempt, operation: str, model: str) -> None:
        name, error = attempt.endpoint, attempt.error or ""
        self._count("attempts", name, error)
        took = (attempt.last_event or attempt.started) - attempt.started
        self._observe(of.OPERATION_DURATION, took, operation, name, model, error)
        if attempt.billed_by is not None:
            self._count("cost_dollars", name, model, attempt.billed_by, by=attempt.billed_usd)
            self._count("expected_cost_dollars", name, model, by=attempt.expected_cost_usd)
        if attempt.first_event is not None and attempt is outcome.answering:
            self._answered(outcome, attempt, operation, model)

    def _answered(self, outcome: Outcome, attempt: Attempt, operation: str, model: str) -> None:
        name, usage = attempt.endpoint, outcome.usage
        expected, waited = attempt.expected_ttft_s, attempt.ttft_s
        assert waited is not None, "an attempt that answered has a first event"
        if outcome.request is not None and outcome.request.stream:
            self._observe(of.FIRST_CHUNK, waited, operation, name, model)
        if expected > 0:
            self._observe(of.ACTUAL_TO_EXPECTED, waited / expected, name)
        if usage is None:
            return
        place = (operation, name, model)
        self._observe(of.TOKEN_USAGE, usage.prompt_tokens, *place, "input")
        self._observe(of.TOKEN_USAGE, usage.completion_tokens, *place, "output")
        if usage.cached_tokens is not None:
            self._observe(of.TOKEN_USAGE, usage.cached_tokens, *place, "cached_input")
            self._count("cached_tokens", name, model, by=usage.cached_tokens)
            self._count("expected_cached_tokens", name, model, by=attempt.expected_cached_tokens)

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        self._counted[name, *labels] += by

    def _observe(self, histogram: of.HistogramOf, value: float, *labels: str) -> None:
        key = (histogram.name, *labels)
        seen = self._observed.get(key)
        if seen is None:
            seen = self._observed[key] = [0.0] * (len(histogram.buckets) + 2)  # one is +Inf
        seen[bisect_left(histogram.buckets, value)] += 1
        seen[-1] += value
