"""What it costs to be seen: CPU time per request, of the line and of each that watches it.

    python -m benchmarks.seeing [requests]

Requests go straight into the ASGI app and are answered by a provider that has its answer ready, so
what is left is the line: watched by nobody; as it comes, with log, metrics and dashboard; with a
ledger too; with traces besides, at 1 % and 100 %, which are encoded for a collector and not sent.
All of the process counts, its threads too. Each round measures all of these, one after the other,
and what a line of the table says is the median over the rounds, and of each round's ratio.

Then the parts: who watches is given one exchange again and again; the best of `ROUNDS` rounds,
since others may use the machine.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from gateway.app import Gateway
from gateway.config.bind import Share
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Config, Endpoint, Ledger, ModelMap, Tracing
from gateway.dashboard.recent import Recent
from gateway.domain import Event, InferenceRequest, Outcome, Usage
from gateway.ledger.ledger import prepare
from gateway.ledger.record import Record
from gateway.ledger.store import write
from gateway.providers.base import Continuation
from gateway.rules import always
from gateway.telemetry.log import ExchangeLog, JsonLines, Lines
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.otlp import SpanQueue, factory
from gateway.telemetry.trace_context import Sampling
from routing_policies.catalog import Catalog

REQUESTS = 2000
ROUNDS = 5  # for each part
WHOLE_ROUNDS = 15  # shorter ones, so that what else the machine does falls on all alike
PIECES = 20  # events of an answer
ENDPOINTS = 4
BATCH = 500  # rows

BODY = json.dumps(
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You answer briefly. " * 20},
            {"role": "user", "content": "Why is the sea salt?"},
        ],
        "stream": True,
    }
).encode()


class Ready:
    """A provider whose answer is there at once."""

    continuation: Continuation | None = None

    @asynccontextmanager
    async def open(
        self, request: InferenceRequest, request_id: str
    ) -> AsyncIterator[AsyncIterator[Event]]:
        async def events() -> AsyncIterator[Event]:
            for index in range(PIECES):
                choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
                payload: dict[str, Any] = {"id": "a", "object": "chunk", "choices": [choice]}
                yield Event(payload, None, None, finishes=index == PIECES - 1)
            usage = Usage(140, PIECES, 128)
            yield Event({"id": "a", "choices": [], "usage": {}}, usage, None, finishes=False)

        yield events()

    async def stats(self) -> None:
        return None

    async def count(self, request: InferenceRequest) -> None:
        return None

    def rests_s(self) -> float:
        return 0.0

    async def probe(self) -> None:
        return None


def gateway(**config: Any) -> Gateway:
    endpoint = Endpoint("http://127.0.0.1:9/v1", ModelMap({"m": "m"}))
    return Gateway(
        Config(endpoints={f"e{i}": endpoint for i in range(ENDPOINTS)}, **config),
        always(load_policy(PACKAGED / "balanced.yaml", Catalog.load())),
    )


@dataclass
class Last:
    """An observer that keeps an outcome to measure with."""

    outcome: Outcome | None = None

    def settled(self, outcome: Outcome) -> None:
        self.outcome = outcome


async def line(whole: Gateway, requests: int) -> float:
    """CPU microseconds for each of so many requests, one after another, and for what is written
    of them until the gateway has ended."""
    app = whole.asgi()
    async with whole.lifespan(app):
        for endpoint in whole.fleet.endpoints.values():
            endpoint.up(Ready())
        await ask(app, requests // 10)
        started = time.process_time()
        await ask(app, requests)
    return (time.process_time() - started) / requests * 1e6


class Encoding(SpanExporter):
    """Does all that is to be done for a collector, and tells it nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def traced(share: float, file: Path) -> Gateway:
    tracing = Tracing(endpoint="http://127.0.0.1:9", sample=Share(share))
    whole = gateway(ledger=Ledger(file), tracing=tracing)
    assert whole.seeing.tracing is not None
    # Nothing is dropped: what was would cost nothing.
    whole.seeing.tracing.queue = SpanQueue(Encoding(), {"OTEL_BSP_MAX_QUEUE_SIZE": "1000000"})
    return whole


