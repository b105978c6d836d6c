"""What happens to activations between the products: one token's numbers at a time."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from gateway.replica.backends.base import Float32, Int32
from gateway.replica.backends.cpu.affine import ROWS, group_bytes
from gateway.replica.backends.cpu.emit import F16, F32, I16, Emitter, native
from gateway.replica.backends.cpu.jit import jit, jit_reordered
from gateway.replica.backends.cpu.layout import MATRICES, Model, Shape, Tokens
from gateway.replica.backends.cpu.matmul import Matrix
from gateway.replica.weights import GROUP, UInt8


def _write_to_half(emit: Emitter, number: ir.Value) -> ir.Value:
    return emit.builder.bitcast(emit.builder.fptrunc(number, F16), I16)


def _write_from_half(emit: Emitter, bits: ir.Value) -> ir.Value:
    return emit.builder.fpext(emit.builder.bitcast(bits, F16), F32)


to_half = native(_write_to_half, takes=types.float32, gives=types.uint16)
"""The bits of the nearest float16."""
from_half = native(_write_from_half, takes=types.uint16, gives=types.float32)


@jit_reordered
def exponential(x: np.float32) -> np.float32:
    """e^x within 2e-7, relative. Cephes' expf, without branches so that LLVM can vectorise it."""
    x = np.float32(min(max(x, np.float32(-87.0)), np.float32(88.0)))
    power = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    x = x - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    series = np.float32(1.9875691500e-4)
    series = series * x + np.float32(1.3981999507e-3)
    series = series * x + np.float32(8.3334519073e-3)
    series = series * x + np.float32(4.1665795894e-2)
    series = series * x + np.float32(1.6666665459e-1)
    series = series * x + np.float32(5.0000001201e-1)
    series = series * x * x + x + np.float32(1.0)
    exponent = np.int32((np.int32(power) + np.int32(127)) << np.int32(23))
    return series * exponent.view(np.float32)


@jit_reordered
def normalise(x: Float32, weight: Float32, epsilon: float, tokens: int, out: Float32) -> None:
    """RMSNorm (Zhang and Sennrich 2019)."""
    size = len(weight)
    for t in range(tokens):
        squares = np.float32(0)
        for i in range(size):
            squares += x[t, i] * x[t, i]
        scale = np.float32(1) / np.sqrt(squares / np.float32(size) + np.float32(epsilon))
        for i in range(size):
            out[t, i] = x[t, i] * scale * weight[i]


@jit_reordered
def add(x: Float32, tokens: int, to: Float32) -> None:
    for t in range(tokens):
        for i in range(to.shape[1]):
            to[t, i] += x[t, i]


@jit_reordered
def add_to_all(x: Float32, to: Float32, tokens: int) -> None:
    for t in range(tokens):
        for i in range(len(x)):
            to[t, i] += x[i]


@jit_reordered
def normalise_heads(x: Float32, weight: Float32, epsilon: float, first: int, end: int) -> None:
    """RMSNorm, in place, of heads `first` to `end` of one token's x."""
    size = len(weight)
    for head in range(first, end):
        squares = np.float32(0)
        for i in range(head * size, (head + 1) * size):
            squares += x[i] * x[i]
        scale = np.float32(1) / np.sqrt(squares / np.float32(size) + np.float32(epsilon))
        for i in range(size):
            x[head * size + i] *= scale * weight[i]


@jit_reordered
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
def embed(shape: Shape, model: Model, tokens: Tokens, out: Float32) -> None:
    offset, bits, rows, columns = model.matrices[MATRICES * shape.layers]
    for t in range(len(tokens.ids)):
        look_up(model.blob, (offset, bits, rows, columns), tokens.ids[t], out[t])


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
