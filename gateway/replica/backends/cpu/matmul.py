"""
Matrix products over packed weights (see affine.py): 16 output rows x 1, 4, 8 or 16 tokens a tile.

    out[t, r] = Σ over groups of  scale[r]·step[t]·dot(codes[r], ints[t]) + minimum[r]·sum[t]

Activations are quantised to integers -127 .. 127 with one step per token and group of 32; `sum` is
step·Σ ints. The integer dot product is exact and the float part has one order, so a token's result
has the same bits in every tile: the width only says how many tokens run side by side.

Quantised activations lie in panels of 16 tokens, so that every address in a tile is a constant
away from one pointer: [tokens/16][columns/32][16 tokens](32 int8, float32 step, float32 sum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.affine import ROWS, group_bytes
from gateway.replica.backends.cpu.emit import (
    BYTES,
    FLOATS,
    I16,
    I32,
    INTS,
    LANES,
    Emitter,
    floats,
    ints,
    native,
)
from gateway.replica.backends.cpu.jit import address, jit, one_of
from gateway.replica.weights import GROUP, UInt8

WIDTHS = (1, 4, 8, 16)
"""Tokens of a tile. 2 and 3 take as long as 4: weights cost more to fetch than to multiply."""

PANEL = 16  # tokens
SLOT = GROUP + 8  # bytes of one token's group: its integers, step and sum

_AHEAD = 8192
"""Bytes. Weights are read once a step, front to back; asking for them this early hides the memory
(measured on Zen 5: 12.7 ms became 7.3 ms for 16 tokens through 134 M weights)."""

Matrix = tuple[int, int, int, int]
"""Where a packed matrix lies: byte offset, bits, rows (a multiple of 16), columns."""

Dot = Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]
"""(emit, sums, codes, integers) -> sums: each of 16 lanes plus its four products."""

Multiply = Callable[[UInt8, Matrix, UInt8, int, Float32], None]


def dot_vnni(emit: Emitter, sums: ir.Value, codes: ir.Value, integers: ir.Value) -> ir.Value:
    return emit.call("llvm.x86.avx512.vpdpbusd.512", INTS, [sums, codes, integers])


def dot_portable(emit: Emitter, sums: ir.Value, codes: ir.Value, integers: ir.Value) -> ir.Value:
    """Even and odd bytes apart, as 16-bit numbers whose neighbours share a lane of the result.

    LLVM makes `pmaddwd` of it where there is one.
    """
    shorts, wide = ir.VectorType(I16, 2 * LANES), ir.VectorType(I32, 2 * LANES)
    eight = ir.Constant(shorts, [8] * 2 * LANES)
    neighbours = [ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1)]
    build = emit.builder
    codes, integers = build.bitcast(codes, shorts), build.bitcast(integers, shorts)
    low = build.lshr(build.shl(codes, eight), eight), build.ashr(build.shl(integers, eight), eight)
    high = build.lshr(codes, eight), build.ashr(integers, eight)
    for unsigned, signed in (low, high):
        products = build.mul(build.sext(unsigned, wide), build.sext(signed, wide))
        left, right = (build.shuffle_vector(products, products, lanes) for lanes in neighbours)
        sums = build.add(sums, build.add(left, right))
    return sums


def multiplier(dot: Dot) -> Multiply:
    """The matrix product; `dot` is the only part of it that depends on the processor."""
    tile4, tile8 = (one_of([_tile(dot, bits, width) for width in WIDTHS]) for bits in (4, 8))

    @jit
    def multiply(blob: UInt8, matrix: Matrix, panels: UInt8, tokens: int, out: Float32) -> None:
        """out[:tokens, :rows] = activations x matrix; writes up to the next tile's end too."""
        offset, bits, rows, columns = matrix
        groups = columns // GROUP
        stride = out.shape[1] * 4
        weights = address(blob) + offset
        for block in range(0, rows, ROWS):
            token = 0
            while token < tokens:
                left = tokens - token
                # Filling up to the next width is cheaper than another pass, but from 8 to 12.
                index = 3 if left > 12 else 2 if left > 4 else 1 if left > 1 else 0
                slots = token // PANEL * groups * PANEL + token % PANEL
                panel, to = address(panels) + slots * SLOT, address(out) + token * stride
                if bits == 4:
                    tile4(index, weights, panel, groups, to + block * 4, stride)
                else:
                    tile8(index, weights, panel, groups, to + block * 4, stride)
                token += WIDTHS[index]
            weights += groups * group_bytes(bits)

    return multiply


def _tile(dot: Dot, bits: int, width: int) -> Callable[..., None]:
    """One block of 16 rows times `width` tokens of one panel. Addresses and `stride` in bytes."""

    def write(
        emit: Emitter,
        weights: ir.Value,
        panel: ir.Value,
        groups: ir.Value,
        out: ir.Value,
        stride: ir.Value,
    ) -> None:
        def group(index: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
            codes = emit.offset(weights, group_bytes(bits), index)
            slots = emit.offset(panel, PANEL * SLOT, index)
            return _accumulate(emit, dot, bits, codes, slots, sums)

        sums = emit.loop(groups, [floats(0.0)] * width, group)
        for token, value in enumerate(sums):
            emit.store(value, emit.offset(out, stride, token))

    return native(write)


def _accumulate(
    emit: Emitter,
    dot: Dot,
    bits: int,
    weights: ir.Value,
    slots: ir.Value,
    sums: Sequence[ir.Value],
) -> Sequence[ir.Value]:
    """Add one group's share to every token's 16 results."""
    build, size = emit.builder, group_bytes(bits)
    for line in range(0, size, 64):
        emit.prefetch(emit.offset(weights, _AHEAD + line))
    operands = _operands(emit, bits, weights)
    scales = emit.load_halves(emit.offset(weights, size - 64))
    minima = emit.load_halves(emit.offset(weights, size - 32))
    result = []
    for token, total in enumerate(sums):
        slot = emit.offset(slots, token * SLOT)
        products = ints(0)
        for i, codes in enumerate(operands):
            four = emit.broadcast(emit.offset(slot, 4 * i), INTS)
            products = dot(emit, products, codes, build.bitcast(four, BYTES))
        step = emit.broadcast(emit.offset(slot, GROUP), FLOATS)
        summed = emit.broadcast(emit.offset(slot, GROUP + 4), FLOATS)
        total = emit.fma(build.sitofp(products, FLOATS), build.fmul(scales, step), total)
        result.append(emit.fma(minima, summed, total))
    return result


def _operands(emit: Emitter, bits: int, weights: ir.Value) -> list[ir.Value]:
    """A group's codes as eight registers of bytes."""
    if bits == 8:
        return [emit.load(emit.offset(weights, 64 * i), BYTES) for i in range(8)]
    build, result = emit.builder, []
    for i in range(4):
        both = emit.load(emit.offset(weights, 64 * i), INTS)
        low, high = (
            build.and_(nibbles, ints(0x0F0F0F0F)) for nibbles in (both, build.lshr(both, ints(4)))
        )
        result += [build.bitcast(low, BYTES), build.bitcast(high, BYTES)]
    return result
