"""What several workers have seen, as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gateway.dashboard.recent import BUCKET_S, BUCKETS, DECISIONS, STEP, Bucket, Seen

LATELY = 60  # buckets: five minutes


class Summary:
    """`latest` is the number of the bucket that is filled now."""

    def __init__(self, seen: Sequence[Seen], latest: int) -> None:
        self._seen = seen
        self._latest = latest
        self._buckets: dict[str, dict[int, Bucket]] = {}
        for one in seen:
            for endpoint, buckets in one.buckets.items():
                sums = self._buckets.setdefault(endpoint, {})
                for bucket in buckets:
                    if bucket.number > latest - BUCKETS:
                        sums.setdefault(bucket.number, Bucket(bucket.number)).add(bucket)

    def decisions(self) -> list[Mapping[str, object]]:
        """The latest first."""
        every = [decision for one in self._seen for decision in one.decisions]
        return sorted(every, key=_ended, reverse=True)[:DECISIONS]

    def endpoint(self, name: str) -> dict[str, object]:
        """Sums over the quarter of an hour. `usd_per_hour` is over the last five minutes."""
        buckets = self._buckets.get(name, {}).values()
        prompt = sum(bucket.prompt_tokens for bucket in buckets)
        spent = sum(b.usd for b in buckets if b.number > self._latest - LATELY)
        return {
            "answered": sum(bucket.answered for bucket in buckets),
            "failed": sum(bucket.failed for bucket in buckets),
            "first_p50_s": percentile(buckets, 0.5),
            "first_p95_s": percentile(buckets, 0.95),
            "hit_rate": sum(b.cached_tokens for b in buckets) / prompt if prompt else None,
            "usd_per_hour": spent * 3600 / (LATELY * BUCKET_S),
        }

    def series(self) -> dict[str, dict[str, list[float | None]]]:
        """By endpoint, one number for each bucket, the oldest first."""
        return {name: self._series(self._buckets[name]) for name in sorted(self._buckets)}

    @property
    def numbers(self) -> range:
        """Of the buckets in a series."""
        return range(self._latest - BUCKETS + 1, self._latest + 1)

    def _series(self, buckets: Mapping[int, Bucket]) -> dict[str, list[float | None]]:
        found = [buckets.get(number) for number in self.numbers]
        return {
            "requests_per_s": [(b.answered + b.failed) / BUCKET_S if b else 0.0 for b in found],
            "tokens_per_s": [b.completion_tokens / BUCKET_S if b else 0.0 for b in found],
            "first_p95_s": [percentile([b], 0.95) if b else None for b in found],
            "usd_per_hour": [b.usd * 3600 / BUCKET_S if b else 0.0 for b in found],
        }


def percentile(buckets: Iterable[Bucket], share: float) -> float | None:
    """Of first tokens, in seconds: the nearest rank; None of nothing."""
    all_ = Bucket(0)
    for bucket in buckets:
        all_.add(bucket)
    rank = int(share * sum(all_.first.values()))
    for class_, count in sorted(all_.first.items()):
        rank -= count
        if rank < 0:
            return math.exp(class_ * STEP)
    return None


def _ended(decision: Mapping[str, object]) -> float:
    at, total_s = decision["at"], decision["total_s"]
    assert isinstance(at, float | int)
    assert isinstance(total_s, float | int)
    return at + total_s
