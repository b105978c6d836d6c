"""What happens to activations between the products: one token's numbers at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types

from gateway.replica.backends.base import Float32, Int32
from gateway.replica.backends.cpu.affine import ROWS, group_bytes
from gateway.replica.backends.cpu.emit import (
    F16,
    F32,
    FLOATS,
    I16,
    LANES,
    Emitter,
    floats,
    native,
)
from gateway.replica.backends.cpu.jit import address, jit
from gateway.replica.backends.cpu.layout import MATRICES, Model, Shape
from gateway.replica.backends.cpu.matmul import Matrix
from gateway.replica.weights import GROUP, UInt8


def _write_to_half(emit: Emitter, number: ir.Value) -> ir.Value:
    return emit.builder.bitcast(emit.builder.fptrunc(number, F16), I16)


def _write_from_half(emit: Emitter, bits: ir.Value) -> ir.Value:
    return emit.builder.fpext(emit.builder.bitcast(bits, F16), F32)


def _write_fma(emit: Emitter, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return emit.call("llvm.fma.f32", F32, [a, b, c])


fma = native(_write_fma, takes=types.float32, gives=types.float32)
"""a·b + c, rounded once."""
to_half = native(_write_to_half, takes=types.float32, gives=types.uint16)
"""The bits of the nearest float16."""
from_half = native(_write_from_half, takes=types.uint16, gives=types.float32)


def _write_sum_of_squares(emit: Emitter, address: ir.Value, count: ir.Value) -> ir.Value:
    def register(index: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
        x = emit.load(emit.offset(address, 64, index), FLOATS)
        return [emit.fma(x, x, sums[0])]

    return emit.total(emit.loop(count, [floats(0.0)], register)[0])


_sum_of_squares = native(_write_sum_of_squares, gives=types.float32)
"""Of `count` x 16 floats at an address."""


@jit
def exponential(x: np.float32) -> np.float32:
    """e^x within 2e-7, relative. Cephes' expf, without branches so that LLVM can vectorise it."""
    x = np.float32(min(max(x, np.float32(-87.0)), np.float32(88.0)))
    power = np.floor(fma(x, np.float32(1.44269504088896341), np.float32(0.5)))
    x = fma(power, np.float32(-0.693359375), x)
    x = fma(power, np.float32(2.12194440e-4), x)
    series = np.float32(1.9875691500e-4)
    series = fma(series, x, np.float32(1.3981999507e-3))
    series = fma(series, x, np.float32(8.3334519073e-3))
    series = fma(series, x, np.float32(4.1665795894e-2))
    series = fma(series, x, np.float32(1.6666665459e-1))
    series = fma(series, x, np.float32(5.0000001201e-1))
    series = fma(series * x, x, x) + np.float32(1.0)
    exponent = np.int32((np.int32(power) + np.int32(127)) << np.int32(23))
    result: np.float32 = series * exponent.view(np.float32)
    return result


@jit
def _normalise(x: Float32, weight: Float32, epsilon: float, out: Float32) -> None:
    """RMSNorm (Zhang and Sennrich 2019) of one vector, a multiple of 16 long."""
    size = len(weight)
    mean = _sum_of_squares(address(x), size // LANES) / np.float32(size)
    scale = np.float32(1) / np.sqrt(mean + np.float32(epsilon))
    for i in range(size):
        out[i] = x[i] * scale * weight[i]


@jit
def normalise(x: Float32, weight: Float32, epsilon: float, tokens: int, out: Float32) -> None:
    for t in range(tokens):
        _normalise(x[t], weight, epsilon, out[t])


@jit
def add(x: Float32, tokens: int, to: Float32) -> None:
    for t in range(tokens):
        for i in range(to.shape[1]):
            to[t, i] += x[t, i]


@jit
def add_to_all(x: Float32, to: Float32, tokens: int) -> None:
    for t in range(tokens):
        for i in range(len(x)):
            to[t, i] += x[i]


@jit
def normalise_heads(x: Float32, weight: Float32, epsilon: float, first: int, end: int) -> None:
    """In place, of heads `first` to `end` of one token's x."""
    size = len(weight)
    for head in range(first, end):
        here = x[head * size : (head + 1) * size]
        _normalise(here, weight, epsilon, here)


@jit
def gate(gate_up: Float32, tokens: int) -> None:
    """SwiGLU: the first half becomes silu(first half)·(second half)."""
    size = gate_up.shape[1] // 2
    for t in range(tokens):
        for i in range(size):
            x = gate_up[t, i]
            gate_up[t, i] = x / (np.float32(1) + exponential(-x)) * gate_up[t, size + i]


@jit
def select(x: Float32, rows: Int32, out: Float32) -> None:
    for r in range(len(rows)):
        for i in range(x.shape[1]):
            out[r, i] = x[rows[r], i]


@jit
def embed(shape: Shape, model: Model, ids: Int32, out: Float32) -> None:
    offset, bits, rows, columns = model.matrices[MATRICES * shape.layers]
    for t in range(len(ids)):
        look_up(model.blob, (offset, bits, rows, columns), ids[t], out[t])


@jit
def look_up(blob: UInt8, matrix: Matrix, row: int, out: Float32) -> None:
    """One row of a packed matrix (affine.py) as floats: a token's embedding."""
    offset, bits, _, columns = matrix
    groups, size = columns // GROUP, group_bytes(bits)
    for group in range(groups):
        start = offset + (row // ROWS * groups + group) * size
        end = start + size
        scale = from_half(blob[end - 64 : end - 32].view(np.uint16)[row % ROWS])
        minimum = from_half(blob[end - 32 : end].view(np.uint16)[row % ROWS])
        for i in range(GROUP):
            operand, byte = i // 4, row % ROWS * 4 + i % 4
            if bits == 8:
                code = blob[start + operand * 64 + byte]
            else:
                code = blob[start + operand // 2 * 64 + byte] >> (operand % 2 * 4) & 15
            out[group * GROUP + i] = np.float32(code) * scale + minimum
