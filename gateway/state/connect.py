"""A client of Redis or Valkey that fails at once, for callers with a better idea than to wait."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str) -> Redis:
    """`redis://`, `rediss://` or `unix://`."""
    return Redis.from_url(
        url,
        socket_timeout=0.3,
        socket_connect_timeout=0.3,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # what every server that is still in use speaks
    )
