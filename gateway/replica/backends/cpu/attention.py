"""
Attention over the paged pool: float16 in memory, float32 in registers.

The pool keeps, per layer, keys [blocks, kv heads, head_dim, 16] and values [blocks, kv heads, 16,
head_dim]: 16 positions side by side for scores, 16 dimensions for sums, so that each load fills
registers and nothing is ever gathered or transposed.

The queries that share a KV head, of up to SPAN tokens of one sequence, go through it together, up
to four in one tile. Each has its own registers: its bits do not depend on its companions.
"""

from __future__ import annotations

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Float32, Int32
from gateway.replica.backends.cpu.attention_tiles import add_values, greatest, score
from gateway.replica.backends.cpu.elementwise import exponential, to_half
from gateway.replica.backends.cpu.emit import LANES
from gateway.replica.backends.cpu.jit import address, jit, jit_inlined, jit_reordered
from gateway.replica.backends.cpu.layout import Halves, Model, Pool, Scratch, Shape, Tokens

SPAN = 4
"""Tokens of a prompt that share the loads of keys and values."""

_LARGEST_HALF = np.float32(65504)
_LOWEST = np.float32(-3e38)


@jit
def rotate_and_store(
    shape: Shape, model: Model, pool: Pool, layer: int, tokens: Tokens, scratch: Scratch
) -> None:
    """Turn queries and keys by their positions; keys and values go to the pool."""
    dims = shape.head_dim
    for t in range(len(tokens.ids)):
        position = tokens.positions[t]
        for head in range(shape.heads + shape.kv_heads):
            here = scratch.queries_keys[t, head * dims : (head + 1) * dims]
            _rotate(here, model.cosines[position], model.sines[position])
        block = tokens.tables[tokens.rows[t], position // BLOCK_SIZE]
        for head in range(shape.kv_heads):
            first_key = (shape.heads + head) * dims
            key = scratch.queries_keys[t, first_key : first_key + dims]
            value = scratch.values[t, head * dims : (head + 1) * dims]
            slot = position % BLOCK_SIZE
            _store(key, value, pool.keys[layer, block, head], pool.values[layer, block, head], slot)


@jit_reordered
def _rotate(head: Float32, cosines: Float32, sines: Float32) -> None:
    """Rotary position embedding of one head, NeoX style: pairs lie half a head apart."""
    half = len(cosines)
    for i in range(half):
        a, b = head[i], head[half + i]
        head[i] = a * cosines[i] - b * sines[i]
        head[half + i] = b * cosines[i] + a * sines[i]


@jit
def _store(key: Float32, value: Float32, keys: Halves, values: Halves, slot: int) -> None:
    """One token's head into its block. Too large numbers are clipped: an infinity would spread."""
    for d in range(len(key)):
        keys[d, slot] = to_half(min(max(key[d], -_LARGEST_HALF), _LARGEST_HALF))
    for d in range(len(value)):
        values[slot, d] = to_half(min(max(value[d], -_LARGEST_HALF), _LARGEST_HALF))


@jit
def attend(shape: Shape, pool: Pool, layer: int, tokens: Tokens, scratch: Scratch) -> None:
    """From `scratch.queries_keys` to `scratch.attended`, for every token of the batch."""
    keys, values = pool.keys[layer], pool.values[layer]
    first = 0
    while first < len(tokens.ids):
        last = _span_end(tokens, first)
        table, positions = tokens.tables[tokens.rows[first]], tokens.positions[first:last]
        queries, attended = scratch.queries_keys[first:last], scratch.attended[first:last]
        _attend_span(shape, keys, values, table, positions, queries, attended, scratch)
        first = last


@jit_inlined
def _span_end(tokens: Tokens, first: int) -> int:
    """The end of the span that begins with a token: its sequence's, SPAN tokens at most."""
    end = first + 1
    most = min(first + SPAN, len(tokens.ids))
    while end < most and tokens.rows[end] == tokens.rows[first]:
        end += 1
    return end


@jit_inlined
def _attend_span(
    shape: Shape,
    keys: Halves,
    values: Halves,
    table: Int32,
    positions: Int32,
    queries: Float32,
    attended: Float32,
    scratch: Scratch,
) -> None:
    """A few tokens of one sequence, with `positions`, `queries` and `attended` of these alone."""
    group = shape.heads // shape.kv_heads
    shared = len(positions) * group  # queries of one KV head
    length = positions[-1] + 1
    _gather(shape, queries, scratch)
    _score_blocks(shape, keys, values, table, length, shared, scratch)
    for q in range(shared * shape.kv_heads):
        visible = positions[q % shared // group] + 1
        scratch.totals[q] = _exponentiate(scratch.scores[q], visible, length)
    _add_blocks(shape, values, table, length, shared, scratch)
    _scatter(shape, scratch, attended)


@jit_inlined
def _score_blocks(
    shape: Shape,
    keys: Halves,
    values: Halves,
    table: Int32,
    length: int,
    shared: int,
    scratch: Scratch,
) -> None:
    """Blocks outside, heads inside, as they lie in memory. Each asks for the next block early,
    and the last one for the first block of values."""
    dims, stride = shape.head_dim, scratch.scores.shape[1] * 4
    queries, scores = address(scratch.queries), address(scratch.scores)
    size = dims * BLOCK_SIZE * 2  # bytes of one head of one block
    blocks = -(-length // BLOCK_SIZE)
    for b in range(blocks):
        here = address(keys) + table[b] * shape.kv_heads * size
        ahead = address(values) + table[0] * shape.kv_heads * size
        if b + 1 < blocks:
            ahead = address(keys) + table[b + 1] * shape.kv_heads * size
        for head in range(shape.kv_heads):
            first, at = head * shared, head * size
            q, to = queries + first * dims * 4, scores + first * stride + b * BLOCK_SIZE * 4
            score(shared, q, here + at, ahead + at, to, stride, dims)


@jit_inlined
def _add_blocks(
    shape: Shape, values: Halves, table: Int32, length: int, shared: int, scratch: Scratch
) -> None:
    """As `_score_blocks`, with values."""
    dims, stride = shape.head_dim, scratch.scores.shape[1] * 4
    weighted, scores = address(scratch.weighted), address(scratch.scores)
    size = dims * BLOCK_SIZE * 2
    blocks = -(-length // BLOCK_SIZE)
    for b in range(blocks):
        here = address(values) + table[b] * shape.kv_heads * size
        ahead = address(values) + table[min(b + 1, blocks - 1)] * shape.kv_heads * size
        n = min(BLOCK_SIZE, length - b * BLOCK_SIZE)
        for head in range(shape.kv_heads):
            first, at = head * shared, head * size
            w, to = scores + first * stride + b * BLOCK_SIZE * 4, weighted + first * dims * 4
            add_values(shared, w, stride, here + at, ahead + at, to, dims, n)


@jit
def _gather(shape: Shape, queries: Float32, scratch: Scratch) -> None:
    """[tokens, kv heads, group, dims] to [kv heads, tokens, group, dims], divided by √dims.

    Their sums of values begin at zero.
    """
    dims, group = shape.head_dim, shape.heads // shape.kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(dims))
    for t in range(len(queries)):
        for head in range(shape.heads):
            q = (head // group * len(queries) + t) * group + head % group
            for d in range(dims):
                scratch.queries[q, d] = queries[t, head * dims + d] * scale
                scratch.weighted[q, d] = 0


@jit
def _scatter(shape: Shape, scratch: Scratch, attended: Float32) -> None:
    """The inverse of `_gather`, with softmax's division."""
    dims, group = shape.head_dim, shape.heads // shape.kv_heads
    for t in range(len(attended)):
        for head in range(shape.heads):
            q = (head // group * len(attended) + t) * group + head % group
            inverse = np.float32(1) / scratch.totals[q]
            for d in range(dims):
                attended[t, head * dims + d] = scratch.weighted[q, d] * inverse


@jit_reordered
def _exponentiate(scores: Float32, visible: int, length: int) -> np.float32:
    """Softmax without its division: e^(score - greatest), and 0 for what lies in the future.

    Returns the sum.
    """
    registers = -(-length // LANES)
    for j in range(visible, registers * LANES):
        scores[j] = _LOWEST
    largest = greatest(address(scores), registers)
    total = np.float32(0)
    for j in range(visible):
        scores[j] = exponential(scores[j] - largest)
        total += scores[j]
    for j in range(visible, length):
        scores[j] = 0
    return total
