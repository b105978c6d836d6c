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
from bisect import bisect_left
from collections.abc import Sequence

from routing_policies.base import (
    LATENESS_SIGMAS,
    Candidate,
    Coefficients,
    Context,
    Estimate,
    Limits,
    RouteRequest,
)


def estimate(
    request: RouteRequest, candidate: Candidate, limits: Limits, context: Context
) -> Estimate:
    known = candidate.coefficients
    # At least the last token of a prompt is always computed: its logits start the answer.
    cached = min(candidate.cached_tokens, max(0, request.prompt_tokens - 1))
    uncached = request.prompt_tokens - cached
    prefill = uncached * (known.per_token_s + known.per_token_context_s * request.prompt_tokens)
    ttft = candidate.start_s + known.base_s + candidate.queued_tokens * known.per_queued_s + prefill
    tpot = known.per_output_s + candidate.in_flight * known.per_output_busy_s
    others = math.sqrt(candidate.in_flight) if candidate.dedicated else 0.0
    found = cached * known.hit_rate  # of the cached tokens; a cache that often misses saves less
    dollars = candidate.start_usd + candidate.price.dollars(
        request.prompt_tokens - found, found, request.output_tokens
    )
    return Estimate(
        cached_tokens=cached,
        uncached_tokens=uncached,
        ttft_s=ttft,
        external_s=prefill * others,
        tpot_s=tpot,
        cost_usd=dollars,
        effective_usd=dollars * (1 + context.budget_multiplier),
        p_miss=_risk(ttft, tpot, limits, known),
    )


def _risk(ttft: float, tpot: float, limits: Limits, known: Coefficients) -> float:
    kept = 1 - known.error_rate  # an error is a miss
    if limits.ttft_s is not None:
        kept *= _within(ttft, limits.ttft_s, known.lateness)
    if limits.tpot_s is not None:
        kept *= _within(tpot, limits.tpot_s, known.lateness)
    return 1 - kept


def _within(expected: float, limit: float, lateness: Sequence[float]) -> float:
    """P(actual ≤ limit), `ln(actual / expected)` having these quantiles."""
    late = math.log(limit / max(expected, 1e-6))
    return 0.5 * math.erfc(-sigmas(late, lateness) / math.sqrt(2))


def sigmas(value: float, quantiles: Sequence[float]) -> float:
    """How many standard deviations above the median, on the line through the two quantiles around
    `value`, or through the nearest two: a normal distribution comes out as it is."""
    above = min(max(bisect_left(quantiles, value), 1), len(quantiles) - 1)
    low, high = quantiles[above - 1], quantiles[above]
    share = (value - low) / (high - low)
    return LATENESS_SIGMAS[above - 1] + share * (
        LATENESS_SIGMAS[above] - LATENESS_SIGMAS[above - 1]
    )


def lateness_at(deviations: float, quantiles: Sequence[float]) -> float:
    """What `sigmas` turns into so many standard deviations, for those that quantiles span."""
    above = min(max(bisect_left(LATENESS_SIGMAS, deviations), 1), len(quantiles) - 1)
    low, high = LATENESS_SIGMAS[above - 1], LATENESS_SIGMAS[above]
    share = (deviations - low) / (high - low)
    return quantiles[above - 1] + share * (quantiles[above] - quantiles[above - 1])
