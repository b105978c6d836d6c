"""
Steps on their way to a device and back: staged, launched, and waited for in the order of launch.

Nothing here knows torch. A step's numbers go up as one vector, its tokens come down as another one;
both lie in memory that the device copies from and to while the host goes on. So there are two
places of each, taken in turn, and a place is used again only when its step has been waited for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from gateway.replica.backends.base import Batch, Draws, Float32, Int32
from gateway.replica.backends.cuda.packing import Counts, pack

T = TypeVar("T")
"""The device's word for what a step leaves: its logits."""

DEPTH = 2
"""Steps on their way at most: one that computes, and one that can begin when it ends."""


class Device(Protocol[T]):
    """One queue of work. Its methods return at once, but for `wait` and `logits`."""

    def staging(self, words: int) -> Int32:
        """Host memory that copies to and from the device need not wait for."""
        ...

    def upload(self, words: Int32) -> None:
        """Copy to the vector that steps read. The array is read when its turn comes."""
        ...

    def compute(self, counts: Counts, batch: Batch) -> T:
        """A step of any shape."""
        ...

    def record(self, counts: Counts) -> Callable[[], T]:
        """What computes a padded batch of single tokens with one call."""
        ...

    def download(self, tokens: Int32) -> Callable[[], None]:
        """Copy the tokens that the latest step drew; returns what waits until they have come."""
        ...

    def logits(self, left: T) -> Float32:
        """Waits; the array is the caller's."""
        ...


class Launched(Generic[T]):
    """A step on its way; implements `base.Drawn`."""

    def __init__(self, device: Device[T], left: T, drawn: Int32, wait: Callable[[], None]) -> None:
        self.over = False
        self._device = device
        self._left = left
        self._drawn = drawn
        self._wait = wait

    def tokens(self) -> list[int | None]:
        self._end()
        return [None if token < 0 else token for token in self._drawn.tolist()]

    def logits(self) -> Float32:
        """[S, vocabulary]; to be asked for before the next step is launched."""
        self._end()
        return self._device.logits(self._left)[: len(self._drawn)]

    def _end(self) -> None:
        """Waits. Its place is free then, whatever came of it."""
        try:
            self._wait()
        finally:
            self.over = True


class Pipeline(Generic[T]):
    """`sizes` are the batches of single tokens that are recorded, in ascending order."""

    def __init__(
        self,
        device: Device[T],
        sizes: Sequence[int],
        *,
        max_tokens: int,
        max_width: int,
        spare: int,
        progress: Callable[[float], None] = lambda done: None,
    ) -> None:
        """A table has at most `max_width` blocks; `spare` is the block of what is padding.
        `progress` is told the share of `sizes` that is recorded."""
        self._device = device
        self._spare = spare
        most = Counts(max_tokens, max_tokens, max_tokens, max_width)
        self._up = [device.staging(most.words) for _ in range(DEPTH)]
        self._down = [device.staging(max_tokens) for _ in range(DEPTH)]
        self._places: list[Launched[T] | None] = [None] * DEPTH
        self._launched = 0
        self._sizes = tuple(sizes)
        self._graphs: dict[int, Callable[[], T]] = {}
        for size in sorted(sizes, reverse=True):  # smaller ones can live in the largest's memory
            progress(len(self._graphs) / len(sizes))
            self._graphs[size] = device.record(Counts(size, size, size))

    def launch(self, batch: Batch, draws: Draws) -> Launched[T]:
        """Raises RuntimeError while DEPTH steps have not been waited for."""
        place = self._launched % DEPTH
        before = self._places[place]
        if before is not None and not before.over:
            raise RuntimeError(f"{DEPTH} steps are on their way; one must be waited for first")
        size = self.size_for(batch)
        width = batch.tables.shape[1]
        if size is None:
            counts = Counts(len(batch), len(batch.tables), len(batch.logits_at), width)
        else:
            counts = Counts(size, size, size, width)
        words = self._up[place][: counts.words]
        pack(batch, draws, counts, self._spare, words)
        self._device.upload(words)
        left = self._device.compute(counts, batch) if size is None else self._graphs[size]()
        tokens = self._down[place][: len(batch.logits_at)]
        launched = Launched(self._device, left, tokens, self._device.download(tokens))
        self._places[place] = launched
        self._launched += 1
        return launched

    def size_for(self, batch: Batch) -> int | None:
        """The recorded batch that this one is padded to, if it can be."""
        index = bisect_left(self._sizes, len(batch))
        plain = np.arange(len(batch))
        if index == len(self._sizes) or not (
            np.array_equal(batch.rows, plain) and np.array_equal(batch.logits_at, plain)
        ):
            return None
        return self._sizes[index]


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 4, 8, then every eighth to 64 and every sixteenth beyond: at most an eighth is padding
    where it would cost."""
    sizes = [*(1, 2, 4), *range(8, 64, 8), *range(64, most + 1, 16)]
    return sorted({size for size in sizes if size <= most} | {most})
