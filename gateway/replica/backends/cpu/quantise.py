"""Activations to integers -127 .. 127, with one step per token and group of 32 (see matmul.py).

What rounding takes away stays behind in the activations' place: quantised in its turn and
multiplied like another token, it makes a product one of 16-bit activations.
"""

from __future__ import annotations

from llvmlite import ir

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.emit import CODES, F32, FLOATS, Emitter, native
from gateway.replica.backends.cpu.jit import address, jit
from gateway.replica.backends.cpu.matmul import PANEL, SLOT
from gateway.replica.weights import GROUP, UInt8

_SMALLEST = 1e-30
"""In place of a group's largest number when all are zero."""


def _write_group(emit: Emitter, numbers: ir.Value, slot: ir.Value) -> None:
    """32 floats at one address to a slot of a panel at another; the remainders replace them."""
    build = emit.builder
    halves = [emit.load(emit.offset(numbers, 64 * half), FLOATS) for half in (0, 1)]
    largest = emit.greatest(emit.greater(emit.absolute(halves[0]), emit.absolute(halves[1])))
    step = emit.greater(build.fdiv(largest, F32(127)), F32(_SMALLEST))
    inverse = emit.everywhere(build.fdiv(F32(1), step), FLOATS)
    rounded = [emit.nearest(build.fmul(half, inverse)) for half in halves]
    minus_step = emit.everywhere(build.fneg(step), FLOATS)
    for i, (half, integers) in enumerate(zip(halves, rounded, strict=True)):
        emit.store(build.trunc(integers, CODES), emit.offset(slot, 16 * i))
        remainder = emit.fma(build.sitofp(integers, FLOATS), minus_step, half)
        emit.store(remainder, emit.offset(numbers, 64 * i))
    total = build.sitofp(emit.sum(build.add(*rounded)), F32)
    emit.store(step, emit.offset(slot, GROUP))
    emit.store(build.fmul(step, total), emit.offset(slot, GROUP + 4))


_quantise_group = native(_write_group)


@jit
def quantise(x: Float32, tokens: int, columns: int, panels: UInt8, first: int) -> None:
    """x[:tokens, :columns] to panels, from their token `first` on; x keeps the remainders."""
    groups = columns // GROUP
    for t in range(tokens):
        place = first + t
        slot = address(panels) + (place // PANEL * groups * PANEL + place % PANEL) * SLOT
        numbers = address(x) + t * x.shape[1] * 4
        for group in range(groups):
            _quantise_group(numbers + group * GROUP * 4, slot + group * PANEL * SLOT)
