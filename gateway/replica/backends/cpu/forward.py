"""
The whole step of a Llama decoder as one compiled call, which holds no GIL.

Any number of threads may make the same call for one step; they share its work (board.py). There is
one entry per kind of processor. They differ in the integer dot product alone (matmul.py), which is
exact, so on one machine all give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.affine import ROWS
from gateway.replica.backends.cpu.attention import attend
from gateway.replica.backends.cpu.board import Board, claim, finish, wait
from gateway.replica.backends.cpu.dot import AVX2, PORTABLE, VNNI
from gateway.replica.backends.cpu.jit import jit, jit_entry
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
from gateway.replica.backends.cpu.token_parts import (
    enter_attention,
    enter_feed_forward,
    enter_output,
    gate_inner,
    leave_attention,
    select_wanted,
    store,
    sum_up,
)

Step = Callable[[Shape, Model, Pool, Scratch, Tokens, Board], None]

_LAYER = 11
"""Parts of a layer. Products may begin while their neighbour of the same input is not done."""

_END = 4
"""Parts after the last layer."""

_PIECES = 16
"""Of a product, at most: claiming them costs little, and threads of different speed end together
(beside a neighbour that takes half of a core, say)."""


def parts(layers: int) -> int:
    return _LAYER * layers + _END


def _step(multiply: Multiply) -> Step:
    @jit
    def begin(
        board: Board, part: int, model: Model, index: int, scratch: Scratch, n: int, out: Float32
    ) -> int:
        """out[:n] = what is in the panels times one of the model's matrices.

        Returns how many pieces that is, when none is left to claim.
        """
        offset, bits, rows, columns = model.matrices[index]
        size = -(-rows // (_PIECES * ROWS)) * ROWS
        piece = claim(board, part)
        while piece * size < rows:
            first, last = piece * size, min((piece + 1) * size, rows)
            matrix = offset, bits, rows, columns
            multiply(model.blob, matrix, first, last, scratch.panels, n, out)
            finish(board, part)
            piece = claim(board, part)
        pieces: int = -(-rows // size)
        return pieces

    @jit
    def product(
        board: Board, part: int, model: Model, index: int, scratch: Scratch, n: int, out: Float32
    ) -> None:
        wait(board, part, begin(board, part, model, index, scratch, n, out))

    @jit_entry
    def step(
        shape: Shape, model: Model, pool: Pool, scratch: Scratch, tokens: Tokens, board: Board
    ) -> None:
        n, normed, gate_up = len(tokens.ids), scratch.normed, scratch.gate_up
        queries_keys, values = scratch.queries_keys, scratch.values
        for layer in range(shape.layers):
            part, first = _LAYER * layer, MATRICES * layer
            enter_attention(board, part, n, shape, model, layer, tokens, scratch)
            matrix = first + QUERY_KEY
            pieces = begin(board, part + 1, model, matrix, scratch, n, queries_keys)
            # Of all inputs, 8 bits lose most where values are made, and there 16 cost least.
            product(board, part + 2, model, first + VALUE, scratch, 2 * n, values)
            wait(board, part + 1, pieces)
            store(board, part + 3, n, shape, model, pool, layer, tokens, scratch)
            attend(shape, pool, layer, tokens, scratch, board, part + 4)
            leave_attention(board, part + 5, n, shape, scratch)
            product(board, part + 6, model, first + ATTENTION_OUT, scratch, n, normed)
            enter_feed_forward(board, part + 7, n, shape, model, layer, scratch)
            product(board, part + 8, model, first + GATE_UP, scratch, n, gate_up)
            gate_inner(board, part + 9, n, shape, scratch)
            product(board, part + 10, model, first + DOWN, scratch, n, normed)
        part, wanted = _LAYER * shape.layers, len(tokens.logits_at)
        sum_up(board, part, n, scratch)
        select_wanted(board, part + 1, wanted, tokens, scratch)
        enter_output(board, part + 2, wanted, shape, model, scratch)
        output = MATRICES * shape.layers + 1
        product(board, part + 3, model, output, scratch, wanted, scratch.logits)

    return step


forward_vnni = _step(multiplier(VNNI))
"""For processors with AVX-512 VNNI. Writes KV, leaves logits in `scratch.logits`."""

forward_avx2 = _step(multiplier(AVX2))
"""For the other x86 processors since 2013; else as `forward_vnni`."""

forward_portable = _step(multiplier(PORTABLE))
"""For every processor that LLVM knows; else as `forward_vnni`."""
