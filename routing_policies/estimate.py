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
from collections.abc import Iterable, Sequence

from routing_policies.base import (
    FREE,
    LATENESS_SIGMAS,
    Candidate,
    Coefficients,
    Context,
    Estimate,
    Limits,
    RouteRequest,
)

SQRT_2 = math.sqrt(2)


def estimates(
    request: RouteRequest, candidates: Iterable[Candidate], limits: Limits, context: Context
) -> list[Estimate]:
    """Of each candidate, in their order. One loop, for speed: see docs/performance.md."""
    prompt_tokens, output_tokens = request.prompt_tokens, request.output_tokens
    # At least the last token of a prompt is always computed: its logits start the answer.
    most_cached = max(0, prompt_tokens - 1)
    dearer = 1 + context.budget_multiplier
    made = []
    for candidate in candidates:
        known, price, in_flight = candidate.coefficients, candidate.price, candidate.in_flight
        cached = candidate.cached_tokens
        if cached > most_cached:
            cached = most_cached
        uncached = prompt_tokens - cached
        prefill = uncached * (known.per_token_s + known.per_token_context_s * prompt_tokens)
        queue = candidate.queued_tokens * known.per_queued_s
        ttft = candidate.start_s + known.base_s + queue + prefill
        external = prefill * math.sqrt(in_flight) if candidate.dedicated else 0.0
        tpot = known.per_output_s + in_flight * known.per_output_busy_s
        dollars = candidate.start_usd
        if price is not FREE:
            found = cached * known.hit_rate  # a cache that often misses saves less
            dollars += price.dollars(prompt_tokens - found, found, output_tokens)
        risk = _risk(ttft, tpot, limits, known)
        of_it = (cached, uncached, ttft, external, tpot, dollars, dollars * dearer, risk)
        made.append(tuple.__new__(Estimate, of_it))
    return made


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
    return 0.5 * math.erfc(-sigmas(late, lateness) / SQRT_2)


def sigmas(value: float, quantiles: Sequence[float]) -> float:
    """How many standard deviations above the median, on the line through the two quantiles around
    `value`, or through the nearest two: a normal distribution comes out as it is."""
    above = bisect_left(quantiles, value, 1, len(quantiles) - 1)
    low = quantiles[above - 1]
    # From one quantile to the next it is one standard deviation.
    return LATENESS_SIGMAS[above - 1] + (value - low) / (quantiles[above] - low)


def lateness_at(deviations: float, quantiles: Sequence[float]) -> float:
    """What `sigmas` turns into so many standard deviations, for those that quantiles span."""
    above = bisect_left(LATENESS_SIGMAS, deviations, 1, len(quantiles) - 1)
    low, high = LATENESS_SIGMAS[above - 1], LATENESS_SIGMAS[above]
    share = (deviations - low) / (high - low)
    return quantiles[above - 1] + share * (quantiles[above] - quantiles[above - 1])
