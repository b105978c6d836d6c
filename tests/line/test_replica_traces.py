"""One trace through two processes' worth of code: the caller, the gateway, a real replica."""

import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.config.bind import Share
from gateway.config.tree import Secret, Tracing
from gateway.replica.main import ReplicaSettings, Status, load
from gateway.replica.server import Replica, create_app
from gateway.replica.spans import Spans, spans_to
from tests.support.collector import Collector, collecting
from tests.support.gateways import Running, gateway
from tests.support.serving import serving
from tests.support.tiny_model import TinyModel

pytestmark = pytest.mark.anyio

SECRET = "s3cret"
ASK = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello hello hello hello hello hello"}],
    "max_tokens": 8,
    "extra_body": {"ignore_eos": True},
}
OURS = {"dialect": "replica", "secret": Secret(SECRET), "dedicated": True}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    model = TinyModel(context_length=4096).write(tmp_path_factory.mktemp("model") / "Tiny.gguf")
    settings = ReplicaSettings(str(model), names=("theirs-m",), backend="reference", secret=SECRET)
    engine, made = load(settings, Status(None))
    engine.start()
    yield made
    engine.stop()


@asynccontextmanager
async def traced(
    replica: Replica, **tracing: object
) -> AsyncIterator[tuple[Running, Collector, Spans]]:
    async with collecting() as (url, collector):
        spans = spans_to(url, time.monotonic)
        app = create_app(dataclasses.replace(replica, tracing=spans))
        async with gateway(app, endpoint=OURS, tracing=Tracing(endpoint=url, **tracing)) as g:
            yield g, collector, spans
            await g.settled.wait_for(1)
        spans.close()


async def test_a_replicas_queue_prefill_and_decode_are_below_the_attempt(replica: Replica) -> None:
    async with traced(replica) as (g, collector, _):
        await g.sdk.chat.completions.create(**ASK)
        await g.sdk.chat.completions.create(**ASK)  # its prompt is cached now
    spans = collector.spans()
    assert {span.service for span in spans} == {"gateway", "replica"}
    attempts = {span.span_id: span for span in spans if span.kind == "CLIENT"}
    cached = []
    for attempt in sorted(attempts.values(), key=lambda span: span.start):
        below = [span for span in spans if span.parent_id == attempt.span_id]
        assert [span.name for span in below] == ["queue", "prefill", "decode"]
        queue, prefill, decode = below
        assert {span.trace_id for span in below} == {attempt.trace_id}
        assert attempt.start <= queue.start <= queue.end == prefill.start
        assert prefill.end == decode.start <= decode.end <= attempt.end
        assert prefill.attributes["gen_ai.usage.input_tokens"] > 16
        assert decode.attributes["gen_ai.usage.output_tokens"] == 8
        assert decode.attributes["replica.finish"] == "length"
        cached.append(prefill.attributes["gen_ai.usage.cache_read.input_tokens"])
    assert cached[0] == 0 < cached[1]


async def test_an_answer_that_is_left_ends_its_replicas_spans(replica: Replica) -> None:
    async with traced(replica) as (g, collector, _):
        body = {**ASK, "max_tokens": 4000}
        answer = await g.sdk.chat.completions.create(**body, stream=True)
        await anext(aiter(answer))
        await answer.close()
        spans = await collector.wait_for(6)
    (decode,) = [span for span in spans if span.name == "decode"]
    assert decode.attributes["replica.finish"] == "aborted"
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert server.attributes["gateway.ended"] == "hung_up"


async def test_what_is_not_sampled_has_no_spans_in_the_replica_either(replica: Replica) -> None:
    async with traced(replica, sample=Share(0)) as (g, collector, spans):
        await g.sdk.chat.completions.create(**ASK)
    assert collector.spans() == []
    assert spans.tracing.queue.dropped == 0


async def test_a_stranger_cannot_make_a_replica_trace(replica: Replica) -> None:
    """Without the gateway's secret the header says nothing."""
    async with collecting() as (url, collector):
        spans = spans_to(url, time.monotonic)
        async with (
            serving(create_app(dataclasses.replace(replica, tracing=spans))) as at,
            httpx.AsyncClient() as client,
        ):
            header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            answer = await client.post(
                f"{at}/v1/chat/completions",
                json={"model": "theirs-m", "messages": ASK["messages"], "max_tokens": 2},
                headers={"traceparent": header},
            )
            assert answer.status_code == 200
        spans.close()
    assert collector.spans() == []
