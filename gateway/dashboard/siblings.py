"""
The other workers of this gateway, asked for what they know when somebody looks.

Each listens on a socket in a folder that their parent has made for them, and that nobody else may
enter. Who connects is told one JSON object, and nothing is asked of him.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FOLDER = "GATEWAY_SIBLINGS"
"""The environment's name for that folder; without it there are no others."""

PATIENCE_S = 1.0

Told = Mapping[str, Any]


@dataclass(frozen=True)
class Siblings:
    folder: Path | None
    tells: Callable[[], Told]  # what this worker knows

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self.folder is None:
            yield
            return
        try:
            server = await asyncio.start_unix_server(self._tell, self._socket)
        except OSError as error:  # its path is too long, for one
            logger.warning("the dashboard shows each worker alone: %s", error)
            yield
            return
        try:
            yield
        finally:
            server.close()
            self._socket.unlink(missing_ok=True)

    async def told(self) -> list[Told]:
        """By the others; who does not answer in time is left out."""
        if self.folder is None:
            return []
        others = [path for path in sorted(self.folder.glob("*.sock")) if path != self._socket]
        answers = await asyncio.gather(*map(_ask, others))
        return [answer for answer in answers if answer is not None]

    @property
    def _socket(self) -> Path:
        assert self.folder is not None, "a worker without others has no socket"
        return self.folder / f"{os.getpid()}.sock"

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self.tells()).encode())
            await writer.drain()
        writer.close()


async def _ask(path: Path) -> Told | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                told: Told = json.loads(await reader.read())
                return told
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):  # it died, or is too busy
        return None
