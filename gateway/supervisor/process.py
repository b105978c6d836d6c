"""
One replica's process, life after life: start -> loading -> ready -> gone -> wait -> start.

A replica that dies comes back after a delay that doubles with each death and starts anew once a
life has lasted. One that keeps saying that it cannot start is reported as failed, and tried at the
slowest pace, because what is wrong with it (a missing file, too little memory) may be put right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.supervisor.pauses import Pauses
from gateway.supervisor.states import Failed, Loading, Ready, read_lines, read_state

logger = logging.getLogger(__name__)

REFUSALS_TO_FAIL = 3

_PASSED_ON = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ"),
        *("TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "XDG_CACHE_HOME", "GATEWAY_CACHE_DIR"),
    )
)
_PASSED_ON_BY_PREFIX = ("LC_", "PYTHON", "NUMBA_", "OMP_", "CUDA_", "NVIDIA_", "TRITON_")
"""Where things lie, and how interpreters, kernels and devices behave."""


class Watcher(Protocol):
    """Told by the supervisor what happens to its replicas; called in its event loop.

    Each `replica_ready` is followed by exactly one `replica_gone`, at the latest when the
    supervisor stops, and then before the process is told to end.
    """

    def replica_progress(self, name: str, step: str, done: float) -> None: ...
    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None: ...
    def replica_gone(self, name: str, reason: str) -> None: ...
    def replica_failed(self, name: str, error: str) -> None:
        """It refused to start several times in a row; it is tried on, at the slowest pace."""


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    loading: float = 180.0  # most between two words of a replica that is not ready yet
    first_delay: float = 1.0  # before the first restart; doubles with each further one
    longest_delay: float = 30.0
    settled: float = 60.0  # a life this long makes the next delay the first again
    grace: float = 15.0  # from SIGTERM to SIGKILL: the replica's own 10 s of draining, and some


@dataclass(slots=True)
class Life:
    """What is known of one life of the process, filled in as it goes."""

    ready_at: float | None = None  # clock
    refusal: str | None = None  # why it said that it cannot start
    ended: str = "stopped"


class ReplicaProcess:
    def __init__(
        self,
        name: str,
        command: Sequence[str],
        secret: str,
        watcher: Watcher,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        self._secret = secret
        self._watcher = watcher
        self._timing = timing
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Keep the replica running, until cancelled."""
        timing, refusals = self._timing, 0
        pauses = Pauses(timing.first_delay, timing.longest_delay, timing.settled)
        while True:
            life = await self._live()
            delay = pauses.after(0 if life.ready_at is None else self._clock() - life.ready_at)
            if life.refusal is not None and life.ready_at is None:
                refusals += 1
                if refusals == REFUSALS_TO_FAIL:
                    self._watcher.replica_failed(self.name, life.refusal)
                if refusals >= REFUSALS_TO_FAIL:
                    delay = timing.longest_delay
            else:
                refusals = 0
            logger.warning("[%s] %s; starts again in %g s", self.name, life.ended, delay)
            await self._sleep(delay)

    async def _live(self) -> Life:
        """One life. Nothing is left of the process when this returns or raises."""
        try:
            process = await self._start()
        except OSError as error:
            return Life(ended=f"could not be started: {error}")
        assert process.stderr is not None
        log = asyncio.create_task(self._pass_on(process.stderr))
        try:
            return await self._follow(process)
        finally:
            try:
                await end(process, self._timing.grace)
            finally:
                await log

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,  # never written to: its end tells the replica that we are gone
            stdout=PIPE,
            stderr=PIPE,
            env={**inherited(os.environ), "GATEWAY_REPLICA_SECRET": self._secret},
            start_new_session=True,  # a terminal's Ctrl-C reaches the gateway alone, which drains
        )

    async def _follow(self, process: Process) -> Life:
        """Hear what the replica says until it has ended, or has been silent for too long."""
        assert process.stdout is not None
        now = asyncio.get_running_loop().time
        life = Life()
        try:
            async with asyncio.timeout(self._timing.loading) as patience:
                async for line in read_lines(process.stdout):
                    match read_state(line):
                        case Loading(step, done) if life.ready_at is None:
                            patience.reschedule(now() + self._timing.loading)
                            self._watcher.replica_progress(self.name, step, done)
                        case Ready(url, epoch) if life.ready_at is None:
                            patience.reschedule(None)
                            life.ready_at = self._clock()
                            logger.info("[%s] ready at %s (pid %d)", self.name, url, process.pid)
                            self._watcher.replica_ready(self.name, url, self._secret, epoch)
                        case Failed(error):
                            life.refusal = error
                        case _:
                            logger.warning("[%s] not understood: %.200s", self.name, line)
                life.ended = describe_end(await process.wait(), life.refusal)
        except TimeoutError:
            life.ended = f"said nothing for {self._timing.loading:g} s while loading"
        finally:
            if life.ready_at is not None:
                self._watcher.replica_gone(self.name, life.ended)
        return life

    async def _pass_on(self, stderr: asyncio.StreamReader) -> None:
        async for line in read_lines(stderr):
            logger.info("[%s] %s", self.name, line)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a replica needs of our environment; providers' keys stay here."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_BY_PREFIX)
    }


async def end(process: Process, grace: float) -> None:
    """SIGTERM, at most `grace` seconds, then SIGKILL. Cancelled meanwhile, it kills at once."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(grace):
            await wait_ended(process)
    except TimeoutError:
        kill_group(process)
        await wait_ended(process)
    except asyncio.CancelledError:
        kill_group(process)
        await wait_ended(process)
        raise


async def wait_ended(process: Process) -> None:
    # `wait` returns only after the pipes have closed, and a pipe that nobody reads stays open.
    assert process.stdout is not None
    async for _ in read_lines(process.stdout):
        pass
    await process.wait()


def kill_group(process: Process) -> None:
    """The process and whatever it has started: its session made it the head of a group."""
    # macOS says EPERM of a group whose last process has ended and is not reaped yet.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def describe_end(code: int, refusal: str | None) -> str:
    if refusal is not None:
        return f"cannot start: {refusal}"
    if code >= 0:
        return f"ended with exit code {code}"
    if -code in set(signal.Signals):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
