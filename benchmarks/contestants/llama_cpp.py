"""llama.cpp through cyllama's low-level binding: MODEL THREADS."""

from __future__ import annotations

import sys
from time import perf_counter

import cyllama.llama.llama_cpp as llama

from benchmarks.contestants.answering import answer

SEQUENCES = 16
CONTEXT = 8192
UBATCH = 512  # llama.cpp's own default


class LlamaCpp:
    def __init__(self, path: str, threads: int) -> None:
        model = llama.LlamaModelParams()
        model.n_gpu_layers = 0
        self._model = llama.LlamaModel(path, model, verbose=False)
        context = llama.LlamaContextParams()
        context.n_ctx, context.n_seq_max, context.kv_unified = CONTEXT, SEQUENCES, True
        context.n_batch = context.n_ubatch = UBATCH
        context.n_threads = context.n_threads_batch = threads
        self._context = llama.LlamaContext(self._model, context, verbose=False)
        self._lengths: dict[int, int] = {}  # tokens in each sequence

    def decode(self, size: int, length: int) -> float:
        """One more token, with its logits, of `size` sequences of `length` tokens."""
        for sequence in range(size):
            if not length <= self._lengths.get(sequence, 0) < length + 64:
                self._context.memory_seq_rm(sequence, -1, -1)
                self._compute(range(length), sequence)
                self._lengths[sequence] = length
        batch = llama.LlamaBatch(n_tokens=SEQUENCES, embd=0, n_seq_max=1)
        for sequence in range(size):
            batch.add(500 + sequence, self._lengths[sequence], [sequence], True)
            self._lengths[sequence] += 1
        return self._seconds(batch)

    def prefill(self, length: int) -> float:
        self._context.kv_cache_clear()
        self._lengths.clear()
        return self._compute(range(length), 0)

    def _compute(self, positions: range, sequence: int) -> float:
        seconds = 0.0
        for start in positions[::UBATCH]:
            batch = llama.LlamaBatch(n_tokens=UBATCH, embd=0, n_seq_max=1)
            for position in positions[start : start + UBATCH]:
                token = 100 + position * 7 % 4000
                batch.add(token, position, [sequence], position == positions[-1])
            seconds += self._seconds(batch)
        return seconds

    def _seconds(self, batch: llama.LlamaBatch) -> float:
        started = perf_counter()
        self._context.decode(batch)
        self._context.synchronize()
        return perf_counter() - started


if __name__ == "__main__":
    contestant = LlamaCpp(sys.argv[1], int(sys.argv[2]))
    answer({"decode": contestant.decode, "prefill": contestant.prefill})
