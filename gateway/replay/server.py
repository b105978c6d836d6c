"""What stands behind an endpoint in the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.domain import ReplicaReport
from gateway.replay.trace import TraceRequest


@dataclass(eq=False, slots=True)
class Job:
    """A request at a server. `cached_tokens` and `cost_usd` are the server's to fill in."""

    number: int  # of the request in its trace
    request: TraceRequest
    cached_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    job: Job
    finished: bool  # False: its first token is out, and it is not the only one


class Server(Protocol):
    @property
    def due(self) -> float | None:
        """When it has something to tell; None while it is idle."""
        ...

    @property
    def steps(self) -> int:
        """So many tokens would an answer have got that has been under way all the time."""
        ...

    def submit(self, job: Job, now: float) -> None:
        """Take a request. May change `due`."""
        ...

    def advance(self, now: float) -> Sequence[Progress]:
        """What happened at the time `now`, which is `due`. Sets the next `due`."""
        ...

    def stats(self) -> tuple[int | None, float | None]:
        """Requests not begun yet, and the share of its KV in use; None: it tells nothing."""
        ...

    def report(self, now: float) -> ReplicaReport | None:
        """What it tells of itself with an answer; None from a provider, which tells nothing."""
        ...
