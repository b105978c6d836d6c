"""Files that hold a trace: Mooncake's format, a CSV of lengths, a ledger's export."""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TextIO

from gateway.replay.ledger import read_ledger
from gateway.replay.trace import Trace, TraceError, TraceRequest

FORMATS = ("mooncake", "csv", "ledger")

COLUMNS = {
    "arrival": ("timestamp", "timestamp_s", "arrival_s"),
    "prompt": ("contexttokens", "input_tokens", "input_length"),
    "output": ("generatedtokens", "output_tokens", "output_length"),
}
"""What a CSV may call its columns, in lower case: Azure's names, ServeGen's, and plain ones."""


def read_trace(
    file: Path, *, format_: str | None = None, block_size: int = 512, model: str | None = None
) -> Trace:
    """Raises TraceError, or OSError when the file cannot be read. Without a format: by its suffix
    and first line. `model` is for a ledger that names several."""
    with _opened(file) as lines:
        format_ = format_ or _format(file, lines)
        if format_ == "ledger":
            requests = read_ledger(file, lines, block_size, model)
        else:
            read = {"mooncake": _mooncake, "csv": _csv}[format_]
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


def _format(file: Path, lines: TextIO) -> str:
    suffix = Path(file.stem).suffix if file.suffix == ".xz" else file.suffix
    if suffix == ".csv":
        return "csv"
    first = lines.readline()
    lines.seek(0)
    return "mooncake" if '"hash_ids"' in first or '"prompt_tokens"' not in first else "ledger"


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
