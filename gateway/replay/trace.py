"""What was asked, when, and which prompts begin alike: traces and the files they come from."""

from __future__ import annotations

import csv
import json
import lzma
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TextIO

FORMATS = ("mooncake", "csv")

COLUMNS = {
    "arrival": ("timestamp", "timestamp_s", "arrival_s"),
    "prompt": ("contexttokens", "input_tokens", "input_length"),
    "output": ("generatedtokens", "output_tokens", "output_length"),
}
"""What a CSV may call its columns, in lower case: Azure's names, ServeGen's, and plain ones."""


class TraceError(ValueError):
    """Names the file, the line, and what is wrong there."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. Two of them share a block exactly when their prompts are equal up to its end."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()  # ids of the prompt's blocks, the last one cut; () is not known


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    requests: Sequence[TraceRequest]  # by arrival
    block_size: int  # tokens

    def limited(self, count: int | None) -> Trace:
        """The first `count` requests; all of them for None."""
        return replace(self, requests=self.requests[:count])

    def at_load(self, factor: float) -> Trace:
        """The same requests, arriving `factor` times as fast."""
        faster = [replace(r, arrival_s=r.arrival_s / factor) for r in self.requests]
        return replace(self, requests=faster)

    def jittered(self, draws: random.Random) -> Trace:
        """Requests that share a time stamp, spread evenly at random up to the next stamp.

        Public traces round their stamps (Mooncake's conversations to 3 s); without this every
        burst would hit the fleet in one instant.
        """
        groups = [list(g) for _, g in groupby(self.requests, key=lambda r: r.arrival_s)]
        spread: list[TraceRequest] = []
        for group, later in zip(groups, [*groups[1:], groups[-1]] if groups else [], strict=True):
            gap = later[0].arrival_s - group[0].arrival_s if len(group) > 1 else 0.0
            spread += [replace(r, arrival_s=r.arrival_s + gap * draws.random()) for r in group]
        return replace(self, requests=sorted(spread, key=lambda r: r.arrival_s))

    def ideal_hit(self) -> float:
        """Share of the prompt tokens that one replica with an endless cache would not compute."""
        seen: set[int] = set()
        shared = 0
        for request in self.requests:
            known = next(
                (i for i, block in enumerate(request.blocks) if block not in seen),
                len(request.blocks),
            )
            # The last token of a prompt is always computed: its logits start the answer.
            shared += min(known * self.block_size, request.prompt_tokens - 1)
            seen.update(request.blocks)
        return shared / max(1, sum(r.prompt_tokens for r in self.requests))


def read_trace(file: Path, *, format_: str | None = None, block_size: int = 512) -> Trace:
    """Raises TraceError, or OSError when the file cannot be read. Without a format: by suffix."""
    suffix = Path(file.stem).suffix if file.suffix == ".xz" else file.suffix
    format_ = format_ or ("csv" if suffix == ".csv" else "mooncake")
    read = {"mooncake": _mooncake, "csv": _csv}[format_]
    with _opened(file) as lines:
        requests = list(read(file, lines, block_size))
    if not requests:
        raise TraceError(f"{file}: holds no requests")
    requests.sort(key=lambda r: r.arrival_s)
    first = requests[0].arrival_s
    shifted = [replace(r, arrival_s=r.arrival_s - first) for r in requests]
    return Trace(file.stem, shifted, block_size)


def _opened(file: Path) -> TextIO:
    if file.suffix == ".xz":
        return lzma.open(file, "rt", encoding="utf-8", newline="")
    return file.open(encoding="utf-8", newline="")


def _mooncake(file: Path, lines: Iterator[str], block_size: int) -> Iterator[TraceRequest]:
    """JSON lines of Mooncake's published traces: `timestamp` in ms, two lengths, `hash_ids`."""
    for number, line in enumerate(lines, 1):
        where = f"{file}:{number}"
        try:
            record = json.loads(line)
            prompt, output = int(record["input_length"]), int(record["output_length"])
            arrival, blocks = float(record["timestamp"]) / 1000, tuple(record["hash_ids"])
        except (ValueError, TypeError, KeyError) as exc:
            raise TraceError(
                f"{where}: needs a JSON object with timestamp, input_length, output_length and "
                f"hash_ids ({type(exc).__name__}: {exc})"
            ) from None
        _check_lengths(where, prompt, output)
        if len(blocks) != -(-prompt // block_size) or len(set(blocks)) != len(blocks):
            raise TraceError(
                f"{where}: {len(blocks)} hash_ids do not name the blocks of {prompt} tokens; "
                f"is the block size {block_size}?"
            )
        yield TraceRequest(arrival, prompt, output, blocks)


def _csv(file: Path, lines: Iterator[str], block_size: int) -> Iterator[TraceRequest]:
    """Lengths without contents, as Azure and ServeGen publish them: no two prompts begin alike."""
    rows = csv.DictReader(lines)
    columns = _columns(file, rows.fieldnames or ())
    for row in rows:
        where = f"{file}:{rows.line_num}"
        try:
            arrival = _seconds(row[columns["arrival"]])
            prompt, output = int(row[columns["prompt"]]), int(row[columns["output"]])
        except (ValueError, TypeError) as exc:
            raise TraceError(f"{where}: {exc}") from None
        _check_lengths(where, prompt, output)
        yield TraceRequest(arrival, prompt, output)


def _columns(file: Path, header: Sequence[str]) -> Mapping[str, str]:
    by_lower = {name.lower(): name for name in header}
    columns = {}
    for what, names in COLUMNS.items():
        found = next((by_lower[name] for name in names if name in by_lower), None)
        if found is None:
            raise TraceError(f"{file}:1: no column for {what}: one of {', '.join(names)}")
        columns[what] = found
    return columns


def _seconds(stamp: str) -> float:
    """Seconds, or a date and time."""
    try:
        return float(stamp)
    except ValueError:
        return datetime.fromisoformat(stamp).timestamp()


def _check_lengths(where: str, prompt: int, output: int) -> None:
    if prompt < 1 or output < 1:
        raise TraceError(f"{where}: a prompt and an answer have at least one token each")
