"""The provider's model: times, dollars and a cache that ages."""

from __future__ import annotations

import pytest

from gateway.replay.hosted import Hosted, HostedSpec
from gateway.replay.trace import TraceRequest
from tests.replay.drive import drive

SPEC = HostedSpec(
    ttft_s=0.5,
    prefill_tokens_per_s=1000,
    tokens_per_s=10,
    input_usd=2.0,
    cached_usd=1.0,
    output_usd=4.0,
    cache_ttl_s=60,
    cache_min_tokens=1024,
)
LONG = TraceRequest(0.0, 2048, 11, (1, 2, 3, 4))


def again(at: float, **other: int) -> TraceRequest:
    return TraceRequest(at, 2048, 11, (1, 2, 3, other.get("last", 5)))


def test_a_prompt_takes_its_time_and_its_price() -> None:
    times, jobs = drive(Hosted(SPEC, 512), [LONG])
    assert times[0] == pytest.approx((0.5 + 2.048, 0.5 + 2.048 + 1.0))
    assert jobs[0].cost_usd == pytest.approx((2048 * 2 + 11 * 4) / 1e6)


def test_a_cached_prefix_is_sooner_and_cheaper() -> None:
    times, jobs = drive(Hosted(SPEC, 512), [LONG, again(59)])
    assert jobs[1].cached_tokens == 1536
    assert times[1][0] == pytest.approx(59 + 0.5 + 0.512)
    assert jobs[1].cost_usd == pytest.approx((512 * 2 + 1536 + 11 * 4) / 1e6)


def test_a_cache_ages_and_use_keeps_it_young() -> None:
    _, jobs = drive(Hosted(SPEC, 512), [LONG, again(50), again(100), again(161)])
    assert [job.cached_tokens for job in jobs] == [0, 1536, 2047, 0]


def test_short_prefixes_are_not_looked_up() -> None:
    short = [TraceRequest(0.0, 600, 1, (1, 2)), TraceRequest(1.0, 600, 1, (1, 2))]
    _, jobs = drive(Hosted(SPEC, 512), short)
    assert jobs[1].cached_tokens == 0


def test_requests_do_not_wait_for_each_other() -> None:
    times, _ = drive(Hosted(SPEC, 512), [TraceRequest(0.0, 1000, 2) for _ in range(50)])
    assert len(set(times.values())) == 1
