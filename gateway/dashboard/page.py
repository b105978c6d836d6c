"""`/dashboard`: the page, which holds no data, and what it reads with an admin's key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.dashboard.recent import Recent, Seen
from gateway.dashboard.siblings import Siblings, Told
from gateway.dashboard.summary import Summary
from gateway.errors import NotFound
from gateway.fleet.condition import State, condition
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
    catch_up: Callable[[], None]  # makes `recent` know all that is over
    siblings_folder: Path | None
    rules: Callable[[], Rules]
    sources: Callable[[], Mapping[str, Path]]
    clock: Callable[[], float]
    version: str
    started: float  # seconds since 1970

    @cached_property
    def siblings(self) -> Siblings:
        return Siblings(self.siblings_folder, self.told)

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
        """Of all workers, as far as they answer."""
        self.door.admit_admin(request.headers.get("authorization"))
        parts = [self.part(), *await self.siblings.told()]
        self.catch_up()
        every = [self.recent.seen, *(Seen.of_json(part["seen"]) for part in parts[1:])]
        summary = Summary(every, self.recent.latest())
        return _json(
            {
                "now": time.time(),
                "started": min(part["started"] for part in parts),
                "workers": len(parts),
                "version": self.version,
                "config": min((part["config"] for part in parts), key=_lag),
                "models": self._models(),
                "endpoints": {
                    name: {
                        **_together([*_each(parts, name)]),
                        **summary.endpoint(name),
                    }
                    for name in self.fleet.endpoints
                },
                "series": {
                    "at": [round(self.recent.ends(number), 1) for number in summary.numbers],
                    "endpoints": summary.series(),
                },
                "decisions": summary.decisions(),
            }
        )

    def part(self) -> Told:
        """What this worker adds to it."""
        return {
            "started": self.started,
            "config": {"generation": self.live.generation, "reload": self.live.last_reload},
            "endpoints": {name: self._endpoint(name) for name in self.fleet.endpoints},
        }

    def told(self) -> Told:
        """The same, and what it has seen, for another worker."""
        self.catch_up()
        return {**self.part(), "seen": self.recent.seen.as_json()}

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
                    **_source(sources.get(rule.policy.name)),
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

    def _endpoint(self, name: str) -> dict[str, Any]:
        endpoint = self.fleet.endpoints[name]
        state, why = condition(endpoint, self.clock())
        return {
            "state": state,
            "why": why,
            "dedicated": endpoint.dedicated,
            "in_flight": endpoint.in_flight,
            "queued_tokens": endpoint.queued_tokens,
        }


WORST_FIRST = list(State)


def _source(file: Path | None) -> dict[str, str]:
    """What a policy is from; one whose file is gone stays in force until another is."""
    try:
        if file is not None:
            return {"file": file.name, "text": file.read_text(encoding="utf-8")}
    except OSError:
        pass
    return {"file": "a file that is gone", "text": ""}


def _each(parts: Sequence[Told], endpoint: str) -> Iterator[Mapping[str, Any]]:
    """A worker that has died came back with the endpoints that the config had by then."""
    return (part["endpoints"][endpoint] for part in parts if endpoint in part["endpoints"])


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One endpoint, as several workers have it: its worst state, and all that runs there."""
    worst = min(parts, key=lambda part: WORST_FIRST.index(part["state"]))
    sums = {name: sum(part[name] for part in parts) for name in ("in_flight", "queued_tokens")}
    return {**worst, **sums}


def _lag(config: Mapping[str, Any]) -> tuple[bool, int]:
    """Of several workers, the one that a reload has not reached, or not well, comes first."""
    return config["reload"] == "ok", config["generation"]


def _json(value: object) -> Response:
    return JSONResponse(value, headers={**HEADERS, "cache-control": "no-store"})


def _file(name: str) -> Response:
    file = STATIC / name
    return Response(file.read_bytes(), headers={**HEADERS, "content-type": TYPES[file.suffix]})
