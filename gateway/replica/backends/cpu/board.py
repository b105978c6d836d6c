"""
How several threads share one step: the board on which they claim its work.

A step is a row of parts. The pieces of a part need only what earlier parts made; whoever is free
claims the next one. Nobody waits for a thread that holds no piece: one that comes late, leaves
early or gets no processor costs nothing but its help, and one thread alone does everything.

Each piece is computed whole by one thread, and what it computes does not depend on which. So a
result has the same bits with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from gateway.replica.backends.cpu.emit import I32, Emitter, native
from gateway.replica.backends.cpu.jit import address, jit

Counters = NDArray[np.int64]
"""[1 + 2·parts]: whether helpers shall leave; of each part the pieces claimed and finished."""

TOGETHER = 4
"""Tokens of a piece where each is computed by itself; fewer would meet in cache lines."""

_NONE = 1 << 48
_PATIENCE = 4096
"""Looks at a counter, some tens of microseconds, before the processor is offered to others."""


class Board(NamedTuple):
    counters: Counters
    thread: int
    """0: the step's own; the others help, and have scratch memory by this number."""


def counters(parts: int) -> Counters:
    """For one step: a thread that is late with an earlier one must not find a new one's work."""
    return np.zeros(1 + 2 * parts, np.int64)


def dismiss(numbers: Counters) -> None:
    """Helpers claim nothing more; what they hold they finish."""
    numbers[0] = 1


def _write_add(emit: Emitter, address: ir.Value) -> ir.Value:
    return emit.add_atomically(address, 1)


def _write_load(emit: Emitter, address: ir.Value) -> ir.Value:
    return emit.load_atomically(address)


def _write_pause(emit: Emitter) -> None:
    """Where there is such a hint: what shares the core may use it."""
    if llvm.get_process_triple().startswith("x86_64"):
        emit.call("llvm.x86.sse2.pause", ir.VoidType(), [])


def _write_yield(emit: Emitter) -> None:
    emit.call("sched_yield", I32, [])


_add_one = native(_write_add, gives=types.intp)
_load = native(_write_load, gives=types.intp)
_pause = native(_write_pause)
_offer_processor = native(_write_yield)


@jit
def claim(board: Board, part: int) -> int:
    """A piece of the part that is the caller's now. From the number of pieces on: none is left."""
    numbers = address(board.counters)
    if board.thread > 0 and _load(numbers) != 0:
        return _NONE
    piece: int = _add_one(numbers + 8 + 16 * part)
    return piece


@jit
def finish(board: Board, part: int) -> None:
    """The claimed piece is computed."""
    _add_one(address(board.counters) + 16 + 16 * part)


@jit
def wait(board: Board, part: int, pieces: int) -> None:
    """Until all pieces of a part are computed, or the caller shall leave."""
    numbers = address(board.counters)
    looks = 0
    while _load(numbers + 16 + 16 * part) < pieces:
        if board.thread > 0 and _load(numbers) != 0:
            return
        looks += 1
        if looks < _PATIENCE:
            _pause()
        else:
            _offer_processor()


def over_tokens(compute: Callable[..., None]) -> Callable[..., None]:
    """A part of a step from compute(first, last, ...), for tokens `first` to `last`.

    It is called with the board, which part it is, how many tokens there are, and what `compute`
    takes besides; it returns when all are done.
    """

    @jit
    def part(board: Board, index: int, tokens: int, *arguments: Any) -> None:
        piece = claim(board, index)
        while piece * TOGETHER < tokens:
            first = piece * TOGETHER
            compute(first, min(first + TOGETHER, tokens), *arguments)
            finish(board, index)
            piece = claim(board, index)
        wait(board, index, -(-tokens // TOGETHER))

    return part
