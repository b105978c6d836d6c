"""Torch's devices behind `pipeline.Device`: streams, pinned memory, events and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gateway.replica.backends.base import Batch, DeviceLost, Float32, Int32
from gateway.replica.backends.cuda.layout import Step
from gateway.replica.backends.cuda.packing import Counts

Body = Callable[[Step], tuple[Tensor, Tensor]]
"""What a step computes: its logits [S, vocabulary] and its tokens [S]."""


class HostDevice:
    """The CPU, where everything has happened when a call returns. For tests and for `plain`."""

    name = "cpu"

    def __init__(self, words: int, tokens: int, recorded: int, vocabulary: int) -> None:
        """A step's numbers take at most `words`, and it draws at most so many `tokens`; of those
        that are recorded, the largest gives `recorded` logits."""
        self.body: Body
        self.drawn = torch.zeros(tokens, dtype=torch.int32, device=self.name)
        self._words = torch.zeros(words, dtype=torch.int32, device=self.name)
        # one for all graphs: what each keeps of its own, no other graph can use
        self._logits = torch.zeros(recorded, vocabulary, device=self.name)

    def staging(self, words: int) -> Int32:
        array: Int32 = torch.zeros(words, dtype=torch.int32).numpy()
        return array

    def upload(self, words: Int32) -> None:
        self._words[: len(words)].copy_(torch.from_numpy(words))

    def compute(self, counts: Counts, batch: Batch) -> Tensor:
        return self._compute(counts, batch)

    def record(self, counts: Counts) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            return self._keep(self._compute(counts, None))

        return replay

    def _compute(self, counts: Counts, batch: Batch | None) -> Tensor:
        with torch.inference_mode():
            logits, tokens = self.body(Step.of(self._words, counts, batch))
            self.drawn[: len(tokens)].copy_(tokens)
        return logits

    def _keep(self, logits: Tensor) -> Tensor:
        kept = self._logits[: len(logits)]
        kept.copy_(logits)
        return kept

    def download(self, tokens: Int32) -> Callable[[], None]:
        torch.from_numpy(tokens).copy_(self.drawn[: len(tokens)])
        return lambda: None

    def logits(self, left: Tensor) -> Float32:
        array: Float32 = left.to("cpu", copy=True).numpy()
        return array

    def enqueue(self, work: Callable[[], None]) -> None:
        """In the order of the steps."""
        work()


class CudaDevice(HostDevice):
    """An NVIDIA GPU (or what torch calls so): one stream, on which everything runs in order."""

    name = "cuda"

    def __init__(self, words: int, tokens: int, recorded: int, vocabulary: int) -> None:
        super().__init__(words, tokens, recorded, vocabulary)
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())  # what loaded the model
        self._pool = torch.cuda.graph_pool_handle()

    def staging(self, words: int) -> Int32:
        array: Int32 = torch.zeros(words, dtype=torch.int32, pin_memory=True).numpy()
        return array

    def upload(self, words: Int32) -> None:
        with self._queue():
            self._words[: len(words)].copy_(torch.from_numpy(words), non_blocking=True)

    def compute(self, counts: Counts, batch: Batch) -> Tensor:
        with self._queue():
            return self._compute(counts, batch)

    def record(self, counts: Counts) -> Callable[[], Tensor]:
        with self._queue():
            self._keep(self._compute(counts, None))  # compiles, and lets libraries choose
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, self._stream):
            kept = self._keep(self._compute(counts, None))

        def replay() -> Tensor:
            with self._queue():
                graph.replay()
            return kept

        return replay

    def download(self, tokens: Int32) -> Callable[[], None]:
        with self._queue():
            torch.from_numpy(tokens).copy_(self.drawn[: len(tokens)], non_blocking=True)
            event = torch.cuda.Event()
            event.record()

        def wait() -> None:
            with self._queue():
                event.synchronize()

        return wait

    def logits(self, left: Tensor) -> Float32:
        with self._queue():
            return super().logits(left)

    def enqueue(self, work: Callable[[], None]) -> None:
        with self._queue():
            work()

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """What is asked for here goes on the one stream.

        Raises DeviceLost: after an error of its own a GPU refuses all else of this process.
        """
        with torch.cuda.stream(self._stream):
            try:
                yield
            except torch.AcceleratorError as error:
                raise DeviceLost(f"the GPU has failed: {error}") from error
