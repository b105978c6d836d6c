"""The ledger's records in formats that others read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from secrets import token_bytes
from typing import TextIO

from gateway.ledger.record import DIGEST, Record
from gateway.ledger.store import RECORD

SIZE = 4  # bytes of each boundary's size in `Record.blocks`


def jsonl(records: Iterable[Record], out: TextIO) -> None:
    """One object per exchange, its attempts in it."""
    for record in records:
        fields = record._asdict()
        fields["blocks"] = record.blocks.hex()
        fields["attempts"] = [billed._asdict() for billed in record.attempts]
        out.write(json.dumps(fields, ensure_ascii=False) + "\n")


def csv_rows(records: Iterable[Record], out: TextIO) -> None:
    """One row per exchange; attempts and blocks are left out."""
    columns = [name for name in RECORD if name != "blocks"]
    writer = csv.writer(out)
    writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(getattr(record, name)) for name in columns])


def _cell(value: object) -> object:
    """A spreadsheet takes text that begins like this for a formula, and a caller may choose it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t") else value


def replayable(
    records: Iterable[Record], out: TextIO, salt: Callable[[], bytes] = lambda: token_bytes(32)
) -> None:
    """JSON lines as `gateway replay --trace FILE.jsonl` reads them: docs/replay.md.

    Only exchanges that were answered: of the others nobody knows the lengths. The salt is drawn for
    this export and forgotten: ids say which of its prompts begin alike, and fit no other export.
    """
    key = salt()
    for record in records:
        if not record.prompt_tokens or not record.completion_tokens or record.estimated:
            continue
        line = {
            "arrived": round(record.at, 6),
            "tenant": record.tenant,
            "model": record.model,
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "cached_tokens": record.cached_tokens,
            "prefix": _prefix(record, record.prompt_tokens, key),
        }
        if record.first_event_s is not None:
            line["first_token_s"] = round(record.first_event_s, 6)
            line["last_token_s"] = round(record.total_s, 6)
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _prefix(record: Record, prompt_tokens: int, salt: bytes) -> list[tuple[str, int]]:
    """An id for all up to each boundary, and about how many tokens that is."""
    return [
        (
            blake2b(digest, key=salt, digest_size=DIGEST).hexdigest(),
            min(prompt_tokens * size // record.prompt_size, prompt_tokens),
        )
        for size, digest in _pairs(record.blocks)
    ]


def _pairs(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    """Bytes up to each boundary, and its digest; shortest first."""
    for start in range(0, len(blocks), SIZE + DIGEST):
        middle = start + SIZE
        yield int.from_bytes(blocks[start:middle], "big"), blocks[middle : middle + DIGEST]
