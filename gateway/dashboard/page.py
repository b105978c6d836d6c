"""`/dashboard`: the page, which holds no data, and what it reads with an admin's key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.dashboard.recent import Recent
from gateway.errors import NotFound
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.front.door import Door
from gateway.pacer import Pacers
from gateway.reload import Live
from gateway.rules import Rules

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    # Scripts and styles of ours alone; the page talks to this gateway and to nobody else.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class Dashboard:
    """`rules` and `sources` (a policy's name to its file) are asked for: a reload changes them."""

    door: Door
    fleet: Fleet
    pacers: Pacers
    live: Live
    recent: Recent
    rules: Callable[[], Rules]
    sources: Callable[[], Mapping[str, Path]]
    clock: Callable[[], float]
    version: str
    started: float  # seconds since 1970

    def routes(self) -> list[Route]:
        return [
            Route("/dashboard", self.index),
            Route("/dashboard/api/state", self.state),
            Route("/dashboard/api/policies", self.policies),
            Route("/dashboard/{name}", self.static),
        ]

    def index(self, request: Request) -> Response:
        return _file("index.html")

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {file.name for file in STATIC.iterdir()} or name == "index.html":
            raise NotFound(f"there is no GET {request.url.path} here")
        return _file(name)

    async def state(self, request: Request) -> Response:
        self.door.admit_admin(request.headers.get("authorization"))
        return _json(
            {
                "now": time.time(),
                "started": self.started,
                "version": self.version,
                "config": {"generation": self.live.generation, "reload": self.live.last_reload},
                "models": self._models(),
                "endpoints": {name: self._endpoint(name) for name in self.fleet.endpoints},
                "series": self.recent.series(),
                "decisions": self.recent.decisions(),
            }
        )

    def policies(self, request: Request) -> Response:
        """In a thread, as all plain functions are: it reads files."""
        self.door.admit_admin(request.headers.get("authorization"))
        multipliers, sources = self.pacers.multipliers(), self.sources()
        rules = self.rules().rules
        return _json(
            [
                {
                    "name": rule.policy.name,
                    "version": rule.policy.version,
                    "match": {
                        "model": rule.match.model,
                        "tenant": rule.match.tenant,
                        "header": sorted(rule.match.header),  # a value may be a secret
                    },
                    "file": sources[rule.policy.name].name,
                    "text": sources[rule.policy.name].read_text(encoding="utf-8"),
                    "multiplier": multipliers.get(rule.policy.name),
                    "dollars_per_hour": rule.policy.budget and rule.policy.budget.dollars_per_hour,
                }
                for rule in rules
            ]
        )

    def _models(self) -> dict[str, list[str]]:
        return {
            model: [name for name, e in self.fleet.endpoints.items() if model in e.models]
            for model in self.fleet.models()
        }

    def _endpoint(self, name: str) -> dict[str, object]:
        endpoint = self.fleet.endpoints[name]
        state, why = condition(endpoint, self.clock())
        return {
            "state": state,
            "why": why,
            "dedicated": endpoint.dedicated,
            "in_flight": endpoint.in_flight,
            "queued_tokens": endpoint.queued_tokens,
            **self.recent.endpoint(name),
        }


class State(StrEnum):
    """Of an endpoint; the worst first."""

    DOWN = "down"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"
    RESTING = "resting"
    DRAINED = "drained"
    UP = "up"


def condition(endpoint: Endpoint, now: float) -> tuple[State, str | None]:
    """Whether requests go there, and what keeps them away."""
    if endpoint.provider is None or endpoint.down_because is not None:
        return State.DOWN, endpoint.down_because or "it has not started yet"
    if endpoint.drained:
        return State.DRAINED, "drained by hand: nothing new is sent there"
    if endpoint.breaker.ejected(now):
        return State.EJECTED, "it keeps failing, and is left alone for a while"
    if endpoint.breaker.tripped:
        return State.HALF_OPEN, "it kept failing; the next request finds out"
    resting = sorted(model for model in endpoint.models if endpoint.resting(model, now))
    if resting:
        return State.RESTING, f"it asked to be left alone with {', '.join(resting)}"
    return State.UP, None


def _json(value: object) -> Response:
    return JSONResponse(value, headers={**HEADERS, "cache-control": "no-store"})


def _file(name: str) -> Response:
    file = STATIC / name
    return Response(file.read_bytes(), headers={**HEADERS, "content-type": TYPES[file.suffix]})
