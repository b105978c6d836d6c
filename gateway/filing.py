"""What tenants keep here and what is run from it, as the config has it: files and batches."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.beside import beside
from gateway.config import ConfigError
from gateway.config.tree import Files as FilesConfig
from gateway.files.pace import Pace
from gateway.files.runner import Runner
from gateway.files.store import Folder, StoreError
from gateway.front.batches import Batches
from gateway.front.door import Door
from gateway.front.files import Files, Kept
from gateway.front.inside import Inside

logger = logging.getLogger(__name__)


@dataclass
class Filing:
    config: FilesConfig
    door: Door
    clock: Callable[[], float]
    random: random.Random
    wall: Callable[[], float] = time.time
    app: ASGIApp | None = None  # what answers the batches' requests
    runner: Runner | None = field(default=None, init=False)
    _folder: Folder | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.config.folder is None:
            return
        try:
            self._folder = Folder(self.config.folder)
        except StoreError as error:
            raise ConfigError(None, None, ("files", "folder"), str(error)) from None
        most = self.config.batch_concurrency
        self.runner = Runner(
            self._folder,
            Inside(self._app, self.door),
            lambda: Pace(most, self.clock),
            most,
            self.wall,
            self.random,
        )

    def _app(self) -> ASGIApp:
        assert self.app is not None, "batches run beside an app"
        return self.app

    def routes(self) -> list[Route]:
        sizes = (self.config.max_file, self.config.max_stored)
        kept = Kept(self.door, self._folder, *sizes, self.wall)
        files, batches = Files(kept), Batches(kept, self._changed)
        return [
            Route("/v1/files", files.every, methods=["GET"]),
            Route("/v1/files", files.create, methods=["POST"]),
            Route("/v1/files/{id}", files.one, methods=["GET"]),
            Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", files.content, methods=["GET"]),
            Route("/v1/batches", batches.every, methods=["GET"]),
            Route("/v1/batches", batches.create, methods=["POST"]),
            Route("/v1/batches/{id}", batches.one, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
        ]

    def _changed(self) -> None:
        if self.runner is not None:
            self.runner.poke()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self.runner is None or self._folder is None:
            yield
            return
        try:
            async with beside(self.runner.run(), "batches are"):
                yield
        finally:
            await asyncio.to_thread(self._folder.close)
