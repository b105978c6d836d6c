"""
What the dashboard shows of the last quarter of an hour, in memory: an observer of exchanges.

Each worker knows its own exchanges; `summary.py` makes one of what several know. Nothing of prompts
or answers is kept.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.domain import Attempt, Considered, Ended, Outcome, Usage
from gateway.telemetry.facts import cost_usd, forecast, model_of, reason

BUCKET_S = 5.0
BUCKETS = 180
DECISIONS = 100
CANDIDATES = 16
STEP = math.log(1.05)
"""First tokens are counted in classes, each so much longer than the last: 5 % is as exact as a
percentile over five seconds is."""


@dataclass(slots=True)
class Bucket:
    """What ended in five seconds, at one endpoint."""

    number: int  # of the bucket, counted from the clock's zero
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    first: dict[int, int] = field(default_factory=dict)  # tokens, by class

    def add(self, other: Bucket) -> None:
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for class_, count in other.first.items():
            self.first[class_] = self.first.get(class_, 0) + count

    def as_json(self) -> list[Any]:
        return [self.number, *(getattr(self, name) for name in SUMS), self.first]

    @classmethod
    def of_json(cls, told: Sequence[Any]) -> Bucket:
        number, *sums, first = told
        bucket = cls(number, *sums)
        bucket.first = {int(class_): count for class_, count in first.items()}
        return bucket


SUMS = ("answered", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "usd")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one worker has seen. Its parts may be shared with whoever goes on seeing."""

    buckets: Mapping[str, Sequence[Bucket]]  # by endpoint, the oldest first
    decisions: Sequence[Mapping[str, object]]  # the latest last

    def as_json(self) -> dict[str, Any]:
        return {
            "buckets": {
                endpoint: [bucket.as_json() for bucket in buckets]
                for endpoint, buckets in self.buckets.items()
            },
            "decisions": list(self.decisions),
        }

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Seen:
        buckets = {
            endpoint: [Bucket.of_json(bucket) for bucket in buckets]
            for endpoint, buckets in told["buckets"].items()
        }
        return cls(buckets, told["decisions"])


class _Decision(NamedTuple):
    """What takes long to tell is told when somebody looks: of most, nobody does before a hundred
    others have come."""

    facts: Mapping[str, object]
    decided: bool
    considered: Sequence[Considered]
    attempts: Sequence[Attempt]
    usage: Usage | None

    def told(self) -> dict[str, object]:
        attempts = self.attempts
        return {
            **self.facts,
            "reason": reason(self.considered) if self.decided else None,
            "tried": [{"endpoint": a.endpoint, "error": a.error} for a in attempts],
            "forecast": forecast(attempts[-1] if attempts else None, self.usage),
            "candidates": [_candidate(c) for c in self.considered[:CANDIDATES]],
        }


class Recent:
    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._buckets: dict[str, deque[Bucket]] = {}
        self._decisions: deque[_Decision] = deque(maxlen=DECISIONS)
        self._number = 0

    def settled(self, outcome: Outcome) -> None:
        self._number += 1
        for attempt in outcome.attempts:
            self._count(outcome, attempt)
        if outcome.decided or outcome.cache or outcome.ended is Ended.FAILED:
            self._decisions.append(self._decision(outcome))

    @property
    def seen(self) -> Seen:
        oldest = self.latest() - BUCKETS
        return Seen(
            {
                endpoint: [bucket for bucket in buckets if bucket.number > oldest]
                for endpoint, buckets in self._buckets.items()
            },
            [decision.told() for decision in self._decisions],
        )

    def latest(self) -> int:
        """The bucket that is filled now. Workers agree: their clock is the machine's."""
        return int(self._clock() // BUCKET_S)

    def ends(self, number: int) -> float:
        """When that bucket ends, in seconds since 1970."""
        return self._wall() - self._clock() + (number + 1) * BUCKET_S

    def _count(self, outcome: Outcome, attempt: Attempt) -> None:
        buckets = self._buckets.get(attempt.endpoint)
        if buckets is None:
            buckets = self._buckets[attempt.endpoint] = deque(maxlen=BUCKETS)
        number = self.latest()
        if not buckets or buckets[-1].number != number:
            buckets.append(Bucket(number))
        bucket = buckets[-1]
        bucket.usd += attempt.billed_usd
        if attempt.error is not None:
            bucket.failed += 1
            return
        ttft_s = attempt.ttft_s
        if attempt.ended is Ended.OVERTAKEN or ttft_s is None:
            return
        bucket.answered += 1
        class_ = round(math.log(max(ttft_s, 1e-6)) / STEP)
        bucket.first[class_] = bucket.first.get(class_, 0) + 1
        usage = outcome.usage
        if usage is not None and attempt is outcome.answering:
            bucket.prompt_tokens += usage.prompt_tokens
            bucket.cached_tokens += usage.cached_tokens or 0
            bucket.completion_tokens += usage.completion_tokens

    def _decision(self, outcome: Outcome) -> _Decision:
        usage = outcome.usage
        facts = {
            "id": f"{os.getpid()}.{self._number}",
            "at": round(self._wall() - (self._clock() - outcome.started), 3),
            "request_id": outcome.request_id,
            "trace_id": f"{outcome.trace.trace_id:032x}" if outcome.trace else None,
            "tenant": outcome.principal.tenant,
            "model": model_of(outcome),
            "cache": outcome.cache,
            "policy": outcome.policy,
            "ended": outcome.ended,
            "error": outcome.error,
            "fault": outcome.fault,
            "queued_s": sum([ended - began for began, ended in outcome.queued.items()]),
            "first_s": outcome.first_event_s,
            "total_s": outcome.total_s,
            "prompt_tokens": usage and usage.prompt_tokens,
            "cached_tokens": usage and usage.cached_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "cost_usd": cost_usd(outcome),
        }
        decided = outcome.decided is not None
        return _Decision(facts, decided, outcome.considered, outcome.attempts, usage)


def _candidate(considered: Considered) -> dict[str, object]:
    return {name: getattr(considered, name) for name in considered.__slots__}
