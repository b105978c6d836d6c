"""
Speed of the CPU backend on one thread: tokens a second in decoding and in prefill, seconds to load.

    python -m benchmarks.cpu_decode [--model smollm2] [--kernels vnni|portable] [--repeats 25]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from gateway import models
from gateway.replica.backends.base import BLOCK_SIZE, Batch, Int32
from gateway.replica.backends.cpu import KERNELS, CpuBackend
from gateway.replica.weights import Weights

BATCHES = (1, 2, 3, 4, 5, 8, 12, 16)
CONTEXTS = (128, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", default="smollm2", help="a name or the path of a GGUF file")
    parser.add_argument("--kernels", choices=sorted(KERNELS), help="default: the processor's best")
    parser.add_argument("--repeats", type=int, default=25)
    arguments = parser.parse_args()
    backend = _load(arguments.model, arguments.kernels)
    print(f"{'':22}{'median':>12}{'best':>12}   tokens/s")
    vocabulary = backend.spec.vocabulary
    tables = _fill(backend)
    for name, batch in _cases(tables, vocabulary):
        repeats = (
            arguments.repeats if len(batch) <= max(BATCHES) else max(5, arguments.repeats // 5)
        )
        seconds = [_seconds(backend, batch) for _ in range(repeats)]
        middle, best = statistics.median(seconds), min(seconds)
        print(f"{name:22}{len(batch) / middle:12.0f}{len(batch) / best:12.0f}")


def _load(model: str, kernels: str | None) -> CpuBackend:
    start = perf_counter()
    times: dict[str, float] = {}

    def progress(step: str, done: float) -> None:
        times[step] = perf_counter() - start

    weights = Weights.open(models.find(model))
    opened = perf_counter() - start
    cache = models.cache_folder().parent / "cpu"
    backend = CpuBackend.load(weights, kernels=kernels, progress=progress, cache=cache)
    packed, compiled = times["packing weights"], times["compiling kernels"]
    print(f"{backend.kernels} kernels; seconds: open {opened:.2f}, ", end="")
    print(f"pack or map {packed - opened:.2f}, compile or load {compiled - packed:.2f}")
    return backend


def _fill(backend: CpuBackend) -> Int32:
    """Compute every sequence that the cases read: memory never written to would be too fast."""
    blocks = max(CONTEXTS) // BLOCK_SIZE + 1
    order = np.random.default_rng(1).permutation(max(BATCHES) * blocks).astype(np.int32)
    tables = order.reshape(max(BATCHES), blocks)
    for row in range(len(tables)):
        backend.forward(_prefill(max(CONTEXTS), tables[row : row + 1], backend.spec.vocabulary))
    return tables


def _cases(tables: Int32, vocabulary: int) -> Iterator[tuple[str, Batch]]:
    for context in CONTEXTS:
        for size in BATCHES:
            yield f"decode {size:2} at {context}", _decode(size, context, tables, vocabulary)
    for length in CONTEXTS:
        yield f"prefill {length}", _prefill(length, tables, vocabulary)


def _decode(size: int, context: int, tables: Int32, vocabulary: int) -> Batch:
    """One more token of each of `size` sequences."""
    rows = np.arange(size, dtype=np.int32)
    positions = np.full(size, context, np.int32)
    return Batch(_ids(size, vocabulary), positions, rows, tables, rows)


def _prefill(length: int, tables: Int32, vocabulary: int) -> Batch:
    """The first sequence's prompt, for the logits of its last token."""
    positions = np.arange(length, dtype=np.int32)
    return Batch(
        _ids(length, vocabulary), positions, np.zeros_like(positions), tables, positions[-1:]
    )


def _ids(count: int, vocabulary: int) -> Int32:
    return np.random.default_rng(0).integers(0, vocabulary, count).astype(np.int32)


def _seconds(backend: CpuBackend, batch: Batch) -> float:
    start = perf_counter()
    backend.forward(batch)
    return perf_counter() - start


if __name__ == "__main__":
    main()
