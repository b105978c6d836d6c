"""The connection itself: deadlines and limits that uvicorn has not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.config.bind import Seconds
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Endpoint, ModelMap, Server
from gateway.domain import Ended
from gateway.front.server import ConnectionLimits
from gateway.rules import always
from routing_policies.catalog import Catalog
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)


@asynccontextmanager
async def connected(
    g: Running,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = g.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_to(g: Running, sent: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    async with connected(g) as (reader, writer):
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 5)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", POST + b"x-slow: "])
async def test_a_head_that_does_not_arrive_is_hung_up_on(sent):
    async with gateway(Upstream(), limits=ConnectionLimits(head_s=0.2)) as g:
        assert await answer_to(g, sent) == b""


async def test_the_deadline_holds_for_the_next_request_on_a_connection_too():
    async with (
        gateway(Upstream(), limits=ConnectionLimits(head_s=0.2)) as g,
        connected(g) as (reader, writer),
    ):
        writer.write(WHOLE)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
        writer.write(b"POST /v1/chat")
        assert await asyncio.wait_for(reader.read(), 5) == b""
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_body_that_does_not_arrive_is_408():
    patient = Server(body_timeout=Seconds(0.2))
    async with gateway(Upstream(), server=patient, limits=ConnectionLimits(linger_s=0.1)) as g:
        answer = await answer_to(g, POST + b"content-length: 99\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


@pytest.mark.parametrize(
    "headers",
    [b"x-large: " + b"x" * 90_000 + b"\r\n", b"".join(b"x-%d: y\r\n" % i for i in range(9000))],
)
async def test_headers_over_the_limit_are_431(headers):
    async with gateway(Upstream()) as g:
        answer = await answer_to(g, POST + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b'"code":"invalid_request_error"' in answer


@pytest.mark.parametrize(
    "smuggled",
    [
        POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST.replace(b"\r\n", b"\n") + b"\n",
        POST + b"x-a: b\r\n c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_what_is_no_plain_http_is_400(smuggled):
    upstream = Upstream()
    async with gateway(upstream) as g:
        answer = await answer_to(g, smuggled)
    assert answer.startswith(b"HTTP/1.1 400")
    assert upstream.received == []


async def test_a_client_that_stops_reading_is_hung_up_on_and_the_endpoint_freed():
    flood = Upstream(pieces=("x" * 50_000,) * 2000)
    async with gateway(flood, limits=ConnectionLimits(stalled_reader_s=0.3)) as g:
        async with connected(g) as (_, writer):
            writer.write(WHOLE)
            (outcome,) = await g.settled.wait_for(1)
        await asyncio.wait_for(flood.hung_up.wait(), 10)
    assert outcome.ended is Ended.HUNG_UP
    assert outcome.events < 2000, "what the client does not take must not pile up here"


async def test_a_stream_that_outlasts_the_drain_ends_in_an_error_and_not_like_a_short_answer():
    async with gateway(Upstream(hold_at=2), drain_s=0) as g:
        host, port = g.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(WHOLE)
        await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert b"shutting down" in rest
    assert b"[DONE]" not in rest


async def test_a_stream_that_ends_within_the_drain_is_whole():
    upstream = Upstream(hold_at=2)
    async with gateway(upstream, drain_s=5) as g:
        host, port = g.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(WHOLE)
        await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
        asyncio.get_running_loop().call_later(0.3, upstream.release.set)
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert b" there" in rest
    assert b"[DONE]" in rest


async def test_a_second_request_before_the_first_is_answered_is_left_to_another_connection():
    """And the hang-up of whoever sent both is still noticed."""
    upstream = Upstream(hold_at=2)
    async with gateway(upstream) as g:
        async with connected(g) as (reader, writer):
            writer.write(WHOLE + WHOLE)
            await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
        await asyncio.wait_for(upstream.hung_up.wait(), 10)
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.ended is Ended.HUNG_UP
    assert len(upstream.received) == 1


async def test_the_first_of_two_pipelined_requests_is_answered_in_full():
    async with gateway(Upstream()) as g:
        answer = await answer_to(g, WHOLE + WHOLE)
    assert answer.count(b"[DONE]") == 1
    assert answer.endswith(b"0\r\n\r\n")


async def test_who_asks_endpoints_has_stopped_when_the_client_towards_them_is_closed():
    endpoint = Endpoint("http://127.0.0.1:9/v1", ModelMap(m="m"), dialect="vllm")
    rules = always(load_policy(PACKAGED / "cache_aware.yaml", Catalog.load()))
    gateway = Gateway(Config(endpoints={"e": endpoint}), rules)
    async with gateway.lifespan(gateway.asgi()):
        await asyncio.sleep(0)
        assert "endpoints are" in {task.get_name() for task in asyncio.all_tasks()}
    assert "endpoints are" not in {task.get_name() for task in asyncio.all_tasks()}
