"""
Attention over the paged pool: float16 in memory, float32 in registers.

The pool keeps, per layer, keys [blocks, kv heads, head_dim, 16] and values [blocks, kv heads, 16,
head_dim]: 16 positions side by side for scores, 16 dimensions for sums, so that each load fills
registers and nothing is ever gathered or transposed.

The queries that share a KV head, of a span of up to SPAN tokens of one sequence, go through it
together, up to four in one tile. Each has its own registers: its bits do not depend on its
companions.
"""

from __future__ import annotations

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Float32, Int32
from gateway.replica.backends.cpu.attention_tiles import add_values, greatest, score, total
from gateway.replica.backends.cpu.board import Board, claim, finish, wait
from gateway.replica.backends.cpu.elementwise import exponential, to_half
from gateway.replica.backends.cpu.emit import LANES
from gateway.replica.backends.cpu.jit import address, jit, jit_inlined
from gateway.replica.backends.cpu.layout import Halves, Model, Pool, Scratch, Shape, Tokens

SPAN = 4
"""Tokens of a prompt that share the loads of keys and values."""

_LARGEST_HALF = np.float32(65504)
_LOWEST = np.float32(-3e38)


@jit
def rotate_and_store(
    shape: Shape, model: Model, pool: Pool, layer: int, tokens: Tokens, t: int, scratch: Scratch
) -> None:
    """Turn a token's queries and keys by its position; keys and values go to the pool."""
    dims, position = shape.head_dim, tokens.positions[t]
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


@jit
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
def attend(
    shape: Shape,
    pool: Pool,
    layer: int,
    tokens: Tokens,
    scratch: Scratch,
    board: Board,
    part: int,
) -> None:
    """From `scratch.queries_keys` to `scratch.attended`; a piece is one KV head of one span."""
    keys, values = pool.keys[layer], pool.values[layer]
    piece, first, end = claim(board, part), 0, 0
    while first < len(tokens.ids):
        last = _span_end(tokens, first)
        end += shape.kv_heads
        while piece < end:
            head = piece - (end - shape.kv_heads)
            _attend_span(shape, keys, values, tokens, first, last, head, scratch, board.thread)
            finish(board, part)
            piece = claim(board, part)
        first = last
    wait(board, part, end)


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
    tokens: Tokens,
    first: int,
    last: int,
    head: int,
    scratch: Scratch,
    thread: int,
) -> None:
    """Tokens `first` to `last` of one sequence, and the queries of theirs that share a KV head."""
    group = shape.heads // shape.kv_heads
    shared = (last - first) * group
    table, positions = tokens.tables[tokens.rows[first]], tokens.positions[first:last]
    length = positions[-1] + 1
    queries, scores = scratch.queries[thread], scratch.scores[thread]
    weighted, totals = scratch.weighted[thread], scratch.totals[thread]
    column = head * group * shape.head_dim
    _gather(shape, scratch.queries_keys[first:last], column, queries, weighted)
    _score_blocks(shape, keys, values, table, length, head, shared, queries, scores)
    for q in range(shared):
        totals[q] = _exponentiate(scores[q], positions[q // group] + 1, length)
    _add_blocks(shape, values, table, length, head, shared, scores, weighted)
    _scatter(shape, weighted, totals, scratch.attended[first:last], column)


@jit_inlined
def _score_blocks(
    shape: Shape,
    keys: Halves,
    values: Halves,
    table: Int32,
    length: int,
    head: int,
    shared: int,
    queries: Float32,
    scores: Float32,
) -> None:
    """Each block asks for the next one early, and the last one for the first block of values."""
    dims, stride = shape.head_dim, scores.shape[1] * 4
    query, to = address(queries), address(scores)
    size = dims * BLOCK_SIZE * 2  # bytes of one head of one block
    step, at = shape.kv_heads * size, head * size
    blocks = -(-length // BLOCK_SIZE)
    for b in range(blocks):
        ahead = address(values) + table[0] * step
        if b + 1 < blocks:
            ahead = address(keys) + table[b + 1] * step
        here = address(keys) + table[b] * step
        score(shared, query, here + at, ahead + at, to + b * BLOCK_SIZE * 4, stride, dims)


@jit_inlined
def _add_blocks(
    shape: Shape,
    values: Halves,
    table: Int32,
    length: int,
    head: int,
    shared: int,
    scores: Float32,
    weighted: Float32,
) -> None:
    """As `_score_blocks`, with values."""
    dims, stride = shape.head_dim, scores.shape[1] * 4
    weights, to = address(scores), address(weighted)
    size = dims * BLOCK_SIZE * 2
    step, at = shape.kv_heads * size, head * size
    blocks = -(-length // BLOCK_SIZE)
    for b in range(blocks):
        here = address(values) + table[b] * step + at
        ahead = address(values) + table[min(b + 1, blocks - 1)] * step + at
        n = min(BLOCK_SIZE, length - b * BLOCK_SIZE)
        add_values(shared, weights + b * BLOCK_SIZE * 4, stride, here, ahead, to, dims, n)


@jit
def _gather(
    shape: Shape, of_tokens: Float32, column: int, queries: Float32, weighted: Float32
) -> None:
    """[tokens, group·dims from a column on] to [tokens·group, dims], divided by √dims.

    Their sums of values begin at zero.
    """
    dims, group = shape.head_dim, shape.heads // shape.kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(dims))
    for t in range(len(of_tokens)):
        for head in range(group):
            for d in range(dims):
                queries[t * group + head, d] = of_tokens[t, column + head * dims + d] * scale
                weighted[t * group + head, d] = 0


@jit
def _scatter(
    shape: Shape, weighted: Float32, totals: Float32, attended: Float32, column: int
) -> None:
    """The inverse of `_gather`, with softmax's division."""
    dims, group = shape.head_dim, shape.heads // shape.kv_heads
    for t in range(len(attended)):
        for head in range(group):
            inverse = np.float32(1) / totals[t * group + head]
            for d in range(dims):
                attended[t, column + head * dims + d] = weighted[t * group + head, d] * inverse


@jit
def _exponentiate(scores: Float32, visible: int, length: int) -> np.float32:
    """Softmax without its division: e^(score - greatest), and 0 for what lies in the future.

    Returns the sum.
    """
    registers = -(-length // LANES)
    for j in range(visible, registers * LANES):
        scores[j] = _LOWEST
    largest = greatest(address(scores), registers)
    for j in range(visible):
        scores[j] = exponential(scores[j] - largest)
    for j in range(visible, registers * LANES):
        scores[j] = 0
    sum_: np.float32 = total(address(scores), registers)
    return sum_
