"""
What the engine measures of itself, and Prometheus's text format of it.

The engine's workers write plain integers and floats, one at a time, about a microsecond for each
token; whoever scrapes reads them from another thread and may be a step behind. Names and buckets
are vLLM's (vllm/v1/metrics/loggers.py), so that its dashboards fit. Nothing here knows a tenant, a
prompt or a session.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from gateway.replica.plan import Plan
from gateway.replica.request import Finish, Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.ABORTED: "abort", None: "error"}
"""vLLM's words for why a request ended; None: it failed."""


class Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds  # upper ones, inclusive and ascending
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, name: str, label: str) -> Iterator[str]:
        total = 0
        bounds = [f"{bound:g}" for bound in self._bounds]
        for bound, count in zip((*bounds, "+Inf"), self._counts.copy(), strict=True):
            total += count
            yield f'{name}_bucket{{{label},le="{bound}"}} {total}'
        yield f"{name}_sum{{{label}}} {self._sum}"
        yield f"{name}_count{{{label}}} {total}"


class EngineMetrics:
    """Filled by the engine's workers; times are the engine's clock, in seconds."""

    def __init__(self) -> None:
        self.queried_tokens = 0  # of prompts that were looked up in the prefix cache
        self.hit_tokens = 0
        self.prompt_tokens = 0  # of requests that got their first token
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.endings: dict[Finish | None, int] = dict.fromkeys(_REASONS, 0)
        self.first_token = Histogram(_FIRST_TOKEN_S)
        self.between_tokens = Histogram(_BETWEEN_TOKENS_S)
        self.request = Histogram(_REQUEST_S)
        self.queued = Histogram(_REQUEST_S)
        self.prefill = Histogram(_REQUEST_S)
        self.decode = Histogram(_REQUEST_S)
        self.step_tokens = Histogram(_STEP_TOKENS)

    def planned(self, plan: Plan, now: float) -> None:
        self.step_tokens.observe(sum(map(len, plan.rows)))
        for request in (row.request for row in plan.rows):
            if request.planned is None:
                request.planned = now
                self.queued.observe(now - request.arrived)
                self.queried_tokens += request.counts.prompt_tokens
                self.hit_tokens += request.counts.cached_tokens

    def sampled(self, request: Request, now: float) -> None:
        self.generated_tokens += 1
        if request.last_token is not None:
            self.between_tokens.observe(now - request.last_token)
        elif request.planned is not None:
            request.first_token = now
            self.first_token.observe(now - request.arrived)
            self.prefill.observe(now - request.planned)
            self.prompt_tokens += request.counts.prompt_tokens
            self.cached_tokens += request.counts.cached_tokens
        request.last_token = now

    def finished(self, request: Request, finish: Finish | None, now: float) -> None:
        self.endings[finish] += 1
        self.request.observe(now - request.arrived)
        if request.first_token is not None and request.last_token is not None:
            self.decode.observe(request.last_token - request.first_token)


def exposition(
    metrics: EngineMetrics, gauges: Mapping[str, float], counters: Mapping[str, int], model: str
) -> str:
    """All of it in Prometheus's text format, version 0.0.4, under the label `model_name`.

    `gauges` and `counters`, by name, are those that the engine's stats tell.
    """
    escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    label = f'model_name="{escaped}"'
    lines: list[str] = []
    for name, value in gauges.items():
        lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{label}}} {value}"]
    for name, value in {**counters, **_counters(metrics)}.items():
        lines += [f"# TYPE vllm:{name} counter", f"vllm:{name}{{{label}}} {value}"]
    lines.append("# TYPE vllm:request_success_total counter")
    for finish, reason in _REASONS.items():
        labels = f'{label},finished_reason="{reason}"'
        lines.append(f"vllm:request_success_total{{{labels}}} {metrics.endings[finish]}")
    for name, histogram in _histograms(metrics).items():
        lines.append(f"# TYPE vllm:{name} histogram")
        lines += histogram.samples(f"vllm:{name}", label)
    return "\n".join(lines) + "\n"


def _counters(metrics: EngineMetrics) -> Mapping[str, int]:
    return {
        "prefix_cache_queries_total": metrics.queried_tokens,
        "prefix_cache_hits_total": metrics.hit_tokens,
        "prompt_tokens_total": metrics.prompt_tokens,
        "prompt_tokens_cached_total": metrics.cached_tokens,
        "generation_tokens_total": metrics.generated_tokens,
    }


def _histograms(metrics: EngineMetrics) -> Mapping[str, Histogram]:
    return {
        "time_to_first_token_seconds": metrics.first_token,
        "inter_token_latency_seconds": metrics.between_tokens,
        "e2e_request_latency_seconds": metrics.request,
        "request_queue_time_seconds": metrics.queued,
        "request_prefill_time_seconds": metrics.prefill,
        "request_decode_time_seconds": metrics.decode,
        "iteration_tokens_total": metrics.step_tokens,
    }
