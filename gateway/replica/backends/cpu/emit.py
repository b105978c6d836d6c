"""
Words of LLVM IR that the kernels are written in: registers of 16 lanes, addresses in bytes.

LLVM splits the 16 lanes into whatever the processor has (AVX-512: one register, AVX2: two, NEON:
four), and each lane is computed the same way, so results do not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

ROOM = 32 if llvm.get_host_cpu_features().get("avx512f") else 8
"""How many of them fit this processor's registers at once: with AVX2 and NEON 8."""

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
INTS = ir.VectorType(I32, LANES)
FLOATS = ir.VectorType(F32, LANES)
HALVES = ir.VectorType(F16, LANES)
CODES = ir.VectorType(I8, LANES)
BYTES = ir.VectorType(I8, 4 * LANES)


class Emitter:
    """A thin layer over llvmlite's builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def offset(
        self, address: ir.Value, stride: ir.Value | int, count: ir.Value | int = 1
    ) -> ir.Value:
        """The address `count` strides further; both in bytes."""
        if isinstance(stride, int) and isinstance(count, int):
            return self.builder.add(address, I64(stride * count))
        stride = I64(stride) if isinstance(stride, int) else stride
        count = I64(count) if isinstance(count, int) else count
        return self.builder.add(address, self.builder.mul(stride, count))

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.load(self._pointer(address, kind), align=1)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self._pointer(address, value.type), align=1)

    def load_halves(self, address: ir.Value) -> ir.Value:
        """16 float16 as float32."""
        return self.builder.fpext(self.load(address, HALVES), FLOATS)

    def broadcast(self, address: ir.Value, vector: ir.VectorType) -> ir.Value:
        """The number at the address, in all lanes."""
        return self.everywhere(self.load(address, vector.element), vector)

    def everywhere(self, number: ir.Value, vector: ir.VectorType) -> ir.Value:
        """The number in all lanes."""
        undefined = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(undefined, number, I32(0))
        first = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(one, undefined, first)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a·b + c, rounded once."""
        return self.call("llvm.fma.v16f32", FLOATS, [a, b, c])

    def absolute(self, x: ir.Value) -> ir.Value:
        return self.call("llvm.fabs.v16f32", FLOATS, [x])

    def nearest(self, x: ir.Value) -> ir.Value:
        """The nearest integers, halves to even."""
        return self.builder.fptosi(self.call("llvm.rint.v16f32", FLOATS, [x]), INTS)

    def greater(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater of two, b if one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def greatest(self, x: ir.Value) -> ir.Value:
        """The greatest of 16 floats, of which none may be NaN: without that the code triples."""
        return self.call("llvm.vector.reduce.fmax.v16f32", F32, [x], ["nnan"])

    def total(self, x: ir.Value) -> ir.Value:
        """The sum of 16 floats, added up in one order everywhere: half to half."""
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            low, high = (
                ir.Constant(ir.VectorType(I32, lanes), [start + lane for lane in range(lanes)])
                for start in (0, lanes)
            )
            undefined = ir.Constant(x.type, ir.Undefined)
            halves = [self.builder.shuffle_vector(x, undefined, half) for half in (low, high)]
            x = self.builder.fadd(*halves)
        return self.builder.extract_element(x, I32(0))

    def sum(self, x: ir.Value) -> ir.Value:
        """The sum of 16 integers."""
        return self.call("llvm.vector.reduce.add.v16i32", I32, [x])

    def prefetch(self, address: ir.Value) -> None:
        """Ask for the cache line at the address. Any address will do, readable or not."""
        read, keep, data = I32(0), I32(3), I32(1)
        arguments = [self._pointer(address, I8), read, keep, data]
        self.call("llvm.prefetch.p0", ir.VoidType(), arguments)

    def add_atomically(self, address: ir.Value, number: int) -> ir.Value:
        """Add to the I64 at the address; gives what was there before. Orders all around it."""
        place = self._pointer(address, I64)
        return self.builder.atomic_rmw("add", place, I64(number), "seq_cst")

    def load_atomically(self, address: ir.Value) -> ir.Value:
        """The I64 at the address; what others wrote before they wrote it can be read from here."""
        return self.builder.load_atomic(self._pointer(address, I64), "acquire", align=8)

    def call(
        self, name: str, result: ir.Type, arguments: Sequence[ir.Value], flags: Sequence[str] = ()
    ) -> ir.Value:
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, arguments, fastmath=flags)

    def loop(
        self,
        count: ir.Value,
        initial: Sequence[ir.Value],
        body: Callable[[ir.Value, Sequence[ir.Value]], Sequence[ir.Value]],
    ) -> Sequence[ir.Value]:
        """Run `body(index, state) -> state` for each index below `count`, which is at least 1."""
        builder = self.builder
        before = builder.block
        inside, after = builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(inside)
        builder.position_at_end(inside)
        index = builder.phi(I64)
        state = [builder.phi(value.type) for value in initial]
        result = body(index, state)
        following = builder.add(index, I64(1))
        index.add_incoming(I64(0), before)
        index.add_incoming(following, inside)
        for phi, start, value in zip(state, initial, result, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, inside)
        builder.cbranch(builder.icmp_unsigned("<", following, count), inside, after)
        builder.position_at_end(after)
        return result

    def _pointer(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.inttoptr(address, kind.as_pointer())


def floats(value: float) -> ir.Constant:
    return ir.Constant(FLOATS, [value] * LANES)


def ints(value: int) -> ir.Constant:
    return ir.Constant(INTS, [value] * LANES)


def native(
    write: Callable[..., ir.Value | None], takes: Any = types.intp, gives: Any = types.void
) -> Callable[..., Any]:
    """A function for compiled code whose body is IR: `write(emitter, *arguments)` emits it.

    `takes` is the numba type of all arguments, `gives` that of the value that `write` returns.
    """

    @intrinsic
    def call(typing: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _: Any, packed: Sequence[Any]) -> Any:
            values = cgutils.unpack_tuple(builder, packed[0])
            pairs = zip(values, arguments, strict=True)
            cast = [context.cast(builder, value, kind, takes) for value, kind in pairs]
            result = write(Emitter(builder), *cast)
            return context.get_dummy_value() if result is None else result

        return gives(types.StarArgTuple.from_types(arguments)), generate

    return call
