"""Work that goes on beside the requests, for as long as a gateway runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

logger = logging.getLogger("gateway")


@asynccontextmanager
async def beside(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Over when we leave: what it uses is closed after it. `name` is said if it dies before."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_death)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("%s no longer watched", task.get_name(), exc_info=task.exception())
