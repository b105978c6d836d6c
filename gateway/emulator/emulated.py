"""An imitated provider for as long as an `async with` lasts: what tests import."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from gateway.emulator.endpoint import Endpoint
from gateway.emulator.profiles import profiles
from gateway.emulator.script import Script, changed, parse_script


def endpoint(
    name: str,
    *,
    seed: int = 0,
    speed: float = 1.0,
    script: Script | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    **settings: Any,
) -> Endpoint:
    """Not open yet. Raises ValueError for an unknown profile or setting."""
    if name not in profiles():
        raise ValueError(f"no profile is called {name!r}; there are: {', '.join(profiles())}")
    kind, script = profiles()[name], script or Script()
    merged = changed(kind.defaults, {**script.settings.get(name, {}), **settings})
    return Endpoint(kind(merged), seed=seed, speed=speed, rules=script.rules, host=host, port=port)


@asynccontextmanager
async def emulated(
    name: str, *, seed: int = 0, speed: float = 1000.0, script: str = "", **settings: Any
) -> AsyncGenerator[Endpoint, None]:
    """`settings` are those of `Settings`. Raises what went wrong in the emulator itself."""
    served = endpoint(name, seed=seed, speed=speed, script=parse_script(script), **settings)
    served.open()
    try:
        yield served
    finally:
        await served.close()
    if served.defects:
        raise served.defects[0]
