"""The ledger's records in formats that others read."""

from __future__ import annotations

import csv
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TextIO

from gateway.ledger.record import DIGEST, Record
from gateway.ledger.store import RECORD

SIZE = 4  # bytes of each block's size in `Record.blocks`
BLOCK_TOKENS = 512


def jsonl(records: Iterable[Record], out: TextIO) -> None:
    """One object per exchange, its attempts in it."""
    for record in records:
        fields = asdict(record)
        fields["blocks"] = record.blocks.hex()
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


def replayable(records: Iterable[Record], out: TextIO) -> None:
    """JSON lines as `gateway replay --trace FILE.jsonl` reads them: docs/replay.md.

    Only exchanges that were answered: of the others nobody knows the lengths. `hash_ids` says which
    prompts begin alike, as far as the gateway's keys can tell; ids mean nothing beyond the file.
    """
    told = [r for r in records if r.prompt_tokens and r.completion_tokens and not r.estimated]
    began = min((record.at for record in told), default=0.0)
    ratios = _bytes_per_token(told)
    ids: dict[tuple[str, bytes, int], int] = {}
    for record in told:
        line = {
            "timestamp": round((record.at - began) * 1000),
            "input_length": record.prompt_tokens,
            "output_length": record.completion_tokens,
            "hash_ids": _hash_ids(record, ratios.get(record.model, 0.0), ids),
            "model": record.model,
        }
        out.write(json.dumps(line) + "\n")


def _bytes_per_token(records: Iterable[Record]) -> dict[str, float]:
    """By model: one ratio for all its prompts, so that equal beginnings have equal borders."""
    seen: dict[str, tuple[int, int]] = {}
    for record in records:
        blocks = _blocks(record)
        if blocks and record.prompt_tokens:
            size, tokens = seen.get(record.model, (0, 0))
            seen[record.model] = (size + blocks[-1][0], tokens + record.prompt_tokens)
    return {model: size / tokens for model, (size, tokens) in seen.items()}


def _hash_ids(
    record: Record, bytes_per_token: float, ids: dict[tuple[str, bytes, int], int]
) -> list[int]:
    """An id for each block of the prompt. Two prompts share one when they are equal up to the first
    key at or after its end: sure, but a block whose key stands far behind it may be missed."""
    blocks = _blocks(record)
    sizes = [size for size, _ in blocks]
    found = []
    for index in range(-(-(record.prompt_tokens or 0) // BLOCK_TOKENS)):
        end = (index + 1) * BLOCK_TOKENS * bytes_per_token
        at = min(bisect_left(sizes, end), len(blocks) - 1)
        # Without any key, a prompt begins like no other.
        digest = blocks[at][1] if blocks else f"{record.request_id} {record.at}".encode()
        found.append(ids.setdefault((record.model, digest, index), len(ids)))
    return found


def _blocks(record: Record) -> list[tuple[int, bytes]]:
    """Bytes up to each key, and its digest; shortest first."""
    return list(_pairs(record.blocks))


def _pairs(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(blocks), SIZE + DIGEST):
        middle = start + SIZE
        yield int.from_bytes(blocks[start:middle], "big"), blocks[middle : middle + DIGEST]
