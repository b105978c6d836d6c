"""
The one place where a candidate's facts become what a request can expect there.

For a request with u uncached prompt tokens on a candidate with q uncached tokens queued and n
requests in flight: it waits for the queue and for its own prompt, `ttft = c0 + T(q) + p(u)`; where
the candidate computes for us alone it also delays the n others, by `p(u)·√n` in all (not p(u)·n:
in simulation over conversations, agents and hot prefixes, counting all of their delay made long
cold prompts starve). Dollars are marginal: what a machine costs that runs anyway is no reason to
leave it idle.
"""

from __future__ import annotations

import math

from routing_policies.base import Candidate, Context, Estimate, Limits, Price, RouteRequest


def estimate(
    request: RouteRequest, candidate: Candidate, limits: Limits, context: Context
) -> Estimate:
    known = candidate.coefficients
    # At least the last token of a prompt is always computed: its logits start the answer.
    cached = min(candidate.cached_tokens, max(0, request.prompt_tokens - 1))
    uncached = request.prompt_tokens - cached
    prefill = uncached * (known.per_token_s + known.per_token_context_s * request.prompt_tokens)
    ttft = known.base_s + candidate.queued_tokens * known.per_queued_s + prefill
    tpot = known.per_output_s + candidate.in_flight * known.per_output_busy_s
    others = math.sqrt(candidate.in_flight) if candidate.dedicated else 0.0
    dollars = _dollars(request, candidate.price, cached * known.hit_rate)
    return Estimate(
        cached_tokens=cached,
        uncached_tokens=uncached,
        ttft_s=ttft,
        external_s=prefill * others,
        tpot_s=tpot,
        cost_usd=dollars,
        effective_usd=dollars * (1 + context.budget_multiplier),
        p_miss=_risk(ttft, tpot, limits, known.spread, known.error_rate),
    )


def _dollars(request: RouteRequest, price: Price, cached: float) -> float:
    cached_price = price.input if price.cached is None else price.cached
    uncached = request.prompt_tokens - cached
    return (
        uncached * (price.input + price.cache_write)
        + cached * cached_price
        + request.output_tokens * price.output
    ) / 1e6


def _risk(ttft: float, tpot: float, limits: Limits, spread: float, error_rate: float) -> float:
    """Actual times are taken as log-normal around the expected; an error is a miss."""
    kept = 1 - error_rate
    for expected, limit in ((ttft, limits.ttft_s), (tpot, limits.tpot_s)):
        if limit is not None:
            kept *= _normal(math.log(limit / max(expected, 1e-6)) / max(spread, 1e-3))
    return 1 - kept


def _normal(z: float) -> float:
    """The standard normal distribution's share below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
