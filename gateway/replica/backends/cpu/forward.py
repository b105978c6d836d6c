"""
The whole step of a Llama decoder as one compiled call, which holds no GIL.

One entry per kind of processor; they differ in the integer dot product alone (matmul.py), which is
exact, so on one machine both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.attention import attend, rotate_and_store
from gateway.replica.backends.cpu.dot import AVX2, PORTABLE, VNNI
from gateway.replica.backends.cpu.elementwise import (
    add,
    add_to_all,
    embed,
    gate,
    normalise,
    normalise_heads,
    select,
)
from gateway.replica.backends.cpu.jit import jit
from gateway.replica.backends.cpu.layout import (
    ATTENTION_OUT,
    DOWN,
    GATE_UP,
    MATRICES,
    QUERY_KEY,
    VALUE,
    Model,
    Pool,
    Scratch,
    Shape,
    Tokens,
)
from gateway.replica.backends.cpu.matmul import Multiply, multiplier
from gateway.replica.backends.cpu.quantise import quantise

Step = Callable[[Shape, Model, Pool, Scratch, Tokens], None]


@jit
def finish_queries_keys_values(
    shape: Shape, model: Model, layer: int, scratch: Scratch, n: int
) -> None:
    """What some architectures do between these products and rope: biases, norms of heads."""
    if len(model.biases):
        split = scratch.queries_keys.shape[1]
        add_to_all(model.biases[layer, :split], scratch.queries_keys, n)
        add_to_all(model.biases[layer, split:], scratch.values, n)
    if len(model.head_norms):
        query, key = model.head_norms[2 * layer], model.head_norms[2 * layer + 1]
        heads, epsilon = shape.heads, shape.norm_epsilon
        for t in range(n):
            normalise_heads(scratch.queries_keys[t], query, epsilon, 0, heads)
            end = heads + shape.kv_heads
            normalise_heads(scratch.queries_keys[t], key, epsilon, heads, end)


def _step(multiply: Multiply) -> Step:
    @jit
    def linear(
        x: Float32, columns: int, model: Model, index: int, scratch: Scratch, n: int, out: Float32
    ) -> None:
        """out[:n] = x[:n, :columns] times one of the model's matrices. It uses up x."""
        offset, bits, rows, width = model.matrices[index]
        quantise(x, n, columns, scratch.panels, 0)
        multiply(model.blob, (offset, bits, rows, width), scratch.panels, n, out)

    @jit
    def linear_rest(
        x: Float32, columns: int, model: Model, index: int, scratch: Scratch, n: int, out: Float32
    ) -> None:
        """After `linear` of the same x: its product with another matrix, of 16-bit activations."""
        offset, bits, rows, width = model.matrices[index]
        quantise(x, n, columns, scratch.panels, n)
        multiply(model.blob, (offset, bits, rows, width), scratch.panels, 2 * n, out)
        add(out[n:], n, out)

    @jit
    def step(shape: Shape, model: Model, pool: Pool, scratch: Scratch, tokens: Tokens) -> None:
        n = len(tokens.ids)
        x, normed, gate_up = scratch.hidden, scratch.normed, scratch.gate_up
        hidden, heads, inner = shape.hidden, shape.heads * shape.head_dim, shape.feed_forward
        embed(shape, model, tokens, x)
        for layer in range(shape.layers):
            first = MATRICES * layer
            normalise(x, model.norms[2 * layer], shape.norm_epsilon, n, normed)
            linear(normed, hidden, model, first + QUERY_KEY, scratch, n, scratch.queries_keys)
            # Of all inputs, 8 bits lose most where values are made, and there 16 cost least.
            linear_rest(normed, hidden, model, first + VALUE, scratch, n, scratch.values)
            finish_queries_keys_values(shape, model, layer, scratch, n)
            rotate_and_store(shape, model, pool, layer, tokens, scratch)
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


forward_vnni = _step(multiplier(VNNI))
"""For processors with AVX-512 VNNI. Writes KV, leaves logits in `scratch.logits`."""

forward_avx2 = _step(multiplier(AVX2))
"""For the other x86 processors since 2013; else as `forward_vnni`."""

forward_portable = _step(multiplier(PORTABLE))
"""For every processor that LLVM knows; else as `forward_vnni`."""
