"""Real servers on port 0, for as long as a `with` lasts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from gateway.front.drain import Drain
from gateway.front.server import ConnectionLimits, server

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that use none: the roots that are loaded otherwise take 50 ms for each client."""


@asynccontextmanager
async def serving(
    app: ASGIApp,
    limits: ConnectionLimits | None = None,
    drain_s: float = 1.0,
    drain: Drain | None = None,
) -> AsyncIterator[str]:
    """The app behind the gateway's own server; gives `http://127.0.0.1:port`."""
    web = server(
        app,
        host="127.0.0.1",
        port=0,
        limits=limits or ConnectionLimits(),
        drain_s=drain_s,
        drain=drain or Drain(),
    )
    async with started(web) as url:
        yield url


@asynccontextmanager
async def started(web: uvicorn.Server) -> AsyncIterator[str]:
    task = asyncio.create_task(web.serve())
    while not web.started:
        await asyncio.sleep(0.001)
        if task.done():
            task.result()
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        web.should_exit = True
        await task
