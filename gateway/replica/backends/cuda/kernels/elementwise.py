"""What happens between the products: norms, rope with the KV store, the gate.

Each program does one row, in float32, in an order that nothing but the row's size decides.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_and_normalise(
    x, addend, weight, out, columns, epsilon, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    """x += addend, if there is one; out = the RMSNorm of x. All are [rows, columns]."""
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, BLOCK)
    inside = at < columns
    value = tl.load(x + row + at, mask=inside, other=0.0)
    if ADD:
        more = tl.load(addend + row + at, mask=inside, other=0.0)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(x + row + at, value, mask=inside)
    wide = value.to(tl.float32)
    mean = tl.sum(wide * wide, 0) / columns
    normed = (wide * (1.0 / tl.sqrt(mean + epsilon))).to(value.dtype)
    tl.store(out + row + at, normed * tl.load(weight + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def rotate_and_store(
    qkv,
    queries,
    keys,
    values,
    cosines,
    sines,
    query_norm,
    key_norm,
    positions,
    rows,
    tables,
    width,
    epsilon,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    NORMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """One head of one token. Queries go to [T, heads, head_dim], keys and values to the pool.

    HALF is head_dim/2 rounded up to a power of two.
    """
    token = tl.program_id(0)
    head = tl.program_id(1)
    at = tl.arange(0, HALF)
    inside = at < DIM // 2
    source = qkv + (token.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * DIM
    first = tl.load(source + at, mask=inside, other=0.0)
    second = tl.load(source + DIM // 2 + at, mask=inside, other=0.0)
    kind = first.dtype
    is_query = head < HEADS
    is_value = head >= HEADS + KV_HEADS
    low, high = first.to(tl.float32), second.to(tl.float32)
    if NORMS:
        mean = (tl.sum(low * low, 0) + tl.sum(high * high, 0)) / DIM
        scale = 1.0 / tl.sqrt(mean + epsilon)
        for_query, for_key = inside & is_query, inside & (head >= HEADS)
        weight = tl.load(query_norm + at, mask=for_query, other=0.0)
        weight += tl.load(key_norm + at, mask=for_key, other=0.0)
        low = ((low * scale).to(kind) * weight).to(tl.float32)
        weight = tl.load(query_norm + DIM // 2 + at, mask=for_query, other=0.0)
        weight += tl.load(key_norm + DIM // 2 + at, mask=for_key, other=0.0)
        high = ((high * scale).to(kind) * weight).to(tl.float32)
    position = tl.load(positions + token)
    turn = position.to(tl.int64) * (DIM // 2) + at
    cosine = tl.load(cosines + turn, mask=inside, other=0.0)
    sine = tl.load(sines + turn, mask=inside, other=0.0)
    first = tl.where(is_value, first, (low * cosine - high * sine).to(kind))
    second = tl.where(is_value, second, (high * cosine + low * sine).to(kind))
    target = queries + (token.to(tl.int64) * HEADS + head) * DIM
    tl.store(target + at, first, mask=inside & is_query)
    tl.store(target + DIM // 2 + at, second, mask=inside & is_query)
    table = tables + tl.load(rows + token).to(tl.int64) * tl.load(width)
    block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
    shared = (block * KV_HEADS + (head - HEADS) % KV_HEADS) * BLOCK_SIZE
    place = (shared + position % BLOCK_SIZE) * DIM + at
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    tl.store(keys + place, first, mask=inside & is_key)
    tl.store(keys + place + DIM // 2, second, mask=inside & is_key)
    tl.store(values + place, first, mask=inside & is_value)
    tl.store(values + place + DIM // 2, second, mask=inside & is_value)


@triton.jit
def gate(gate_up, out, columns, BLOCK: tl.constexpr):
    """out [rows, columns] = silu of gate_up's first half of columns, times its second."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    source = gate_up + row * 2 * columns + at
    opened = tl.load(source, mask=inside, other=0.0)
    wide = opened.to(tl.float32)
    opened = (wide / (1.0 + tl.exp(-wide))).to(opened.dtype)
    up = tl.load(source + columns, mask=inside, other=0.0)
    tl.store(out + row * columns + at, opened * up, mask=inside)