def unwatched() -> Gateway:
    whole = gateway(dashboard=False)
    whole.dispatcher.observers = [whole.fleet, whole.dispatcher.pacers]
    return whole


def together(requests: int, file: Path) -> None:
    """The whole of it, round by round."""
    cases: dict[str, Callable[[], Gateway]] = {
        "watched by nobody": unwatched,
        "log, metrics, dashboard": gateway,
        "and a ledger": lambda: gateway(ledger=Ledger(file)),
        "and traces at 1 %": lambda: traced(0.01, file),
        "and traces at 100 %": lambda: traced(1.0, file),
    }
    rounds = [
        [asyncio.run(line(make(), requests // 5)) for make in cases.values()]
        for _ in range(WHOLE_ROUNDS)
    ]
    print(f"{PIECES} events, {ENDPOINTS} candidates; medians of {WHOLE_ROUNDS} rounds")
    for index, name in enumerate(cases):
        figure = statistics.median(found[index] for found in rounds)
        ratio = statistics.median(found[index] / found[0] for found in rounds)
        print(f"{name:<50} {figure:7.1f} µs  {ratio:5.2f}")


async def ask(app: Any, requests: int) -> None:
    for number in range(requests):
        sent = iter([{"type": "http.request", "body": BODY, "more_body": False}])

        async def receive(sent: Iterator[dict[str, Any]] = sent) -> dict[str, Any]:
            for message in sent:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 200) == 200, "what fails costs something else"

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1),
        }
        await app(scope, receive, send)
        if number % 100 == 0:
            await asyncio.sleep(0)


def best(work: Callable[[], object], times: int, each: int = 1) -> float:
    """CPU microseconds of one `work`, or of each of the items that it handles."""
    found = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - started) / times / each * 1e6)
    return min(found)


def main(requests: int) -> None:
    logging.getLogger("gateway").setLevel(logging.INFO)
    logging.getLogger("gateway").addHandler(to_nowhere())
    logging.getLogger("gateway").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        prepare(file)
        together(requests, file)
    last = Last()
    whole = gateway()
    whole.dispatcher.observers = [whole.fleet, whole.dispatcher.pacers, last]
    asyncio.run(line(whole, 10))
    outcome = last.outcome
    assert outcome is not None
    print(f"the parts, the best of {ROUNDS} rounds")
    draws = random.Random(1)
    sampling = Sampling(0.01)
    outcome.trace = sampling.begin({}, draws)
    factory_ = factory("gateway")
    spans = factory_.of(outcome, lambda at: int(at * 1e9))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        prepare(file)
        records = [Record.of(outcome, 1.0)] * BATCH

        log, metrics = ExchangeLog(), Metrics(dict)
        recent = Recent(time.monotonic, time.time)
        row = best(lambda: Record.of(outcome, 1.0), requests)
        written = best(lambda: write(file, records), 2, BATCH)
        begun = best(lambda: sampling.begin({}, draws), requests)
        built = best(lambda: factory_.of(outcome, lambda at: int(at * 1e9)), requests)
        encoded = best(lambda: encode_spans(spans * 100).SerializeToString(), 2, 100)
        figures = {
            "log": best(lambda: log.settled(outcome), requests),
            "metrics": best(lambda: metrics.settled(outcome), requests),
            "dashboard": best(lambda: recent.settled(outcome), requests),
            "ledger: the record": row,
            "ledger: written, on its thread": written,
            "traces: begun, each request": begun,
            "traces: spans built, if sampled": built,
            "traces: encoded, on their thread, if sampled": encoded,
        }
    for name, figure in figures.items():
        print(f"{name:<50} {figure:7.1f} µs")


def to_nowhere() -> logging.Handler:
    handler = Lines(io.StringIO())
    handler.setFormatter(JsonLines())
    return handler


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS)
