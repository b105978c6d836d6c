"""What the tests of the replay share: small traces, and a server driven without gateways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.config.load import PACKAGED, load_policy
from gateway.replay.files import read_trace
from gateway.replay.server import Job, Server
from gateway.replay.trace import Trace, TraceRequest
from routing_policies.catalog import Catalog
from routing_policies.policy import Policy

DATA = Path(__file__).parent / "data"


def sample(kind: str) -> Trace:
    """`conversation` or `synthetic`: the beginning of Mooncake's trace."""
    return read_trace(DATA / f"mooncake_{kind}_head.jsonl")


def packaged(name: str) -> Policy:
    return load_policy(PACKAGED / f"{name}.yaml", Catalog.load())


def drive(
    server: Server, requests: Sequence[TraceRequest]
) -> tuple[Mapping[int, tuple[float, float]], Sequence[Job]]:
    """Times of the first and the last token of each request, by its place; and the jobs."""
    jobs = [Job(number, request) for number, request in enumerate(requests)]
    first: dict[int, float] = {}
    last: dict[int, float] = {}

    def until(time: float) -> None:
        while server.due is not None and server.due <= time:
            now = server.due
            for progress in server.advance(now):
                times = last if progress.finished else first
                assert progress.job.number not in times
                times[progress.job.number] = now

    for job in jobs:
        until(job.request.arrival_s)
        server.submit(job, job.request.arrival_s)
    until(math.inf)
    return {number: (first[number], last[number]) for number in first}, jobs
