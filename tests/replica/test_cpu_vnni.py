"""The kernels for AVX-512 VNNI, on any processor.

In a process of its own they are built for 32 registers, and their one instruction is spelt out as
Intel's manual defines it; LLVM does the rest with whatever registers there are.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llvmlite import ir

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.backends.cpu.dot import VNNI
from gateway.replica.backends.cpu.emit import I64, Emitter
from gateway.replica.weights import Weights
from tests.support.batches import Piece, batch
from tests.support.tiny_model import TinyModel

Q8_0 = GGMLQuantizationType.Q8_0
EMULATION = """
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np

numba.njit(lambda: None)()  # numba has asked for the features now
true_features = llvm.get_host_cpu_features
llvm.get_host_cpu_features = lambda: {"avx512f": True}
from gateway.replica.backends.cpu import CpuBackend, emit
llvm.get_host_cpu_features = true_features
from gateway.replica.weights import Weights
from tests.replica.test_cpu_vnni import logits

assert emit.ROOM == 32
true_call = emit.Emitter.call
calls = 0

def call(self, name, result, arguments, flags=()):
    global calls
    if "vpdpbusd" not in name:
        return true_call(self, name, result, arguments, flags)
    calls += 1
    sums, codes, integers = arguments
    build = self.builder
    codes, integers = build.bitcast(codes, result), build.bitcast(integers, result)
    for shift in (0, 8, 16, 24):
        code = build.and_(build.lshr(codes, emit.ints(shift)), emit.ints(255))
        integer = build.ashr(build.shl(integers, emit.ints(24 - shift)), emit.ints(24))
        sums = build.add(sums, build.mul(code, integer))
    return sums

emit.Emitter.call = call
backend = CpuBackend.load(Weights.open(Path(sys.argv[1])), 64, 128, kernels="vnni", threads=2)
assert calls
np.save(sys.argv[2], logits(backend))
"""


def logits(backend: CpuBackend) -> Float32:
    """Of a prompt in pieces of many sizes, and of batches of 1 to 17 that go on from there."""
    chance = np.random.default_rng(0)
    tokens = chance.integers(0, 200, 100).tolist()
    found, start = [], 0
    for size in (1, 2, 3, 5, 8, 13, 19, 49):
        found.append(backend.forward(batch(Piece(tokens[start : start + size], start, range(7)))))
        found[-1] = found[-1].copy()
        start += size
    for size in range(1, 18):
        pieces = [Piece([n, n + 1], 0, [10 + n]) for n in range(size)]
        backend.forward(batch(*pieces))
        pieces = [Piece([n], 2, [10 + n]) for n in range(size)]
        found.append(backend.forward(batch(*pieces)).copy())
    return np.concatenate(found)


def test_they_give_the_bits_of_this_processors(tmp_path: Path) -> None:
    eight_bits = dict.fromkeys(("blk.0.attn_v.weight", "blk.1.ffn_down.weight"), Q8_0)
    shape = TinyModel(kinds=eight_bits, heads=6, kv_heads=2, head_dim=64)
    model, found = shape.write(tmp_path / "tiny.gguf"), tmp_path / "found.npy"
    subprocess.run([sys.executable, "-c", EMULATION, str(model), str(found)], check=True)
    here = CpuBackend.load(Weights.open(model), 64, 128)
    assert np.array_equal(np.load(found), logits(here))


@pytest.mark.parametrize("bits", [4, 8])
def test_they_compile_to_the_instruction(bits: int) -> None:
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(I64, [I64, I64]), "tile")
    emit = Emitter(ir.IRBuilder(function.append_basic_block()))
    codes, slot = function.args
    (sums,) = VNNI.products(emit, bits, codes, [slot])
    emit.store(sums, codes)
    emit.builder.ret(codes)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu="icelake-server", opt=3)
    assert machine.emit_assembly(parsed).count("vpdpbusd") == 8
