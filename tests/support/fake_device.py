"""A device that computes late, as a GPU does, and the fake backend on it.

What is asked of it waits in a queue and is done only when somebody waits for something behind it.
So a place that is written too early, or read too early, gives other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from gateway.replica.backends.base import Batch, DeviceLost, Draws, Float32, Int32
from gateway.replica.backends.cuda.packing import Counts
from gateway.replica.backends.cuda.pipeline import Launched, Pipeline
from gateway.replica.sampler import sample
from gateway.replica.sampling import Sampling, Turn
from tests.support.fake_backend import FakeBackend


class FakeDevice:
    """Implements `pipeline.Device`. `recorded` counts how often each graph has been replayed."""

    def __init__(self, model: FakeBackend, words: int, tokens: int) -> None:
        self.model = model
        self.recorded: dict[int, int] = {}
        self.computed = 0
        self.lost = False
        self._words = np.zeros(words, np.int32)
        self._drawn = np.zeros(tokens, np.int32)
        self._queue: list[Callable[[], None]] = []
        self._done = 0

    def staging(self, words: int) -> Int32:
        return np.zeros(words, np.int32)

    def enqueue(self, work: Callable[[], None]) -> None:
        self._queue.append(work)

    def upload(self, words: Int32) -> None:
        self.enqueue(lambda: self._words.__setitem__(slice(len(words)), words))

    def compute(self, counts: Counts, batch: Batch) -> list[Float32]:
        self.computed += 1
        left: list[Float32] = []
        self.enqueue(lambda: self._compute(counts, left))
        return left

    def record(self, counts: Counts) -> Callable[[], list[Float32]]:
        size = counts.tokens
        self.recorded[size] = 0

        def replay() -> list[Float32]:
            self.recorded[size] += 1
            left: list[Float32] = []
            # as a graph: the width is what stands in the step's numbers
            self.enqueue(lambda: self._compute(Counts(size, size, size, int(self._words[0])), left))
            return left

        return replay

    def download(self, tokens: Int32) -> Callable[[], None]:
        self.enqueue(lambda: tokens.__setitem__(slice(None), self._drawn[: len(tokens)]))
        behind = len(self._queue)
        return lambda: self._run_until(behind)

    def logits(self, left: list[Float32]) -> Float32:
        self._run_until(len(self._queue))
        return np.array(left, np.float32).reshape(-1, self.model.spec.vocabulary)

    def _run_until(self, end: int) -> None:
        if self.lost:
            raise DeviceLost("the fake device was told to be lost")
        while self._done < end:
            self._queue[self._done]()
            self._queue[self._done] = lambda: None
            self._done += 1

    def _compute(self, counts: Counts, left: list[Float32]) -> None:
        words = self._words[: counts.words]
        drawn, ids = words[counts.drawn], words[counts.ids]
        before = self._drawn[np.maximum(drawn, 0)]
        tokens = np.where(drawn < 0, ids, np.maximum(before, 0))
        tables = words[counts.tables].reshape(counts.rows, counts.width)
        real = [
            i for i in range(counts.tokens) if tables[words[counts.rows_of][i], 0] != self.spare
        ]
        batch = Batch(
            tokens=tokens[real],
            positions=words[counts.positions][real],
            rows=words[counts.rows_of][real],
            tables=tables,
            logits_at=words[counts.logits_at][: None if len(real) == counts.tokens else len(real)],
        )
        left.extend(self.model.compute(batch))
        temperatures = words[counts.temperatures].view(np.float32)
        noises = words[counts.noises].view(np.float32)
        for index, row in enumerate(left):
            token = _drawn(row, float(temperatures[index]), float(noises[index]))
            self._drawn[index] = -1 if token is None else token

    @property
    def spare(self) -> int:
        return self.model.blocks


def _drawn(row: Float32, temperature: float, noise: float) -> int | None:
    """As the sampler does, with this noise in place of its own."""

    class Noise(np.random.Generator):
        def random(self) -> float:  # type: ignore[override]
            return noise

    turn = Turn(Sampling(temperature=temperature), 0)
    return sample(row[None], [turn], Noise(np.random.Philox(0)))[0]


class FakeGpu(FakeBackend):
    """Implements `base.DrawingBackend`: the fake model behind the real pipeline."""

    def __init__(
        self,
        *,
        blocks: int = 64,
        sizes: Sequence[int] = (1, 2, 4, 8),
        max_tokens: int = 128,
        raises_at: int | None = None,
        nan_at: int | None = None,
    ) -> None:
        super().__init__(blocks=blocks, max_tokens=max_tokens, raises_at=raises_at, nan_at=nan_at)
        width = self.spec.context_length // 16
        most = Counts(max_tokens, max_tokens, max_tokens, width)
        self.device = FakeDevice(self, most.words, max_tokens)
        self.pipeline: Pipeline[list[Float32]] = Pipeline(
            self.device, sizes, max_tokens=max_tokens, max_width=width, spare=blocks
        )
        self.launched = self.followed = 0

    def launch(self, batch: Batch, draws: Draws) -> Launched[list[Float32]]:
        self.launched += 1
        self.followed += batch.drawn is not None
        return self.pipeline.launch(batch, draws)

    def forward(self, batch: Batch) -> Float32:
        nothing = np.zeros(len(batch.logits_at), np.float32)
        return self.pipeline.launch(batch, Draws(nothing, nothing)).logits()

    def copy_block(self, source: int, target: int) -> None:
        self.device.enqueue(lambda: FakeBackend.copy_block(self, source, target))

    def fork(self) -> Self:
        raise AssertionError("one thread keeps it busy")
