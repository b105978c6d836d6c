"""How an endpoint is, in a word and why, and the log's line when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from enum import StrEnum

from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Clock

logger = logging.getLogger(__name__)

QUIET_S = 10.0
"""After a line about an endpoint there is no other for so long: one that comes and goes must not
fill the log."""


class State(StrEnum):
    """Of an endpoint; the worst first."""

    DOWN = "down"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"
    RESTING = "resting"
    DRAINED = "drained"
    UP = "up"


BACK = "back"
TOLD: Mapping[State, str] = {
    State.DOWN: "down",
    State.EJECTED: "ejected",
    State.HALF_OPEN: "ejected",
    State.RESTING: BACK,
    State.UP: BACK,
}
"""What the log calls it. Who drains an endpoint by hand knows of it."""


def condition(endpoint: Endpoint, now: float) -> tuple[State, str | None]:
    """Whether requests go there, and what keeps them away."""
    if endpoint.provider is None or endpoint.down_because is not None:
        return State.DOWN, endpoint.down_because or "it has not started yet"
    if endpoint.drained:
        return State.DRAINED, "drained by hand: nothing new is sent there"
    if endpoint.breaker.ejected(now):
        return State.EJECTED, f"it keeps failing, and is left alone for a while: {endpoint.failing}"
    if endpoint.breaker.tripped:
        return State.HALF_OPEN, f"it kept failing, the next request finds out: {endpoint.failing}"
    resting = sorted(model for model in endpoint.models if endpoint.resting(model, now))
    if resting:
        return State.RESTING, f"it asked to be left alone with {', '.join(resting)}"
    return State.UP, None


class Changes:
    """Of endpoints that go down, are ejected, or are back. Nobody who notices one tells it: they
    are looked at again and again, so that many requests that fail make one line."""

    def __init__(self, endpoints: Iterable[Endpoint], clock: Clock) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._told: dict[str, str] = {}  # in TOLD's words; who is not in it was always there
        self._quiet: dict[str, float] = {}  # until when

    async def run(self, period_s: float) -> None:
        while True:
            for endpoint in self._endpoints:
                try:
                    self.look(endpoint)
                except Exception:  # a rim: what cannot be told ends nobody's watch
                    logger.exception("endpoint %s could not be looked at", endpoint.name)
            await asyncio.sleep(period_s)

    def look(self, endpoint: Endpoint) -> None:
        if endpoint.provider is None:
            return  # who starts and stops its process tells of that
        name, now = endpoint.name, self._clock()
        state, why = condition(endpoint, now)
        word = TOLD.get(state)
        if word in (None, self._told.get(name, BACK)) or now < self._quiet.get(name, now):
            return
        self._told[name], self._quiet[name] = word, now + QUIET_S
        if word is BACK:
            logger.info("endpoint %s is back", name)
        else:
            logger.warning("endpoint %s is %s: %s", name, word, why)
