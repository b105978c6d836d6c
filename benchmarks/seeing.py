"""What it costs to be seen: CPU time of the gateway per request, with more and more watching.

    python -m benchmarks.seeing [requests]

Requests go straight into the ASGI app and are answered by a provider that has its answer ready, so
what is left is the line and those who watch it. CPU time is the process's, threads that write spans
and ledger rows included; the collector is another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.config.bind import Share
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Config, Endpoint, Ledger, ModelMap, Tracing
from gateway.domain import Event, InferenceRequest, Usage
from gateway.providers.base import Continuation
from gateway.rules import always
from routing_policies.catalog import Catalog

REQUESTS = 3000
ROUNDS = 5
PIECES = 20  # events of an answer
ENDPOINTS = 4

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

SINK = """
import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""


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


def gateway(**config: Any) -> Gateway:
    endpoint = Endpoint("http://127.0.0.1:9/v1", ModelMap({"m": "m"}))
    return Gateway(
        Config(endpoints={f"e{i}": endpoint for i in range(ENDPOINTS)}, **config),
        always(load_policy(PACKAGED / "balanced.yaml", Catalog.load())),
    )


async def microseconds(whole: Gateway, requests: int) -> float:
    """CPU time for each of so many requests, one after another."""
    app = whole.asgi()
    async with whole.lifespan(app):
        for endpoint in whole.fleet.endpoints.values():
            endpoint.up(Ready())
        await ask(app, requests // 10)
        started = time.process_time()
        await ask(app, requests)
        if whole.seeing.tracing is not None:  # what is queued is part of the price
            while whole.seeing.tracing.queue.waiting:  # noqa: ASYNC110 - a thread empties it
                await asyncio.sleep(0.01)
        spent = time.process_time() - started
    dropped = whole.seeing.tracing.queue.dropped if whole.seeing.tracing else 0
    assert not dropped, f"{dropped} spans were dropped: the figure would flatter"
    return spent / requests * 1e6


async def ask(app: Any, requests: int) -> None:
    for number in range(requests):
        sent = iter([{"type": "http.request", "body": BODY, "more_body": False}])

        async def receive(sent: Iterator[dict[str, Any]] = sent) -> dict[str, Any]:
            for message in sent:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            pass

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


@contextmanager
def collector() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def main(requests: int) -> None:
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(100 * requests)
    logging.basicConfig(level=logging.WARNING)  # the log is measured as its own row
    with collector() as url, tempfile.TemporaryDirectory() as folder:

        def tracing(share: float) -> dict[str, Any]:
            return {"tracing": Tracing(endpoint=url, sample=Share(share))}

        ledger = {"ledger": Ledger(Path(folder) / "ledger.sqlite")}
        rows: dict[str, dict[str, Any] | None] = {
            "nobody watches": None,
            "metrics, dashboard (the default)": {},
            "… and the ledger": ledger,
            "… and traces, none sampled": {**ledger, **tracing(0)},
            "… and traces, 1 %": {**ledger, **tracing(0.01)},
            "… and traces, 100 %": {**ledger, **tracing(1)},
        }
        found: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(ROUNDS):  # in turn, so that a busy machine slows all of them
            for name, config in rows.items():
                whole = gateway(**(config or {}))
                if config is None:
                    watching = whole.seeing.observers
                    whole.dispatcher.observers = [
                        o for o in whole.dispatcher.observers if type(o) not in map(type, watching)
                    ]
                found[name].append(asyncio.run(microseconds(whole, requests)))
    base = statistics.median(found["nobody watches"])
    print(f"CPU microseconds per request of {PIECES} events, {ENDPOINTS} candidates;")
    print(f"the median of {ROUNDS} rounds of {requests} requests\n")
    for name, values in found.items():
        middle = statistics.median(values)
        spread = f"({min(values):.0f} to {max(values):.0f})"
        print(f"{name:<34} {middle:7.0f} {middle - base:+6.0f}  {spread}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS)
