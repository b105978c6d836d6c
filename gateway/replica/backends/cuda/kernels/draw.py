"""
The likeliest token of each row, or one drawn at its temperature: by where its noise, uniform in
[0, 1), lies in the cumulated sum of the weights. The sampler on the host draws the same way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def survey(
    logits,
    temperatures,
    highs,
    bests,
    sums,
    vocabulary,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
):
    """Of one part of one row: its highest logit, where that first is, and the sum of its weights
    beside it; [rows, PARTS] each. NaN for the highest if one is NaN or infinite."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * PART + tl.arange(0, PART)
    values = tl.load(logits + row * vocabulary + at, mask=at < vocabulary, other=float("-inf"))
    strange = (values != values) | (values == float("inf"))
    spoilt = tl.max(strange.to(tl.int32), 0) > 0
    values = tl.where(strange, float("-inf"), values)
    high = tl.max(values, 0)
    best = tl.min(tl.where(values == high, at, vocabulary), 0)
    temperature = tl.load(temperatures + row)
    scale = 1.0 / tl.where(temperature > 0.0, temperature, 1.0)
    base = tl.where(high == float("-inf"), 0.0, high)
    weights = tl.exp((values - base) * scale)
    slot = row * PARTS + part
    tl.store(highs + slot, tl.where(spoilt, float("nan"), high))
    tl.store(bests + slot, best)
    tl.store(sums + slot, tl.sum(weights, 0))


@triton.jit
def pick(
    logits,
    temperatures,
    noises,
    highs,
    bests,
    sums,
    tokens,
    vocabulary,
    PARTS: tl.constexpr,
    PARTS_BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    """One row's token; -1 if a logit is NaN or infinite, or all are minus infinity."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS_BLOCK)
    real = part < PARTS
    high = tl.load(highs + row * PARTS + part, mask=real, other=float("-inf"))
    spoilt = tl.max((high != high).to(tl.int32), 0) > 0
    high = tl.where(high != high, float("-inf"), high)
    highest = tl.max(high, 0)
    where = tl.min(tl.where(high == highest, part, PARTS - 1), 0)
    best = tl.load(bests + row * PARTS + where)
    temperature = tl.load(temperatures + row)
    scale = 1.0 / tl.where(temperature > 0.0, temperature, 1.0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    mass = tl.load(sums + row * PARTS + part, mask=real, other=0.0)
    mass = tl.where(high == float("-inf"), 0.0, mass * tl.exp((high - base) * scale))
    cumulated = tl.cumsum(mass, 0)
    total = tl.sum(mass, 0)
    target = tl.load(noises + row) * total
    # rounding may leave the target at the end: the last part that has any weight holds it
    last = tl.max(tl.where(mass > 0.0, part, 0), 0)
    chosen = tl.minimum(tl.min(tl.where(cumulated > target, part, PARTS_BLOCK), 0), last)
    before = tl.sum(tl.where(part < chosen, mass, 0.0), 0)
    at = chosen * PART + tl.arange(0, PART)
    values = tl.load(logits + row * vocabulary + at, mask=at < vocabulary, other=float("-inf"))
    values = tl.where((values != values) | (values == float("inf")), float("-inf"), values)
    weights = tl.exp((values - base) * scale)
    inner = tl.cumsum(weights, 0)
    last_at = tl.max(tl.where(weights > 0.0, at, 0), 0)
    drawn = tl.minimum(tl.min(tl.where(inner > target - before, at, vocabulary), 0), last_at)
    token = tl.where(temperature > 0.0, drawn, best)
    missing = spoilt | (highest == float("-inf"))
    tl.store(tokens + row, tl.where(missing, -1, token))
