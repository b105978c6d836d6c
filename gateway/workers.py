"""
`gateway serve --workers N`: several processes hold the line, one keeps what there is one of.

The parent owns the listening socket, the replicas and, unless the config names one, the server that
the workers share state in. Workers accept on the parent's socket; each reads on its standard input
which replicas there are, and says on its standard output when it is ready. A worker that dies is
started again. When the parent goes away, standard input ends, and the worker drains and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.config import Config
from gateway.dashboard.siblings import FOLDER as SIBLINGS
from gateway.local_replicas import replica_commands
from gateway.state.embedded import embedded
from gateway.supervisor import Supervisor, Watcher

logger = logging.getLogger("gateway")

AGAIN_S = 1.0  # before a worker that died is started again
STATE_URL = "GATEWAY_STATE_URL"
"""Where a worker finds the state that it shares, when the parent keeps it."""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers add up what they count, by prometheus_client's own name: each in files of its own,
of which those of gauges of the living are `gauge_live`*`_`PID`.db`."""


@dataclass(eq=False)
class Parent:
    """Keeps the workers. A supervisor's watcher: what it hears of replicas, all workers hear."""

    command: Sequence[str]
    count: int
    listener: socket.socket
    drain_s: float
    on_ready: Callable[[str], None]
    environ: dict[str, str] = field(default_factory=dict)
    _workers: dict[int, Process] = field(default_factory=dict)
    _replicas: dict[str, str] = field(default_factory=dict)  # what a new worker has to hear
    _ready: bool = False

    async def run(self) -> None:
        """Until it is cancelled; nothing is left of the workers then."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.count):
                    group.create_task(self._keep(number))
        finally:
            await self._end()

    async def _keep(self, number: int) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *("--worker", str(self.listener.fileno())),
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=[self.listener.fileno()],
                env={**os.environ, **self.environ},
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which tells them
            )
            self._workers[number] = process
            for line in self._replicas.values():
                self._write(process, line)
            assert process.stdout is not None
            async for said in process.stdout:
                if said.startswith(b"ready ") and not self._ready:
                    self._ready = True
                    self.on_ready(said.split()[1].decode())
            code = await process.wait()
            self._forget(process.pid)
            logger.warning("worker %d ended with exit code %d; starts again", number, code)
            await asyncio.sleep(AGAIN_S)

    def _forget(self, pid: int) -> None:
        """What a worker held when it died, nobody holds any more."""
        known = {**os.environ, **self.environ}
        for folder, files in ((METRICS_FOLDER, f"gauge_live*_{pid}.db"), (SIBLINGS, f"{pid}.sock")):
            for file in Path(known[folder]).glob(files) if folder in known else ():
                file.unlink(missing_ok=True)

    async def _end(self) -> None:
        running = [p for p in self._workers.values() if p.returncode is None]
        for process in running:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_s + 5):
                await asyncio.gather(*(_drained(process) for process in running))
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _tell(self, *told: str) -> None:
        line = json.dumps(told) + "\n"
        self._replicas[told[1]] = line
        for process in self._workers.values():
            self._write(process, line)

    def _write(self, process: Process, line: str) -> None:
        if process.returncode is None and process.stdin is not None:
            process.stdin.write(line.encode())

    def replica_progress(self, name: str, step: str, done: float) -> None:
        pass  # the supervisor's log says when it is ready

    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None:
        self._tell("ready", name, url, secret, epoch)

    def replica_gone(self, name: str, reason: str) -> None:
        self._tell("gone", name, reason)

    def replica_failed(self, name: str, error: str) -> None:
        logger.error("%s: cannot start: %s", name, error)


async def _drained(process: Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass
    await process.wait()


async def run_parent(config: Config, parent: Parent) -> None:
    """Until SIGINT or SIGTERM. Raises NoServer."""
    async with AsyncExitStack() as stack:
        if config.state.redis is None:
            parent.environ[STATE_URL] = stack.enter_context(embedded()).url
        if METRICS_FOLDER not in os.environ:
            parent.environ[METRICS_FOLDER] = stack.enter_context(TemporaryDirectory())
        parent.environ[SIBLINGS] = stack.enter_context(TemporaryDirectory())
        task = asyncio.ensure_future(_with_replicas(config, parent))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _with_replicas(config: Config, parent: Parent) -> None:
    async with Supervisor(replica_commands(config), parent):
        await parent.run()


def replicas_of_parent(watcher: Watcher) -> contextlib.AbstractAsyncContextManager[None]:
    """What a worker hears on its standard input of the replicas that its parent keeps."""
    return _listening(watcher)


@asynccontextmanager
async def _listening(watcher: Watcher) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    task = asyncio.create_task(_hear(reader, watcher))
    try:
        yield
    finally:
        task.cancel()
        transport.close()


async def _hear(reader: asyncio.StreamReader, watcher: Watcher) -> None:
    async for line in reader:
        match json.loads(line):
            case ["ready", name, url, secret, epoch]:
                watcher.replica_ready(name, url, secret, epoch)
            case ["gone", name, reason]:
                watcher.replica_gone(name, reason)
    os.kill(os.getpid(), signal.SIGTERM)  # the parent is gone
