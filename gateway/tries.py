"""What one exchange has tried of one model, and whom it may still ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.admission.limits import Hold
from gateway.admission.queue import Turn
from gateway.domain import Attempt, InferenceRequest
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnreachable,
)
from routing_policies.base import Candidate, RouteRequest
from routing_policies.policy import Fallback


@dataclass(eq=False, slots=True)
class Tries:
    request: InferenceRequest
    expected: RouteRequest  # of it
    fallback: Fallback
    noted: list[Attempt]  # what has failed and been heard of, for models before this one too
    hold: Hold  # what its caller may still use
    timer: asyncio.Timeout  # of the whole exchange
    turn: Turn  # among those who wait while every endpoint is full
    left: int = field(init=False)
    said: dict[str, GatewayError] = field(default_factory=dict)  # by each endpoint, last
    failed: set[str] = field(default_factory=set)  # others are asked, while there are any
    decided: bool = False  # at least once
    rounds: int = 0  # in which everybody had failed
    resumes: int = 0
    broke: GatewayError | None = None  # what ended the last attempt that had a part in the answer
    broke_at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.fallback.attempts

    def culprit(self, attempts: Sequence[Attempt]) -> Attempt:
        """The attempt that has failed and is not noted yet; where two race it need not be the
        last."""
        return next(
            a for a in attempts if a.error is not None and all(a is not n for n in self.noted)
        )

    def note(
        self, attempt: Attempt, error: GatewayError, *, broke: bool = False, now: float = 0.0
    ) -> None:
        """An endpoint failed. Where an answer `broke` by that, the next tries are for the rest of
        it, and begin to count anew."""
        if broke:
            self.left, self.rounds = self.fallback.attempts, 0
            self.resumes += 1
            self.broke, self.broke_at = error, now
        elif self.broke is None or _took_work(error):
            self.left -= 1  # to take up an answer takes patience with who is not there yet
        self.noted.append(attempt)
        self.said[attempt.endpoint] = error
        self.failed.add(attempt.endpoint)

    def may_ask(self, candidate: Candidate) -> bool:
        """It serves the model, and what others said does not speak against it."""
        if self.request.model not in candidate.models:
            return False
        return not self.said or not self._too_short(candidate)

    def _too_short(self, candidate: Candidate) -> bool:
        """Another endpoint found the prompt too long, and this one takes no more."""
        limits = [
            error.limit
            for error in self.said.values()
            if isinstance(error, ContextLengthExceeded) and error.limit is not None
        ]
        length = candidate.context_length
        return length is not None and any(length <= limit for limit in limits)

    def forgive(self) -> bool:
        """Nobody else is left: whoever may do better a moment later can be asked again."""
        again = {name for name in self.failed if _may_pass(self.said[name])}
        self.failed -= again
        self.rounds += 1
        return bool(again)


def _may_pass(error: GatewayError) -> bool:
    """In less than a second, as what is wrong with a connection may. Limits and starts take longer,
    a time-out has taken it, and what answers with a failure will do so again."""
    return isinstance(error, UpstreamUnreachable | UpstreamBroken)


def _took_work(error: GatewayError) -> bool:
    return isinstance(error, UpstreamError) and error.took_work
