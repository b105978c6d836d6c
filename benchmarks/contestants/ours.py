"""Our CPU backend, and the engine around it: MODEL THREADS."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from statistics import median
from threading import Event
from time import perf_counter

import numpy as np

from benchmarks.contestants.answering import answer
from gateway import models
from gateway.replica.backends.base import Batch
from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.engine import Engine
from gateway.replica.main import CHUNK_TOKENS, MOST_WORKERS
from gateway.replica.request import Counts, Finish, Output, Submission
from gateway.replica.sampling import Sampling
from gateway.replica.weights import Weights

BLOCKS = 1024
SEQUENCES = 16


class Ours:
    def __init__(self, path: Path, threads: int) -> None:
        self._threads = threads
        cache = models.cache_folder().parent / "cpu"
        weights = Weights.open(path)
        self._backend = CpuBackend.load(weights, BLOCKS, CHUNK_TOKENS, cache=cache, threads=threads)
        each = BLOCKS // SEQUENCES
        self._tables = np.arange(BLOCKS, dtype=np.int32).reshape(SEQUENCES, each)
        self._computed: dict[int, int] = {}  # tokens in each sequence
        self._prompts = count()
        self._engine: Engine | None = None

    def decode(self, size: int, length: int) -> float:
        """One more token, with its logits, of `size` sequences of `length` tokens."""
        for row in range(size):
            if self._computed.get(row) != length:
                self._compute(row, length)
                self._computed[row] = length
        rows = np.arange(size, dtype=np.int32)
        positions = np.full(size, length, np.int32)
        return self._seconds(Batch(rows + 500, positions, rows, self._tables[:size], rows))

    def prefill(self, length: int) -> float:
        """In chunks, as a replica computes it."""
        self._computed.clear()
        return self._compute(0, length)

    def decode_beside_prompt(self) -> float:
        """A step of 4 answers while a prompt of 4,000 tokens is computed."""
        engine = self._started(self._threads)
        answers = [Listener() for _ in range(4)]
        for listener in answers:
            self._submit(engine, self._prompt(128), 2000, listener)
        for listener in answers:
            listener.begun.wait()
        prompt = Listener()
        started = perf_counter()
        self._submit(engine, self._prompt(4000), 1, prompt)
        prompt.begun.wait()
        ended = perf_counter()
        engine.stop()
        times = [each for each in answers[0].times if started < each < ended]
        return median(np.diff(times).tolist())

    def decode_in_engine(self, size: int) -> float:
        """From token to token of `size` answers, with nothing else to compute."""
        engine = self._started(self._threads)
        answers = [Listener() for _ in range(size)]
        for listener in answers:
            self._submit(engine, self._prompt(128), 60, listener)
        engine.wait_idle(60)
        engine.stop()
        return median(np.diff(answers[0].times[10:]).tolist())

    def first_token(self, cached: int) -> float:
        """Of a prompt of 2,000 tokens: never seen, or seen just before."""
        engine = self._started(self._threads)
        prompt = self._prompt(2000)
        listener = Listener()
        for _ in range(1 + cached):
            listener = Listener()
            started = perf_counter()
            self._submit(engine, prompt, 1, listener)
            listener.begun.wait()
        engine.stop()
        return listener.times[0] - started

    def _started(self, workers: int) -> Engine:
        self._computed.clear()  # the engine writes to the same blocks
        forks = [self._backend.fork() for _ in range(1, min(workers, MOST_WORKERS))]
        engine = Engine(self._backend, *forks, chunk_tokens=CHUNK_TOKENS)
        engine.start()
        return engine

    def _prompt(self, length: int) -> tuple[int, ...]:
        chance = np.random.default_rng(next(self._prompts))
        return tuple(chance.integers(100, 4000, length).tolist())

    def _submit(
        self, engine: Engine, prompt: tuple[int, ...], tokens: int, listener: Listener
    ) -> None:
        sampling = Sampling(temperature=0, max_tokens=tokens)
        name = str(next(self._prompts))
        engine.submit(
            Submission(name, prompt, sampling, listener.on_token, _ended, listener.on_error)
        )

    def _compute(self, row: int, length: int) -> float:
        seconds = 0.0
        for start in range(0, length, CHUNK_TOKENS):
            positions = np.arange(start, min(start + CHUNK_TOKENS, length), dtype=np.int32)
            at = np.array([len(positions) - 1] if positions[-1] == length - 1 else [], np.int32)
            rows = np.zeros_like(positions)
            tokens = 100 + positions * 7 % 4000
            seconds += self._seconds(
                Batch(tokens, positions, rows, self._tables[row : row + 1], at)
            )
        return seconds

    def _seconds(self, batch: Batch) -> float:
        started = perf_counter()
        self._backend.forward(batch)
        return perf_counter() - started


class Listener:
    """When the tokens of one answer came."""

    def __init__(self) -> None:
        self.begun = Event()
        self.times: list[float] = []

    def on_token(self, output: Output) -> bool:
        self.times.append(perf_counter())
        self.begun.set()
        return False

    def on_error(self, error: Exception) -> None:
        raise error


def _ended(finish: Finish, counts: Counts) -> None:
    """Nothing more to measure."""


if __name__ == "__main__":
    contestant = Ours(Path(sys.argv[1]), int(sys.argv[2]))
    answer(
        {
            "decode": contestant.decode,
            "prefill": contestant.prefill,
            "decode_beside_prompt": contestant.decode_beside_prompt,
            "decode_in_engine": contestant.decode_in_engine,
            "first_token": contestant.first_token,
        }
    )
