"""
What the dashboard shows of the last quarter of an hour, in memory: an observer of exchanges.

Each worker knows its own exchanges; what several did together is in /metrics and in the ledger.
Nothing of prompts or answers is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.domain import Attempt, Considered, Ended, Outcome
from gateway.telemetry.facts import forecast, model_of, reason

BUCKET_S = 5.0
BUCKETS = 180
DECISIONS = 100
CANDIDATES = 16
SAMPLES = 64
"""First tokens that one bucket keeps of an endpoint: the first so many, which is fair enough for a
percentile over five seconds."""


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
    first_s: list[float] = field(default_factory=list)


class Recent:
    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._buckets: dict[str, deque[Bucket]] = {}
        self._decisions: deque[dict[str, object]] = deque(maxlen=DECISIONS)
        self._number = 0

    def settled(self, outcome: Outcome) -> None:
        self._number += 1
        for attempt in outcome.attempts:
            self._count(outcome, attempt)
        if outcome.decided or outcome.cache or outcome.ended is Ended.FAILED:
            self._decisions.append(self._decision(outcome))

    def decisions(self) -> list[dict[str, object]]:
        """The latest first."""
        return list(reversed(self._decisions))

    def endpoint(self, name: str) -> dict[str, object]:
        """Sums over the quarter of an hour. `usd_per_hour` is over the last five minutes."""
        buckets = list(self._fresh(name))
        first = sorted(s for bucket in buckets for s in bucket.first_s)
        prompt = sum(bucket.prompt_tokens for bucket in buckets)
        latest = self._latest()
        spent = sum(b.usd for b in buckets if b.number > latest - 60)
        return {
            "answered": sum(bucket.answered for bucket in buckets),
            "failed": sum(bucket.failed for bucket in buckets),
            "first_p50_s": percentile(first, 0.5),
            "first_p95_s": percentile(first, 0.95),
            "hit_rate": sum(b.cached_tokens for b in buckets) / prompt if prompt else None,
            "usd_per_hour": spent * 3600 / (60 * BUCKET_S),
        }

    def series(self) -> dict[str, object]:
        """By endpoint, one number for each bucket, the oldest first; `at` is when each ended."""
        latest = self._latest()
        numbers = range(latest - BUCKETS + 1, latest + 1)
        zero = self._wall() - self._clock()
        return {
            "at": [round(zero + (number + 1) * BUCKET_S, 1) for number in numbers],
            "endpoints": {name: self._series(name, numbers) for name in sorted(self._buckets)},
        }

    def _series(self, name: str, numbers: Iterable[int]) -> dict[str, list[float | None]]:
        by_number = {bucket.number: bucket for bucket in self._fresh(name)}
        found = [by_number.get(number) for number in numbers]
        return {
            "requests_per_s": [(b.answered + b.failed) / BUCKET_S if b else 0.0 for b in found],
            "tokens_per_s": [b.completion_tokens / BUCKET_S if b else 0.0 for b in found],
            "first_p95_s": [percentile(sorted(b.first_s), 0.95) if b else None for b in found],
            "usd_per_hour": [b.usd * 3600 / BUCKET_S if b else 0.0 for b in found],
        }

    def _latest(self) -> int:
        return int(self._clock() // BUCKET_S)

    def _fresh(self, name: str) -> Iterable[Bucket]:
        oldest = self._latest() - BUCKETS
        return (bucket for bucket in self._buckets.get(name, ()) if bucket.number > oldest)

    def _count(self, outcome: Outcome, attempt: Attempt) -> None:
        buckets = self._buckets.setdefault(attempt.endpoint, deque(maxlen=BUCKETS))
        number = self._latest()
        if not buckets or buckets[-1].number != number:
            buckets.append(Bucket(number))
        bucket = buckets[-1]
        bucket.usd += attempt.billed_usd
        if attempt.error is not None:
            bucket.failed += 1
            return
        if attempt.ended is Ended.OVERTAKEN:
            return
        bucket.answered += 1
        if attempt.first_event is not None and len(bucket.first_s) < SAMPLES:
            bucket.first_s.append(attempt.first_event - attempt.started)
        usage = outcome.usage
        if usage is not None and attempt is outcome.answering:
            bucket.prompt_tokens += usage.prompt_tokens
            bucket.cached_tokens += usage.cached_tokens or 0
            bucket.completion_tokens += usage.completion_tokens

    def _decision(self, outcome: Outcome) -> dict[str, object]:
        usage = outcome.usage
        return {
            "number": self._number,
            "at": round(self._wall() - (self._clock() - outcome.started), 3),
            "request_id": outcome.request_id,
            "trace_id": f"{outcome.trace.trace_id:032x}" if outcome.trace else None,
            "tenant": outcome.principal.tenant,
            "model": model_of(outcome),
            "cache": outcome.cache,
            "policy": outcome.policy,
            "reason": reason(outcome.considered) if outcome.decided else None,
            "ended": outcome.ended,
            "error": outcome.error,
            "fault": outcome.fault,
            "first_s": outcome.first_event_s,
            "total_s": outcome.total_s,
            "prompt_tokens": usage and usage.prompt_tokens,
            "cached_tokens": usage and usage.cached_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "cost_usd": sum(attempt.billed_usd for attempt in outcome.attempts),
            "tried": [{"endpoint": a.endpoint, "error": a.error} for a in outcome.attempts],
            "forecast": forecast(outcome),
            "candidates": [_candidate(c) for c in outcome.considered[:CANDIDATES]],
        }


def _candidate(considered: Considered) -> dict[str, object]:
    return {name: getattr(considered, name) for name in considered.__slots__}


def percentile(ascending: list[float], share: float) -> float | None:
    """The nearest rank; None of nothing."""
    if not ascending:
        return None
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
