"""An event loop whose time goes by only when everybody waits, and then at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable


class _Skipping(selectors.SelectSelector):
    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for somebody else"
            self._skip(max(0.0, timeout))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Skipping(self._skip))

    def time(self) -> float:
        return self.now

    def _skip(self, seconds: float) -> None:
        self.now += seconds
