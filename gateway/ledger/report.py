"""What the ledger adds up to, by whatever one asks for."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

DIMENSIONS = {
    "tenant": "tenant",
    "key": "key_name",
    "model": "model",
    "endpoint": "endpoint",
    "policy": "policy",
    "ended": "ended",
    "fault": "coalesce(fault, '-')",
    "day": "date(at, 'unixepoch')",  # UTC
    "hour": "strftime('%Y-%m-%d %H:00', at, 'unixepoch')",
}


@dataclass(frozen=True, slots=True)
class Sum:
    """`charged_usd` is what tenants owe; `cost_usd` is what endpoints bill. `lost_usd` is the part
    that nobody is charged for: failures, and attempts that another made up for."""

    exchanges: int
    failed: int
    hung_up: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: int  # exchanges whose tokens nobody told
    charged_usd: float
    cost_usd: float

    @property
    def lost_usd(self) -> float:
        return self.cost_usd - self.charged_usd


_SUMS = """
    count(*), total(ended = 'failed'), total(ended = 'hung_up'), total(prompt_tokens),
    total(cached_tokens), total(completion_tokens), total(estimated), total(charged_usd),
    total(cost_usd)
"""


def sums(
    connection: sqlite3.Connection,
    by: Sequence[str],
    since: float = 0.0,
    until: float | None = None,
) -> dict[tuple[str, ...], Sum]:
    """By the dimensions `by`, in their order. An exchange counts where its answer came from; what
    attempts elsewhere cost is in `by_attempt`."""
    keys = [DIMENSIONS[name] for name in by]
    grouped = f"GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}" if keys else ""
    cursor = connection.execute(
        f"SELECT {', '.join([*keys, _SUMS])} FROM exchanges WHERE at >= ? AND at < ? {grouped}",
        (since, float("inf") if until is None else until),
    )
    found = {}
    for row in cursor:
        counts, dollars = map(int, row[len(keys) : -2]), row[-2:]
        found[tuple(map(str, row[: len(keys)]))] = Sum(*counts, *dollars)
    return found


@dataclass(frozen=True, slots=True)
class Bill:
    """What one endpoint should bill us by now, and on whose word."""

    attempts: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usd: float


def bills(
    connection: sqlite3.Connection, since: float = 0.0, until: float | None = None
) -> dict[tuple[str, ...], Bill]:
    """By endpoint and by who said so (`report`, `tariff`, `estimate`)."""
    cursor = connection.execute(
        """
        SELECT a.endpoint, a.billed_by, count(*), total(a.prompt_tokens), total(a.cached_tokens),
               total(a.completion_tokens), total(a.billed_usd)
        FROM attempts a JOIN exchanges e ON e.id = a.exchange
        WHERE a.billed_by IS NOT NULL AND e.at >= ? AND e.at < ?
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        (since, float("inf") if until is None else until),
    )
    return {
        (endpoint, by): Bill(int(count), int(prompt), int(cached), int(completion), usd)
        for endpoint, by, count, prompt, cached, completion, usd in cursor
    }
