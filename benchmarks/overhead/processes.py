"""Processes under measurement: what they and their children have used. Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        children = [c for t in threads for c in (t / "children").read_text().split()]
    except OSError:  # it ended meanwhile
        return []
    return [pid, *(p for child in children for p in tree(int(child)))]


def cpu_s(pid: int) -> float:
    """User and system seconds of the tree, children that it has reaped included."""
    ticks = 0
    for member in tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks * TICK_S


def resident(pid: int) -> int:
    """Bytes of the tree's resident memory."""
    pages = 0
    for member in tree(pid):
        pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * PAGE


@contextmanager
def running(
    command: Sequence[str], cpus: set[int], environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on these processors; ended, with all its children, when the block is left."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **(environ or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            start_new_session=True,
        )
        try:
            yield process
        except BaseException:
            said.seek(0)
            print(said.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            with_children = tree(process.pid)
            for member in with_children:
                _end(member)
            process.wait()


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
