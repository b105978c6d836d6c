"""How a contestant is asked. Standard library only: each runs in an interpreter of its own.

One JSON array per line: on standard input a case, its arguments and how often to measure it; on
standard output the seconds of each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

Case = Callable[..., float]
"""Measures once: seconds."""


def answer(cases: Mapping[str, Case]) -> None:
    """Until standard input ends. What the libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            name, arguments, repeats = json.loads(line)
            seconds = [cases[name](*arguments) for _ in range(repeats)]
            print(json.dumps(seconds), file=out, flush=True)


class Contestant:
    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors

    def seconds(self, case: str, *arguments: int, repeats: int = 1) -> Sequence[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps([case, arguments, repeats]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args!r} ended:\n{self._errors.read()[-2000:]}")
        seconds: Sequence[float] = json.loads(line)
        return seconds


@contextmanager
def running(interpreter: str, module: str, *arguments: str) -> Iterator[Contestant]:
    command = [interpreter, "-m", f"benchmarks.contestants.{module}", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield Contestant(process, errors)
        finally:
            process.kill()
            process.communicate()
