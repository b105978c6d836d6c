"""
Matrix products over packed weights (see affine.py): 16 output rows x 1 to 16 tokens a tile.

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
from gateway.replica.backends.cpu.dot import Dot
from gateway.replica.backends.cpu.emit import FLOATS, Emitter, floats, native
from gateway.replica.backends.cpu.jit import address, jit, one_of
from gateway.replica.weights import GROUP, UInt8

PANEL = 16  # tokens
SLOT = GROUP + 8  # bytes of one token's group: its integers, step and sum

_AHEAD = 8192
"""Bytes. Weights are read once a step, front to back; asking for them this early hides the memory
(measured on Zen 5: 12.7 ms became 7.3 ms for 16 tokens through 134 M weights)."""

Matrix = tuple[int, int, int, int]
"""Where a packed matrix lies: byte offset, bits, rows (a multiple of 16), columns."""

Multiply = Callable[[UInt8, Matrix, int, int, UInt8, int, Float32], None]


def multiplier(dot: Dot) -> Multiply:
    """The matrix product; `dot` is the only part of it that depends on the processor."""
    widths, above = dot.widths, dot.above
    tile4, tile8 = (one_of([_tile(dot, bits, width) for width in widths]) for bits in (4, 8))

    @jit
    def multiply(
        blob: UInt8,
        matrix: Matrix,
        first: int,
        last: int,
        panels: UInt8,
        tokens: int,
        out: Float32,
    ) -> None:
        """out[:tokens, first:last] = activations x these rows of the matrix, whole blocks of them.

        Writes up to the next tile's end too.
        """
        offset, bits, _, columns = matrix
        groups = columns // GROUP
        stride = out.shape[1] * 4
        weights = address(blob) + offset + first // ROWS * groups * group_bytes(bits)
        for block in range(first, last, ROWS):
            token = 0
            while token < tokens:
                left = tokens - token
                index = 0
                for most in above:
                    index += left > most
                slots = token // PANEL * groups * PANEL + token % PANEL
                panel, to = address(panels) + slots * SLOT, address(out) + token * stride
                if bits == 4:
                    tile4(index, weights, panel, groups, to + block * 4, stride)
                else:
                    tile8(index, weights, panel, groups, to + block * 4, stride)
                token += widths[index]
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
    scales = emit.load_halves(emit.offset(weights, size - 64))
    minima = emit.load_halves(emit.offset(weights, size - 32))
    places = [emit.offset(slots, token * SLOT) for token in range(len(sums))]
    result = []
    for slot, total, products in zip(
        places, sums, dot.products(emit, bits, weights, places), strict=True
    ):
        step = emit.broadcast(emit.offset(slot, GROUP), FLOATS)
        summed = emit.broadcast(emit.offset(slot, GROUP + 4), FLOATS)
        total = emit.fma(build.sitofp(products, FLOATS), build.fmul(scales, step), total)
        result.append(emit.fma(minima, summed, total))
    return result
