"""
The integer dot products of a tile: the only part of a step that depends on the processor.

All of them are exact, so on one machine all give the same bits. Codes are as affine.py packs them:
operand i (of 8) has, in lane r, four columns of row r; the four integers of a token that belong to
them lie together too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from gateway.replica.backends.cpu.emit import BYTES, I8, I16, I32, INTS, LANES, Emitter, ints

OPERANDS = 8

Products = Callable[[Emitter, int, ir.Value, Sequence[ir.Value]], Sequence[ir.Value]]
"""(emit, bits, codes, slots) -> of each token, its dot products with the group's 16 rows.

`codes` is the address of the group's codes, of 4 or 8 bits; `slots` are those of the tokens'
integers.
"""


@dataclass(frozen=True, slots=True)
class Dot:
    """How one kind of processor multiplies, and the tiles that suit its registers."""

    products: Products
    widths: tuple[int, ...]  # tokens of a tile, three or four; a panel is a multiple of each
    above: tuple[int, ...]  # with more tokens left than these, the next width is quicker


def _one_by_one(dot: Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]) -> Products:
    """From (emit, sums, codes, integers) -> sums: each of 16 lanes plus its four products."""

    def products(
        emit: Emitter, bits: int, codes: ir.Value, slots: Sequence[ir.Value]
    ) -> Sequence[ir.Value]:
        operands = _operands(emit, bits, codes)
        result = []
        for slot in slots:
            sums = ints(0)
            for i, operand in enumerate(operands):
                four = emit.broadcast(emit.offset(slot, 4 * i), INTS)
                sums = dot(emit, sums, operand, emit.builder.bitcast(four, BYTES))
            result.append(sums)
        return result

    return products


def _operands(emit: Emitter, bits: int, codes: ir.Value) -> list[ir.Value]:
    """A group's codes as eight registers of bytes."""
    if bits == 8:
        return [emit.load(emit.offset(codes, 64 * i), BYTES) for i in range(OPERANDS)]
    build, result = emit.builder, []
    for i in range(OPERANDS // 2):
        both = emit.load(emit.offset(codes, 64 * i), INTS)
        low, high = (
            build.and_(nibbles, ints(0x0F0F0F0F)) for nibbles in (both, build.lshr(both, ints(4)))
        )
        result += [build.bitcast(low, BYTES), build.bitcast(high, BYTES)]
    return result


def _vnni(emit: Emitter, sums: ir.Value, codes: ir.Value, integers: ir.Value) -> ir.Value:
    return emit.call("llvm.x86.avx512.vpdpbusd.512", INTS, [sums, codes, integers])


def _portable(emit: Emitter, sums: ir.Value, codes: ir.Value, integers: ir.Value) -> ir.Value:
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


_HALF = LANES // 2  # lanes of an AVX2 register
_INTS8, _BYTES32 = ir.VectorType(I32, _HALF), ir.VectorType(I8, 4 * _HALF)
_SHORTS16 = ir.VectorType(I16, 2 * _HALF)


def _avx2(
    emit: Emitter, bits: int, codes: ir.Value, slots: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """`vpmaddubsw` of four-bit numbers and integers, all eight operands added up in 16 bits.

    A lane holds at most 8 · 2 · 15 · 127 = 30,480, so nothing saturates. Eight-bit codes are two
    four-bit numbers, in sums of their own. The 16 rows are two registers of 8; 8 sums of 16 bits,
    two operands and one token's integers fill the 16 registers that there are.
    """
    build = emit.builder
    if bits == 4:
        sums = _short_sums(emit, _rows_apart(emit, codes), slots)
        halves = [[_pairs(emit, each, 1) for each in half] for half in sums]
    else:
        halves = []
        for half in (0, 1):
            low, high = _short_sums(emit, _nibbles_apart(emit, codes, half), slots)
            halves.append(
                [
                    build.add(_pairs(emit, units, 1), _pairs(emit, sixteens, 16))
                    for units, sixteens in zip(low, high, strict=True)
                ]
            )
    both = ir.Constant(INTS, list(range(LANES)))
    return [build.shuffle_vector(*rows, both) for rows in zip(*halves, strict=True)]


def _short_sums(
    emit: Emitter, operands: Iterator[tuple[ir.Value, ir.Value]], slots: Sequence[ir.Value]
) -> list[list[ir.Value]]:
    """For the first and the second of each two registers: every token's sums of 16 bits."""
    build = emit.builder
    sums: list[list[ir.Value]] = [[], []]
    for i, pair in enumerate(operands):
        for t, slot in enumerate(slots):
            four = emit.everywhere(emit.load(emit.offset(slot, 4 * i), I32), _INTS8)
            integers = build.bitcast(four, _BYTES32)
            for mine, register in zip(sums, pair, strict=True):
                products = emit.call("llvm.x86.avx2.pmadd.ub.sw", _SHORTS16, [register, integers])
                if i == 0:
                    mine.append(products)
                else:
                    mine[t] = _pinned(emit, build.add(mine[t], products))
    return sums


def _pinned(emit: Emitter, value: ir.Value) -> ir.Value:
    """The same value; what makes it stays here, so that few registers are in use at once.

    An empty piece of assembly that LLVM cannot look into. Left to itself it adds up in another
    order, loads all operands first, and moves most of them to the stack and back.
    """
    kind = ir.FunctionType(value.type, [value.type])
    return emit.builder.asm(kind, "", "=x,0", [value], side_effect=True)


def _rows_apart(emit: Emitter, codes: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Each operand of four-bit codes, as the registers of the first and the last 8 rows."""
    for i in range(0, OPERANDS, 2):
        nibbles = [_nibbles(emit, emit.offset(codes, 32 * i + 32 * half)) for half in (0, 1)]
        (first_low, first_high), (last_low, last_high) = nibbles
        yield first_low, last_low
        yield first_high, last_high


def _nibbles_apart(
    emit: Emitter, codes: ir.Value, half: int
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Each operand of eight-bit codes for 8 of the rows: its low nibbles, its high ones."""
    for i in range(OPERANDS):
        yield _nibbles(emit, emit.offset(codes, 64 * i + 32 * half))


def _nibbles(emit: Emitter, address: ir.Value) -> tuple[ir.Value, ir.Value]:
    build = emit.builder
    mask, four = (ir.Constant(_INTS8, [value] * _HALF) for value in (0x0F0F0F0F, 4))
    both = emit.load(address, _INTS8)
    low, high = build.and_(both, mask), build.and_(build.lshr(both, four), mask)
    return build.bitcast(low, _BYTES32), build.bitcast(high, _BYTES32)


def _pairs(emit: Emitter, shorts: ir.Value, factor: int) -> ir.Value:
    """Neighbours' sum times a factor, in 32 bits."""
    factors = ir.Constant(_SHORTS16, [factor] * 2 * _HALF)
    return emit.call("llvm.x86.avx2.pmadd.wd", _INTS8, [shorts, factors])


VNNI = Dot(_one_by_one(_vnni), widths=(1, 4, 8, 16), above=(1, 4, 12))
"""For AVX-512 VNNI. 2 and 3 tokens take as long as 4: weights cost more to fetch than to multiply;
and filling up to the next width is cheaper than another pass, but from 8 to 12."""

AVX2 = Dot(_avx2, widths=(1, 2, 4), above=(1, 2))
"""For AVX2. 3 tokens take hardly less than 4: weights cost about as much to fetch."""

PORTABLE = Dot(_one_by_one(_portable), widths=(1, 4, 8, 16), above=(1, 4, 12))
"""For every processor that LLVM knows."""
