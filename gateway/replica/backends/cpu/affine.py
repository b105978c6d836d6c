"""
The one weight format of the CPU kernels: w = code·scale + minimum, per group of 32 columns.

Codes are unsigned, of 4 or 8 bits; scales and minima are float16. This holds Q4_1 as it is, Q4_0
with minimum = -8·scale and Q8_0 with minimum = -128·scale, all three exactly (the group formats
of ggml-common.h). Float weights are quantised to 8 bits when they are loaded.

A packed matrix is [rows/16][columns/32] groups of 16 rows x 32 columns, each one

    codes    4 bit: 256 bytes, 8 bit: 512 bytes
    scales   16 float16, one per row
    minima   16 float16

With four columns side by side per row, one dword holds what one lane of `vpdpbusd` multiplies.
Operand i (of 8) has, in lane r, the columns 4i .. 4i+3 of row r. Eight-bit codes are the eight
operands in turn; byte v·64+n of four-bit codes has operand 2v's byte n below and 2v+1's above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGMLQuantizationType
from numba.extending import register_jitable
from numpy.typing import NDArray

from gateway.replica.backends.base import Float32
from gateway.replica.weights import GROUP, Tensor, UInt8

ROWS = 16
"""Of a block: one per lane."""

Float16 = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Affine:
    """A matrix before packing. Codes are [rows, columns], the rest [rows, columns/32]."""

    bits: int  # 4 or 8
    codes: UInt8
    scales: Float16
    minima: Float16


@register_jitable
def group_bytes(bits: int) -> int:
    return ROWS * GROUP * bits // 8 + 2 * ROWS * 2


def stored_bits(kind: GGMLQuantizationType) -> int:
    """Bits of a code in `affine` of such a tensor."""
    return 4 if kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1) else 8


def affine(tensor: Tensor) -> Affine:
    """The tensor's own numbers where it is quantised; else the nearest of 8 bits."""
    bits = stored_bits(tensor.kind)
    blocks = tensor.data.reshape(tensor.rows, tensor.columns // GROUP, -1)
    match tensor.kind:
        case GGMLQuantizationType.Q4_1:
            scales, minima = _half(blocks[..., 0:2]), _half(blocks[..., 2:4])
            return Affine(bits, _nibbles(blocks[..., 4:]), scales, minima)
        case GGMLQuantizationType.Q4_0:
            scales = _half(blocks[..., 0:2])
            return Affine(bits, _nibbles(blocks[..., 2:]), scales, scales * np.float16(-8))
        case GGMLQuantizationType.Q8_0:
            scales = _half(blocks[..., 0:2])
            codes = blocks[..., 2:] ^ np.uint8(0x80)  # two's complement plus 128
            return Affine(bits, _flat(codes), scales, scales * np.float16(-128))
    return quantised(tensor.float32())


def quantised(values: Float32) -> Affine:
    """8-bit codes of [rows, columns] floats, from each group's least to its greatest value."""
    groups = values.reshape(len(values), -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    minima = low.astype(np.float16)
    scales = ((high - low) / 255).astype(np.float16)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    codes = (groups - minima.astype(np.float32)[..., None]) / steps[..., None]
    return Affine(8, _flat(np.clip(np.rint(codes), 0, 255).astype(np.uint8)), scales, minima)


def stacked(parts: Sequence[Affine]) -> Affine:
    """One matrix of all rows, as wide as its widest part: a 4-bit code is an 8-bit code too."""
    return Affine(
        max(part.bits for part in parts),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.minima for part in parts]),
    )


def packed(matrix: Affine) -> UInt8:
    """The bytes of the layout above. Rows are filled up to a multiple of 16 with zeros."""
    codes, scales, minima = (
        np.pad(part, ((0, -len(part) % ROWS), (0, 0)))
        for part in (matrix.codes, matrix.scales, matrix.minima)
    )
    row_blocks, groups = len(codes) // ROWS, scales.shape[1]
    operands = codes.view(np.uint32).reshape(row_blocks, ROWS, groups, 8).transpose(0, 2, 3, 1)
    if matrix.bits == 4:
        operands = operands[:, :, 0::2] | operands[:, :, 1::2] << np.uint32(4)
    result = np.empty((row_blocks, groups, group_bytes(matrix.bits)), np.uint8)
    result[..., :-64] = _bytes(operands)
    result[..., -64:-32] = _bytes(scales.reshape(row_blocks, ROWS, groups).swapaxes(1, 2))
    result[..., -32:] = _bytes(minima.reshape(row_blocks, ROWS, groups).swapaxes(1, 2))
    return result.reshape(-1)


def _bytes(numbers: NDArray[np.generic]) -> UInt8:
    """[row blocks, groups, bytes]."""
    blocks, groups = numbers.shape[:2]
    return np.ascontiguousarray(numbers).reshape(blocks, groups, -1).view(np.uint8)


def _half(pairs: UInt8) -> Float16:
    return np.ascontiguousarray(pairs).view(np.float16)[..., 0]


def _nibbles(block_bytes: UInt8) -> UInt8:
    """ggml keeps a group's first half in the low nibbles and its second half in the high ones."""
    return _flat(np.concatenate([block_bytes & 15, block_bytes >> 4], axis=-1))


def _flat(groups: UInt8) -> UInt8:
    return np.ascontiguousarray(groups).reshape(len(groups), -1)
