"""A client of Redis or Valkey that fails at once, for callers with a better idea than to wait."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT_S = 0.3


def connect(url: str, deadline_s: float = 0.0) -> Redis:
    """`redis://`, `rediss://` or `unix://`; never gives up before a request would."""
    timeout_s = max(TIMEOUT_S, deadline_s)
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # what every server that is still in use speaks
    )
