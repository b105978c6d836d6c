"""What a replica says on its standard output: one JSON object per line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

LONGEST_LINE = 1 << 16  # bytes; the rest of a longer line is dropped


@dataclass(frozen=True, slots=True)
class Loading:
    step: str
    done: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class Ready:
    url: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Failed:
    error: str


def read_state(line: str) -> Loading | Ready | Failed | None:
    """The state that a line tells, or None when it tells none."""
    try:
        said: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match said:
        case {"state": "loading", "step": str(step), "done": int() | float() as done}:
            return Loading(step, float(done))
        case {"state": "ready", "host": str(host), "port": int(port), "epoch": str(epoch)}:
            return Ready(
                f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", epoch
            )
        case {"state": "failed", "error": str(error)}:
            return Failed(error)
    return None


async def read_lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream, without their ends.

    `StreamReader.readline` raises on a long line; here its first 64 KiB are the line.
    """
    rest = b""
    while chunk := await stream.read(LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line[:LONGEST_LINE].decode(errors="replace")
        rest = rest[:LONGEST_LINE]
    if rest:
        yield rest.decode(errors="replace")
