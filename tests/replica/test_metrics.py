from __future__ import annotations

import re

import pytest

from gateway.replica.backends.base import Batch, Float32
from gateway.replica.engine import Engine
from gateway.replica.metrics import EngineMetrics, Histogram, exposition
from gateway.replica.request import Submission
from gateway.replica.sampling import Sampling
from tests.support.clock import ManualClock
from tests.support.fake_backend import FakeBackend


class TimedBackend(FakeBackend):
    """A step takes 0.2 s."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def forward(self, batch: Batch) -> Float32:
        self._clock.advance(0.2)
        return super().forward(batch)


def ask(engine: Engine, name: str, size: int, tokens: int) -> None:
    sampling = Sampling(temperature=0, max_tokens=tokens)
    engine.submit(
        Submission(
            name,
            tuple(range(size)),
            sampling,
            on_token=lambda output: False,
            on_finish=lambda finish, counts: None,
            on_error=lambda error: None,
            salt=b"tenant-7",
        )
    )


def told(metrics: EngineMetrics) -> dict[str, float]:
    """Every sample by its name, without the model's label."""
    text = exposition(metrics, {}, {}, "m").replace('{model_name="m"}', "")
    text = text.replace('model_name="m",', "")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_requests_tokens_and_times_are_counted() -> None:
    clock = ManualClock()
    engine = Engine(TimedBackend(clock), clock=clock, max_running=1)
    ask(engine, "first", 40, tokens=3)
    ask(engine, "second", 40, tokens=3)
    while engine.step():
        pass
    samples = told(engine.metrics)
    assert samples["vllm:prompt_tokens_total"] == samples["vllm:prefix_cache_queries_total"] == 80
    assert samples["vllm:prompt_tokens_cached_total"] == 32
    assert samples["vllm:prefix_cache_hits_total"] == 32
    assert samples["vllm:generation_tokens_total"] == 6
    assert samples['vllm:request_success_total{finished_reason="length"}'] == 2
    assert samples['vllm:request_success_total{finished_reason="stop"}'] == 0
    # one at a time: three steps each, the first of which is the prompt's
    for name, count, total in [
        ("request_queue_time_seconds", 2, 0.6),
        ("time_to_first_token_seconds", 2, 0.2 + 0.8),
        ("request_prefill_time_seconds", 2, 0.4),
        ("inter_token_latency_seconds", 4, 0.8),
        ("request_decode_time_seconds", 2, 0.8),
        ("e2e_request_latency_seconds", 2, 0.6 + 1.2),
        ("iteration_tokens_total", 6, 40 + 8 + 4),
    ]:
        assert samples[f"vllm:{name}_count"] == count
        assert samples[f"vllm:{name}_sum"] == pytest.approx(total)
        assert samples[f'vllm:{name}_bucket{{le="+Inf"}}'] == count


def test_aborted_and_failed_requests_have_a_reason_of_their_own() -> None:
    engine = Engine(FakeBackend(nan_at=0))
    ask(engine, "aborted", 40, tokens=3)
    engine.abort("aborted")
    ask(engine, "failed", 1, tokens=3)
    while engine.step():
        pass
    samples = told(engine.metrics)
    assert samples['vllm:request_success_total{finished_reason="abort"}'] == 1
    assert samples['vllm:request_success_total{finished_reason="error"}'] == 1
    assert samples["vllm:request_decode_time_seconds_count"] == 0


def test_a_histograms_buckets_are_cumulative_and_include_their_bound() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 2, 2.5, 3):
        histogram.observe(value)
    assert list(histogram.samples("h", 'a="b"')) == [
        'h_bucket{a="b",le="1"} 2',
        'h_bucket{a="b",le="2.5"} 4',
        'h_bucket{a="b",le="+Inf"} 5',
        'h_sum{a="b"} 8.5',
        'h_count{a="b"} 5',
    ]


def test_every_line_is_in_prometheus_format_and_names_the_model_alone() -> None:
    engine = Engine(FakeBackend())
    ask(engine, "session-9", 20, tokens=2)
    while engine.step():
        pass
    text = exposition(engine.metrics, {"num_requests_running": 1}, {}, 'a "quoted"\\ name')
    sample = re.compile(r'vllm:[a-z0-9_]+\{model_name="a \\"quoted\\"\\\\ name"[^}]*\} [-+.e0-9]+')
    kind = re.compile(r"# TYPE vllm:[a-z0-9_]+ (gauge|counter|histogram)")
    assert all(sample.fullmatch(line) or kind.fullmatch(line) for line in text.splitlines())
    assert "tenant-7" not in text
    assert "session-9" not in text
