"""`gateway serve` as a newcomer starts it: a process with real replicas of the real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue


class Serving:
    """Its output, line by line, and what can be read from it."""

    def __init__(self, config: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(config), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environ, "PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        self._queue: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)
                self._queue.put(line)

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The next line that has `pattern` in it."""
        while True:
            try:
                line = self._queue.get(timeout=seconds)
            except Empty:
                raise AssertionError(
                    f"no {pattern!r} within {seconds} s of silence:\n{''.join(self.lines)}"
                ) from None
            if match := re.search(pattern, line):
                return match

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.join()

    def join(self) -> None:
        """All that it said is in `lines` then."""
        self._reader.join(30)


@contextmanager
def serve(config: Path, *arguments: str, **environ: str) -> Iterator[Serving]:
    serving = Serving(config, arguments, environ)
    try:
        yield serving
    finally:
        if serving.process.poll() is None:
            serving.stop()
        serving.join()


@contextmanager
def serve_and_leave_nothing(config: Path, *arguments: str, **environ: str) -> Iterator[Serving]:
    """As `serve`. Afterwards no process of it runs, and no folder of it is there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: sockets will lie in it
        with serve(config, *arguments, TMPDIR=folder, **environ) as serving:
            yield serving
        deadline = time.monotonic() + 30  # those who ended by the parent's end need a moment
        while (left := _running_in(folder)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
        state = [str(path) for path in Path("/tmp").glob(f"gw-{serving.process.pid}-*")]
        assert [*os.listdir(folder), *state] == []


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _running_in(folder: str) -> list[str]:
    """The command lines of the processes whose TMPDIR it is: they inherit it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # somebody else's, or ended meanwhile
            continue
    return found
