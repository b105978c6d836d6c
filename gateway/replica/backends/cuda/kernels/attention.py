"""
Attention of single tokens over the paged pool: the keys of each are split over several programs,
and a second kernel joins what they found (flash decoding, Dao et al. 2023).

How a token's keys are split depends on how many it has and on SPLITS, on nothing else.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_to_split(
    queries,
    keys,
    values,
    chosen,
    positions,
    rows,
    tables,
    width,
    found,
    totals,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One token, one KV head with all the heads that share it, one part of the keys.

    `found` [chosen, heads, splits, head_dim] are the means of the values, weighted within the part,
    and `totals` [chosen, heads, splits] the logarithms of the weights' sums; both float32.
    DIM_BLOCK is head_dim and GROUP the sharing heads, each rounded up to a power of two.
    """
    index = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    token = tl.load(chosen + index).to(tl.int64)
    length = tl.load(positions + token) + 1
    table = tables + tl.load(rows + token).to(tl.int64) * tl.load(width)
    share = tl.cdiv(tl.cdiv(length, TILE), SPLITS) * TILE
    start = split * share
    end = tl.minimum(start + share, length)
    member = tl.arange(0, GROUP)
    head = kv_head * (HEADS // KV_HEADS) + member
    d = tl.arange(0, DIM_BLOCK)
    real = (member < HEADS // KV_HEADS)[:, None] & (d < DIM)[None, :]
    query = tl.load(queries + (token * HEADS + head)[:, None] * DIM + d[None, :], real, other=0.0)
    most = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    mean = tl.zeros([GROUP, DIM_BLOCK], tl.float32)
    for first in range(start, end, TILE):
        at = first + tl.arange(0, TILE)
        live = at < end
        block = tl.load(table + at // BLOCK_SIZE, mask=live, other=0).to(tl.int64)
        place = ((block * KV_HEADS + kv_head) * BLOCK_SIZE + at % BLOCK_SIZE) * DIM
        place = place[:, None] + d[None, :]
        there = live[:, None] & (d < DIM)[None, :]
        key = tl.load(keys + place, mask=there, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(live[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        less = tl.exp(most - higher)
        value = tl.load(values + place, mask=there, other=0.0)
        part = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        mean = mean * less[:, None] + part
        total = total * less + tl.sum(weights, 1)
        most = higher
    nothing = total == 0.0
    mean = mean / tl.where(nothing, 1.0, total)[:, None]
    logs = tl.where(nothing, float("-inf"), most + tl.log(tl.where(nothing, 1.0, total)))
    slot = (index * HEADS + head) * SPLITS + split
    tl.store(found + slot[:, None] * DIM + d[None, :], mean, mask=real)
    tl.store(totals + slot, logs, mask=member < HEADS // KV_HEADS)


@triton.jit
def join_splits(
    found,
    totals,
    chosen,
    out,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One head of one token, into its place in out [T, heads, head_dim]. SPLITS: a power of two."""
    index = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token = tl.load(chosen + index).to(tl.int64)
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, DIM_BLOCK)
    slot = (index * HEADS + head) * SPLITS + split
    logs = tl.load(totals + slot)
    weights = tl.exp(logs - tl.max(logs, 0))
    inside = (d < DIM)[None, :] & (split >= 0)[:, None]
    means = tl.load(found + slot[:, None] * DIM + d[None, :], mask=inside, other=0.0)
    mean = tl.sum(means * weights[:, None], 0) / tl.sum(weights, 0)
    target = out + (token * HEADS + head) * DIM + d
    tl.store(target, mean.to(out.dtype.element_ty), mask=d < DIM)
