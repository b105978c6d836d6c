"""An engine's constants from a measured run of it: those with which its model answers as it did.

The run is a ledger's export of one endpoint whose records also say when answers began and ended.
The model replays its arrivals, and a search over the constants, one after the other in ever smaller
steps, lowers the mean of |ln(modelled / measured)| over first tokens and whole answers. Constants
may stand in for each other where the run does not tell them apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from gateway.replay.ledger import read_ledger
from gateway.replay.metrics import percentile
from gateway.replay.replica import Replica, ReplicaSpec
from gateway.replay.server import Job
from gateway.replay.trace import TraceError, TraceRequest

CONSTANTS = ("step_s", "tokens_per_s", "sequence_s", "kv_token_s", "attention_s")
FACTORS = (4.0, 2.0, 1.4, 1.15, 1.05, 1.02)
BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Measured:
    request: TraceRequest
    first_s: float  # from its arrival to the first token
    last_s: float  # and to the last


@dataclass(frozen=True, slots=True)
class Calibration:
    spec: ReplicaSpec
    error: float  # mean of |ln(modelled / measured)|
    ttft_p50: tuple[float, float]  # modelled, measured
    ttft_p90: tuple[float, float]


def read_measured(file: Path, model: str | None = None) -> list[Measured]:
    """Raises TraceError, or OSError when the file cannot be read."""
    lines = file.read_text(encoding="utf-8").splitlines()
    answered = [line for line in lines if '"first_token_s"' in line]
    if not answered:
        raise TraceError(f"{file}: no record has first_token_s and last_token_s")
    requests = read_ledger(file, answered, BLOCK_SIZE, model)
    records = [json.loads(line) for line in answered]
    times = [r for r in records if r["completion_tokens"] and model in (None, r["model"])]
    begin = min(request.arrival_s for request in requests)
    measured = [
        Measured(
            replace(request, arrival_s=request.arrival_s - begin),
            _positive(file, record, "first_token_s"),
            _positive(file, record, "last_token_s"),
        )
        for request, record in zip(requests, times, strict=True)
    ]
    return sorted(measured, key=lambda m: m.request.arrival_s)


def _positive(file: Path, record: dict[str, object], name: str) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise TraceError(f"{file}: {name} is not a number of seconds above 0 in {record}")
    return float(value)


def calibrate(
    measured: Sequence[Measured],
    start: ReplicaSpec,
    progress: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """`progress` hears of every round, of `len(FACTORS)`."""
    best, error = start, error_of(start, measured)
    for done, factor in enumerate(FACTORS, 1):
        improved = True
        while improved:
            improved = False
            for name in CONSTANTS:
                for by in (factor, 1 / factor):
                    tried = replace(best, **{name: getattr(best, name) * by})
                    if (found := error_of(tried, measured)) < error * (1 - 1e-4):
                        best, error, improved = tried, found, True
        progress(done)
    first = sorted(first for first, _ in modelled(best, measured))
    seen = sorted(m.first_s for m in measured)
    p50, p90 = ((percentile(first, at), percentile(seen, at)) for at in (0.5, 0.9))
    return Calibration(best, error, p50, p90)


def error_of(spec: ReplicaSpec, measured: Sequence[Measured]) -> float:
    return fmean(
        (abs(math.log(first / was.first_s)) + abs(math.log(last / was.last_s))) / 2
        for (first, last), was in zip(modelled(spec, measured), measured, strict=True)
    )


def modelled(spec: ReplicaSpec, measured: Sequence[Measured]) -> list[tuple[float, float]]:
    """Seconds from each arrival to the first and to the last token, on one engine."""
    replica = Replica(spec, BLOCK_SIZE)
    first, last = [0.0] * len(measured), [0.0] * len(measured)

    def until(time: float) -> None:
        while replica.due is not None and replica.due <= time:
            now = replica.due
            for told in replica.advance(now):
                times = last if told.finished else first
                times[told.job.number] = now - told.job.request.arrival_s

    for number, was in enumerate(measured):
        until(was.request.arrival_s)
        replica.submit(Job(number, was.request), was.request.arrival_s)
    until(math.inf)
    return list(zip(first, last, strict=True))
