"""A ledger's export as a trace: what a deployment was asked, without a word of what was in it.

docs/replay.md describes the record. Its `prefix` names how prompts begin: for each boundary a
salted id of everything up to it, and the tokens there. Blocks are made of that: a block gets the id
of the first boundary at or behind its end, so two prompts share it when they share that boundary.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from gateway.replay.trace import TraceError, TraceRequest


@dataclass(frozen=True, slots=True)
class Record:
    """What replay reads of an exchange; the export may hold more."""

    arrived_s: float
    tenant: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    prefix: Sequence[tuple[str, int]]  # ids and tokens up to there, ascending


def read_ledger(
    file: Path, lines: Iterable[str], block_size: int, model: str | None
) -> list[TraceRequest]:
    """Exchanges that had an answer. Raises TraceError, also when they are of several models."""
    records = [record for record in _records(file, lines) if model in (None, record.model)]
    models = sorted({record.model for record in records})
    if len(models) > 1:
        raise TraceError(f"{file}: holds requests of {', '.join(models)}: choose with --model")
    if model is not None and not records:
        raise TraceError(f"{file}: holds no requests of {model!r}")
    ids, numbers = count(), dict[tuple[str, str, int], int]()

    def blocks(record: Record) -> Iterator[int]:
        ends = [tokens for _, tokens in record.prefix]
        for block in range(-(-record.prompt_tokens // block_size)):
            end = min((block + 1) * block_size, record.prompt_tokens)
            at = bisect_left(ends, end)
            if at == len(ends):
                yield next(ids)  # behind the last boundary: nobody is known to share it
            else:
                name = (record.tenant, record.prefix[at][0], block)
                if name not in numbers:
                    numbers[name] = next(ids)
                yield numbers[name]

    return [
        TraceRequest(
            record.arrived_s,
            record.prompt_tokens,
            record.completion_tokens,
            tuple(blocks(record)),
            record.tenant,
        )
        for record in records
    ]


def _records(file: Path, lines: Iterable[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            record = Record(
                _seconds(found["arrived"]),
                str(found.get("tenant", "default")),
                str(found["model"]),
                _tokens(found, "prompt_tokens"),
                _tokens(found, "completion_tokens"),
                _prefix(found.get("prefix") or []),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise TraceError(
                f"{file}:{number}: needs a JSON object with arrived, model, prompt_tokens, "
                f"completion_tokens and perhaps prefix ({type(exc).__name__}: {exc})"
            ) from None
        if record.prompt_tokens and record.completion_tokens:
            yield record


def _seconds(arrived: Any) -> float:
    """Seconds since the epoch, or a date and time."""
    if isinstance(arrived, str):
        return datetime.fromisoformat(arrived).timestamp()
    if not math.isfinite(seconds := float(arrived)):
        raise ValueError("arrived is not a time")
    return seconds


def _tokens(found: dict[str, Any], name: str) -> int:
    if type(tokens := found[name]) is not int or tokens < 0:
        raise ValueError(f"{name} is not a number of tokens")
    return tokens


def _prefix(pairs: Any) -> list[tuple[str, int]]:
    prefix = [(str(name), int(tokens)) for name, tokens in pairs]
    if any(later[1] < earlier[1] for earlier, later in pairwise(prefix)):
        raise ValueError("the tokens of prefix do not ascend")
    return prefix
