"""A product whose tiles are the same for every number of rows, so that a row's bits depend on the
row alone. Slower than the libraries' products, which choose by shape."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply(
    x,
    matrix,
    bias,
    out,
    rows,
    outputs,
    inputs,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out [rows, outputs] = x [rows, inputs] times the transposed matrix [outputs, inputs]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    into = tl.arange(0, INPUTS)
    left = x + row.to(tl.int64)[:, None] * inputs + into[None, :]
    right = matrix + output.to(tl.int64)[:, None] * inputs + into[None, :]
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in range(0, inputs, INPUTS):
        inside = (first + into < inputs)[None, :]
        a = tl.load(left + first, mask=(row < rows)[:, None] & inside, other=0.0)
        b = tl.load(right + first, mask=(output < outputs)[:, None] & inside, other=0.0)
        sums += tl.dot(a, tl.trans(b), input_precision=PRECISION)
    if BIAS:
        sums += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    target = out + row.to(tl.int64)[:, None] * outputs + output[None, :]
    real = (row < rows)[:, None] & (output < outputs)[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=real)
