"""All local replicas of one gateway, for as long as an `async with` lasts."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import anyio

from gateway.supervisor.process import ReplicaProcess, Timing, Watcher


class Supervisor:
    """Keeps one process per entry of `commands` (replica's name -> command line) running.

    Entering starts them all and waits for none; leaving ends them all and waits until nothing is
    left, also when it is left by an error or by cancellation.
    Their secret is made here, anew for each supervisor, and told to the watcher alone.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        watcher: Watcher,
        timing: Timing | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        secret = secrets.token_urlsafe(32)
        timing = timing or Timing()
        self._replicas = [
            ReplicaProcess(name, command, secret, watcher, timing, clock=clock, sleep=sleep)
            for name, command in commands.items()
        ]
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._tasks = [
            self._group.create_task(replica.run(), name=f"supervisor of {replica.name}")
            for replica in self._replicas
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if not isinstance(error, asyncio.CancelledError):
            kind = error = trace = None  # the body's error goes on as it is; a group would wrap it
        # A cancelled anyio scope around us would cancel this wait again and again.
        with anyio.CancelScope(shield=True):
            await self._group.__aexit__(kind, error, trace)


def replica_command(model: str, *options: str) -> tuple[str, ...]:
    """The command line of a local replica, by the interpreter that runs us."""
    gateway = (sys.executable, "-m", "gateway")
    return (*gateway, "replica", "--model", model, "--port", "0", "--supervised", *options)


def threads_per_replica(cores: int, replicas: int) -> int:
    """Compute threads for each replica on a machine with `cores`.

    A replica uses at most two, and a second one pays only on a core of its own: with it prompts are
    computed beside the answers, without it they take the same core from each other. Below four
    cores there is one for each; from four on, one core is left to the gateway.
    """
    if cores < 4:
        return 1
    return min(2, max(1, (cores - 1) // replicas))
