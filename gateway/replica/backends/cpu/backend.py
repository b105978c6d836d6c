"""The CPU backend: packs the weights, owns the pool and the scratch, calls the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Self

import llvmlite.binding as llvm
import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Float32, Int32
from gateway.replica.backends.checks import check, check_window
from gateway.replica.backends.cpu.attention import SPAN
from gateway.replica.backends.cpu.crew import Crew
from gateway.replica.backends.cpu.forward import (
    Step,
    forward_avx2,
    forward_portable,
    forward_vnni,
    parts,
)
from gateway.replica.backends.cpu.jit import revision
from gateway.replica.backends.cpu.kernel_cache import keep
from gateway.replica.backends.cpu.layout import Model, Pool, Scratch, Shape, Tokens
from gateway.replica.backends.cpu.matmul import PANEL, SLOT
from gateway.replica.backends.cpu.packing import pack
from gateway.replica.backends.cpu.store import Store
from gateway.replica.spec import ModelSpec
from gateway.replica.weights import GROUP, Weights

KERNELS: Mapping[str, Step] = {
    "vnni": forward_vnni,
    "avx2": forward_avx2,
    "portable": forward_portable,
}


class UnsupportedProcessor(ValueError):
    """These kernels do not run here."""


class CpuBackend:
    """Implements `base.Backend`. The bits of a token's logits depend on its sequence alone."""

    def __init__(
        self,
        spec: ModelSpec,
        model: Model,
        blocks: int,
        max_tokens: int,
        kernels: str,
        threads: int,
    ) -> None:
        self.spec = spec
        self.blocks = blocks
        self.max_tokens = max_tokens
        self.kernels = kernels
        self._shape = Shape(
            spec.layers,
            spec.hidden,
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
            spec.feed_forward,
            spec.norm_epsilon,
        )
        self._model = model
        self._pool = _pool(spec, blocks)
        self._threads = threads
        self._scratch = _scratch(spec, max_tokens, threads)
        self._crew = Crew(threads)

    @classmethod
    def load(
        cls,
        weights: Weights,
        blocks: int = 1024,
        max_tokens: int = 512,
        progress: Callable[[str, float], None] = lambda step, done: None,
        kernels: str | None = None,
        cache: Path | None = None,
        threads: int = 1,
    ) -> CpuBackend:
        """Pack the weights and compile, so that the first request waits for neither.

        `progress` is told the step and the share of it done, 0 to 1. `kernels` is one of KERNELS;
        by default the best for this processor. The results are kept in the folder `cache`, for
        later loads and for other processes; without one, nowhere. At most `threads` threads
        compute, for it and its forks together. Raises UnsupportedProcessor.
        """
        check_window(weights.spec)
        here = best_kernels(llvm.get_host_cpu_features())
        store = Store(cache, revision()) if cache else None
        model = pack(weights, lambda done: progress("packing weights", done), store)
        backend = cls(weights.spec, model, blocks, max_tokens, kernels or here, threads)
        progress("compiling kernels", 0.0)
        if store is not None:
            keep(KERNELS[backend.kernels], backend.kernels, store)
        nothing = np.zeros(1, np.int32)
        # of a fork: helpers begin with the first step, and settle beside the thread that has it
        backend.fork().forward(
            Batch(nothing, nothing, nothing, np.zeros((1, 1), np.int32), nothing)
        )
        progress("compiling kernels", 1.0)
        return backend

    def forward(self, batch: Batch) -> Float32:
        check(batch, self.spec, self.blocks, self.max_tokens)
        tokens = Tokens(
            _plain(batch.tokens),
            _plain(batch.positions),
            _plain(batch.rows),
            _plain(batch.tables),
            _plain(batch.logits_at),
        )
        step = KERNELS[self.kernels]
        arguments = self._shape, self._model, self._pool, self._scratch, tokens
        self._crew.run(partial(step, *arguments), parts(self.spec.layers))
        return self._scratch.logits[: len(batch.logits_at), : self.spec.vocabulary]

    def copy_block(self, source: int, target: int) -> None:
        for pool in (self._pool.keys, self._pool.values):
            pool[:, target] = pool[:, source]

    def fork(self) -> Self:
        twin = copy(self)
        twin._scratch = _scratch(self.spec, self.max_tokens, self._threads)
        twin._crew = self._crew.fork()
        return twin


def best_kernels(features: Mapping[str, bool]) -> str:
    """The fastest of KERNELS for a processor with these features, by LLVM's names.

    Raises UnsupportedProcessor for x86 processors older than 2013, on which float16 and fused
    multiply-add would be calls into libraries that are not there.
    """
    if not features.get("f16c", True) or not features.get("fma", True):
        raise UnsupportedProcessor(
            "this processor has no F16C and FMA; what is left is the reference backend"
        )
    if features.get("avx512vnni") and features.get("avx512bw"):
        return "vnni"
    return "avx2" if features.get("avx2") else "portable"


def _plain(numbers: Int32) -> Int32:
    """As the kernels were compiled for: one type, one layout, writable or not."""
    return np.require(numbers, np.int32, ["C", "W"])


def _pool(spec: ModelSpec, blocks: int) -> Pool:
    """Zeros, for which the system gives memory only when they are written to."""
    keys = (spec.layers, blocks, spec.kv_heads, spec.head_dim, BLOCK_SIZE)
    values = (spec.layers, blocks, spec.kv_heads, BLOCK_SIZE, spec.head_dim)
    return Pool(np.zeros(keys, np.uint16), np.zeros(values, np.uint16))


def _scratch(spec: ModelSpec, max_tokens: int, threads: int) -> Scratch:
    tokens = -(-max_tokens // PANEL) * PANEL
    heads, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    widest = max(2 * spec.hidden, heads, spec.feed_forward)  # twice: what 8 bits leave of it
    queries = SPAN * spec.heads // spec.kv_heads
    context = -(-spec.context_length // BLOCK_SIZE) * BLOCK_SIZE

    def floats(*shape: int) -> Float32:
        return np.zeros(shape, np.float32)

    return Scratch(
        hidden=floats(tokens, spec.hidden),
        normed=floats(tokens, spec.hidden),
        queries_keys=floats(tokens, heads + keys),
        values=floats(2 * tokens, keys),
        attended=floats(tokens, heads),
        gate_up=floats(tokens, 2 * spec.feed_forward),
        panels=np.zeros(tokens * widest // GROUP * SLOT, np.uint8),
        queries=floats(threads, queries, spec.head_dim),
        weighted=floats(threads, queries, spec.head_dim),
        totals=floats(threads, queries),
        scores=floats(threads, queries, context),
        logits=floats(tokens, -(-spec.vocabulary // PANEL) * PANEL),
    )
