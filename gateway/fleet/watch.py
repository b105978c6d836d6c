"""Asks every endpoint that tells of itself, again and again."""

from __future__ import annotations

import asyncio

from gateway.errors import UpstreamError
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Clock, Fleet

PERIOD_S = 1.0
MISSES = 3
"""Answers in a row that an endpoint may owe before it counts as down."""


async def watch(fleet: Fleet, clock: Clock, period_s: float = PERIOD_S) -> None:
    """Never returns. An endpoint that is slow to answer delays no other's turn."""
    async with asyncio.TaskGroup() as tasks:
        for endpoint in fleet.endpoints.values():
            tasks.create_task(_watch_one(fleet, endpoint, clock, period_s))


async def _watch_one(fleet: Fleet, endpoint: Endpoint, clock: Clock, period_s: float) -> None:
    missed, asked_last = 0, endpoint.provider
    while True:
        provider, asked = endpoint.provider, clock()
        if provider is not asked_last:
            missed, asked_last = 0, provider  # another life owes nothing for the last
        try:
            stats = await provider.stats() if provider else None
        except UpstreamError:
            missed += 1
            if missed >= MISSES and endpoint.provider is provider:
                endpoint.down("it does not answer")
        else:
            missed = 0
            if provider and stats and endpoint.provider is provider:  # and not a later life of it
                endpoint.up(provider)
                endpoint.context_length = stats.context_length or endpoint.context_length
                endpoint.waiting, endpoint.kv_usage = stats.waiting, stats.kv_usage
                fleet.reported(endpoint.name, stats.report, asked)
        await asyncio.sleep(period_s)
