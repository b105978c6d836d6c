"""`gateway serve` as a newcomer starts it: a process with real replicas of the real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
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
            self._reader.join()


@contextmanager
def serve(config: Path, *arguments: str, **environ: str) -> Iterator[Serving]:
    serving = Serving(config, arguments, environ)
    try:
        yield serving
    finally:
        if serving.process.poll() is None:
            serving.stop()
