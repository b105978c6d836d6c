"""
The two inner products of attention, over one block of 16 positions, for a few queries at once.

Each query has its own registers, so its bits do not depend on how many run side by side. How many
do is a matter of room: sums that do not fit the registers are moved to the stack and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir
from numba import types

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.backends.cpu.emit import FLOATS, I64, LANES, ROOM, Emitter, floats, native
from gateway.replica.backends.cpu.jit import jit, one_of

_ROW = BLOCK_SIZE * 2  # bytes of 16 float16

_QUERIES, _WIDTH = (4, 4) if ROOM >= 32 else (3, 2)
"""Of a tile: queries, and registers of 16 dimensions of their values. Scores take 2 a query."""


def _score_tile(queries: int) -> Callable[..., None]:
    """out[q, 16] = Σ over d of query[q, d]·key[d, 16]."""

    def write(
        emit: Emitter,
        query: ir.Value,
        keys: ir.Value,
        ahead: ir.Value,
        out: ir.Value,
        stride: ir.Value,
        dims: ir.Value,
    ) -> None:
        build = emit.builder
        query_bytes = build.mul(dims, I64(4))

        def two_dimensions(index: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
            # Even and odd dimensions have registers of their own: in one chain each addition
            # would wait for the one before.
            emit.prefetch(emit.offset(ahead, 2 * _ROW, index))
            result = []
            for odd in (0, 1):
                key = emit.load_halves(emit.offset(emit.offset(keys, 2 * _ROW, index), odd * _ROW))
                number = emit.offset(emit.offset(query, 8, index), 4 * odd)
                for q in range(queries):
                    scalar = emit.broadcast(emit.offset(number, query_bytes, q), FLOATS)
                    result.append(emit.fma(scalar, key, sums[odd * queries + q]))
            return result

        sums = emit.loop(build.lshr(dims, I64(1)), [floats(0.0)] * (2 * queries), two_dimensions)
        for q in range(queries):
            emit.store(build.fadd(sums[q], sums[queries + q]), emit.offset(out, stride, q))

    return native(write)


def _value_tile(queries: int, registers: int) -> Callable[..., None]:
    """out[q, n] += Σ over positions of weight[q, position]·value[position, n], n < 16·registers."""

    def write(
        emit: Emitter,
        weights: ir.Value,
        stride: ir.Value,
        values: ir.Value,
        ahead: ir.Value,
        out: ir.Value,
        dims: ir.Value,
        positions: ir.Value,
    ) -> None:
        value_bytes, out_bytes = (emit.builder.mul(dims, I64(size)) for size in (2, 4))
        starts = [emit.offset(out, out_bytes, q) for q in range(queries)]
        places = [emit.offset(start, 64 * r) for start in starts for r in range(registers)]

        def position(index: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
            here, following = (emit.offset(each, value_bytes, index) for each in (values, ahead))
            for line in range(0, registers * _ROW, 64):
                emit.prefetch(emit.offset(following, line))
            value = [emit.load_halves(emit.offset(here, _ROW * r)) for r in range(registers)]
            result: list[ir.Value] = []
            for q in range(queries):
                number = emit.offset(emit.offset(weights, stride, q), 4, index)
                weight = emit.broadcast(number, FLOATS)
                mine = sums[q * registers : (q + 1) * registers]
                result += [emit.fma(weight, v, s) for v, s in zip(value, mine, strict=True)]
            return result

        sums = emit.loop(positions, [emit.load(place, FLOATS) for place in places], position)
        for place, total in zip(places, sums, strict=True):
            emit.store(total, place)

    return native(write)


def _write_greatest(emit: Emitter, address: ir.Value, count: ir.Value) -> ir.Value:
    def register(index: ir.Value, found: Sequence[ir.Value]) -> Sequence[ir.Value]:
        return [emit.greater(emit.load(emit.offset(address, 64, index), FLOATS), found[0])]

    return emit.greatest(emit.loop(count, [emit.load(address, FLOATS)], register)[0])


greatest = native(_write_greatest, gives=types.float32)
"""The greatest of `count` x 16 floats at an address. LLVM does not vectorise such a loop."""


def _write_total(emit: Emitter, address: ir.Value, count: ir.Value) -> ir.Value:
    def register(index: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
        return [emit.builder.fadd(emit.load(emit.offset(address, 64, index), FLOATS), sums[0])]

    return emit.total(emit.loop(count, [floats(0.0)], register)[0])


total = native(_write_total, gives=types.float32)
"""The sum of `count` x 16 floats at an address. More zeros behind them change no bit."""

_score, _wide, _narrow = (
    one_of([tile(queries) for queries in range(1, _QUERIES + 1)])
    for tile in (
        _score_tile,
        partial(_value_tile, registers=_WIDTH),
        partial(_value_tile, registers=1),
    )
)


@jit
def score(
    queries: int, query: int, keys: int, ahead: int, out: int, stride: int, dims: int
) -> None:
    """Scores of all queries with one block of keys.

    Addresses and `stride`, from query to query of `out`, in bytes. `ahead` is what is read next.
    """
    for done in range(0, queries, _QUERIES):
        q, to = query + done * dims * 4, out + done * stride
        _score(queries - done - 1, q, keys, ahead, to, stride, dims)


@jit
def add_values(
    queries: int, weights: int, stride: int, values: int, ahead: int, out: int, dims: int, n: int
) -> None:
    """Add the values of a block's first n positions to all queries' sums.

    As `score`, but `stride` is from query to query of `weights`.
    """
    for done in range(0, queries, _QUERIES):
        more, w, to = queries - done - 1, weights + done * stride, out + done * dims * 4
        d = 0
        while dims - d >= LANES * _WIDTH:
            _wide(more, w, stride, values + d * 2, ahead + d * 2, to + d * 4, dims, n)
            d += LANES * _WIDTH
        while d < dims:
            _narrow(more, w, stride, values + d * 2, ahead + d * 2, to + d * 4, dims, n)
            d += LANES
