"""
`gateway serve --workers N`: several processes hold the line, one keeps what there is one of.

The parent owns the listening socket, the replicas and, unless the config names one, the server that
the workers share state in. Workers accept on the parent's socket; each reads on its standard input
which replicas there are, and says on its standard output how far it is. A worker that dies is
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
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.beside import beside
from gateway.config import Config
from gateway.dashboard.siblings import FOLDER as SIBLINGS
from gateway.local_replicas import replica_commands
from gateway.state.embedded import Embedded, NoServer, embedded
from gateway.supervisor import Pauses, Supervisor, Watcher
from gateway.supervisor.process import describe_end, wait_ended
from gateway.supervisor.states import read_lines

logger = logging.getLogger("gateway")

STATE_URL = "GATEWAY_STATE_URL"
"""Where a worker finds the state that it shares, when the parent keeps it."""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers add up what they count, by prometheus_client's own name: each in files of its own,
of which those of gauges of the living are `gauge_live`*`_`PID`.db`."""


TOLD = (signal.SIGINT, signal.SIGTERM)
"""What a worker is told to end by, and dies of where it only starts."""


class CannotStart(Exception):
    """A worker ended before any had started."""

    def __init__(self, code: int, refusal: str | None) -> None:
        super().__init__(refusal or f"a worker {describe_end(code, None)} before any had started")
        self.code = code if code > 0 else 1


@dataclass(slots=True)
class Life:
    """What is known of one life of a worker, filled in as it goes."""

    since: float | None = None  # clock: it had started
    refusal: str | None = None  # why it said that it cannot start
    code: int = 0


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
    _started: set[int] = field(default_factory=set)  # PIDs, of those that have ended as well
    _ready: bool = False
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _cannot_start: CannotStart | None = None

    async def run(self) -> int:
        """Until `stop`; the exit code. Nothing is left of the workers then. Raises CannotStart."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._keep(number)) for number in range(self.count)]
                await self._stopping.wait()
                for task in keeping:
                    task.cancel()
        finally:
            code = await self._end()
        if self._cannot_start is not None:
            raise self._cannot_start
        return code

    def stop(self, number: int) -> None:
        """A signal to the parent is one to each worker: the second says more than the first."""
        self._stopping.set()
        for process in self._workers.values():
            if process.returncode is not None:
                continue
            if number != signal.SIGTERM and process.pid not in self._started:
                process.terminate()  # one that only starts dies of it, and prints no Ctrl-C's trace
            process.send_signal(number)

    def look(self) -> None:
        """On SIGHUP, which is not passed on as it is: it would end a worker that only starts."""
        for process in self._workers.values():
            self._write(process, json.dumps(["look"]) + "\n")

    async def _keep(self, number: int) -> None:
        pauses = Pauses()
        while True:
            life = await self._live(number)
            if self._stopping.is_set():
                return
            if not self._started:  # nor will it, nor another: whoever started us should know
                self._cannot_start = CannotStart(life.code, life.refusal)
                self.stop(signal.SIGTERM)
                return
            pause = pauses.after(0 if life.since is None else time.monotonic() - life.since)
            ended = describe_end(life.code, life.refusal)
            logger.warning("worker %d %s; starts again in %g s", number, ended, pause)
            await asyncio.sleep(pause)

    async def _live(self, number: int) -> Life:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *("--worker", str(self.listener.fileno())),
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=[self.listener.fileno()],
                env={**os.environ, **self.environ},
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which tells them
            )
        except OSError as error:  # no memory, or too many processes, for now
            return Life(refusal=str(error))
        self._workers[number] = process
        for line in self._replicas.values():
            self._write(process, line)
        life = Life()
        assert process.stdout is not None
        async for line in read_lines(process.stdout):
            match line.partition(" "):
                case "started", _, _:
                    self._started.add(process.pid)
                    life.since = time.monotonic()
                case "ready", _, model if not self._ready:
                    self._ready = True
                    self.on_ready(model)
                case "failed", _, why:
                    life.refusal = why
        life.code = await process.wait()
        self._forget(process.pid)
        return life

    def _forget(self, pid: int) -> None:
        """What a worker held when it died, nobody holds any more."""
        known = {**os.environ, **self.environ}
        for folder, files in ((METRICS_FOLDER, f"gauge_live*_{pid}.db"), (SIBLINGS, f"{pid}.sock")):
            for file in Path(known[folder]).glob(files) if folder in known else ():
                file.unlink(missing_ok=True)

    async def _end(self) -> int:
        """What the workers come to: 0 if all went down as they were told."""
        self.listener.close()  # each has its own: nobody must wait here for one that drains
        if not self._stopping.is_set():
            self.stop(signal.SIGTERM)
        running = [p for p in self._workers.values() if p.returncode is None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_s + 5):
                await asyncio.gather(*map(wait_ended, running))
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
        codes = [process.returncode or 0 for process in running]
        return max([0, *(1 if code < 0 and -code not in TOLD else code for code in codes)])

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


async def run_parent(config: Config, parent: Parent) -> int:
    """Until SIGINT or SIGTERM; the exit code. Raises NoServer, CannotStart."""
    for number in TOLD:
        asyncio.get_running_loop().add_signal_handler(number, parent.stop, number)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, parent.look)
    async with AsyncExitStack() as stack:
        if config.state.redis is None:
            server = stack.enter_context(embedded())
            parent.environ[STATE_URL] = server.url
            keeping = beside(_keep_state(server), "the state server is")
            await stack.enter_async_context(keeping)
        if METRICS_FOLDER not in os.environ:
            parent.environ[METRICS_FOLDER] = stack.enter_context(TemporaryDirectory())
        parent.environ[SIBLINGS] = stack.enter_context(TemporaryDirectory())
        async with Supervisor(replica_commands(config), parent):
            return await parent.run()


async def _keep_state(server: Embedded) -> None:
    """Starts it again; workers know how to go on without, and what to tell one that is empty."""
    pauses, ended = Pauses(), ""
    while True:
        since = time.monotonic()
        if server.process is not None:
            ended = describe_end(await asyncio.to_thread(server.process.wait), None)
        pause = pauses.after(time.monotonic() - since)
        logger.warning("[state server] %s; starts again in %g s", ended, pause)
        await asyncio.sleep(pause)
        try:
            await server.start_beside()
        except NoServer as error:
            ended = str(error)


def say(word: str, more: str = "") -> None:
    """To the parent: `started`, `ready` and a model, or `failed` and why."""
    print(word, " ".join(more.split()), flush=True)


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
    say("started")
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
            case ["look"]:
                os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)  # the parent is gone
