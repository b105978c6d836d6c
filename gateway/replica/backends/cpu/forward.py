"""
The whole step of a Llama decoder as one compiled call, which holds no GIL.

One entry per kind of processor; they differ in the integer dot product alone (matmul.py), which is
exact, so on one machine both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.attention import attend, rotate_and_store
from gateway.replica.backends.cpu.elementwise import add, embed, gate, normalise, select
from gateway.replica.backends.cpu.jit import jit, jit_entry, source_revision
from gateway.replica.backends.cpu.layout import (
    ATTENTION_OUT,
    DOWN,
    GATE_UP,
    MATRICES,
    QKV,
    Model,
    Pool,
    Scratch,
    Shape,
    Tokens,
)
from gateway.replica.backends.cpu.matmul import Multiply, dot_portable, dot_vnni, multiplier
from gateway.replica.backends.cpu.quantise import quantise

REVISION = source_revision()

Step = Callable[[Shape, Model, Pool, Scratch, Tokens], None]


def _step(multiply: Multiply) -> Step:
    @jit
    def linear(
        x: Float32, columns: int, model: Model, index: int, scratch: Scratch, n: int, out: Float32
    ) -> None:
        """out[:n] = x[:n, :columns] times one of the model's matrices."""
        offset, bits, rows, width = model.matrices[index]
        quantise(x, n, columns, scratch.panels)
        multiply(model.blob, (offset, bits, rows, width), scratch.panels, n, out)

    @jit
    def step(shape: Shape, model: Model, pool: Pool, scratch: Scratch, tokens: Tokens) -> None:
        n = len(tokens.ids)
        x, normed, qkv, gate_up = scratch.hidden, scratch.normed, scratch.qkv, scratch.gate_up
        hidden, heads, inner = shape.hidden, shape.heads * shape.head_dim, shape.feed_forward
        embed(shape, model, tokens, x)
        for layer in range(shape.layers):
            first = MATRICES * layer
            normalise(x, model.norms[2 * layer], shape.norm_epsilon, n, normed)
            linear(normed, hidden, model, first + QKV, scratch, n, qkv)
            rotate_and_store(shape, model, pool, layer, tokens, qkv)
            attend(shape, pool, layer, tokens, scratch)
            linear(scratch.attended, heads, model, first + ATTENTION_OUT, scratch, n, normed)
            add(normed, n, x)
            normalise(x, model.norms[2 * layer + 1], shape.norm_epsilon, n, normed)
            linear(normed, hidden, model, first + GATE_UP, scratch, n, gate_up)
            gate(gate_up, n)
            linear(gate_up, inner, model, first + DOWN, scratch, n, normed)
            add(normed, n, x)
        wanted = len(tokens.logits_at)
        select(x, tokens.logits_at, normed)
        normalise(normed, model.norms[2 * shape.layers], shape.norm_epsilon, wanted, x)
        output = MATRICES * shape.layers + 1
        linear(x, hidden, model, output, scratch, wanted, scratch.logits)

    return step


_step_vnni = _step(multiplier(dot_vnni))
_step_portable = _step(multiplier(dot_portable))


@jit_entry
def forward_vnni(
    shape: Shape,
    model: Model,
    pool: Pool,
    scratch: Scratch,
    tokens: Tokens,
    revision: int = REVISION,
) -> None:
    """For processors with AVX-512 VNNI. Writes KV, leaves logits in `scratch.logits`."""
    _step_vnni(shape, model, pool, scratch, tokens)


@jit_entry
def forward_portable(
    shape: Shape,
    model: Model,
    pool: Pool,
    scratch: Scratch,
    tokens: Tokens,
    revision: int = REVISION,
) -> None:
    """For every processor that LLVM knows; else as `forward_vnni`."""
    _step_portable(shape, model, pool, scratch, tokens)
