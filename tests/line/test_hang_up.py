"""A client that leaves, in every phase: the endpoint hears of it at once, nothing stays held."""

import asyncio
import gc
import json

import httpx
import pytest

from gateway.domain import Ended
from gateway.front.exchange import Exchange
from gateway.front.server import GuardedProtocol
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

PHASES = {
    "before upstream headers": ({"hold_headers": asyncio.Event()}, True),
    "before the first byte": ({"hold_at": 0}, True),
    "in mid-stream": ({"hold_at": 2}, True),
    "non-streamed, before upstream headers": ({"hold_headers": asyncio.Event()}, False),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_the_upstream_connection_is_closed_and_the_lease_given_back(phase):
    options, stream = PHASES[phase]
    upstream = Upstream(**options)
    async with gateway(upstream) as g:
        task = asyncio.create_task(
            g.sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=stream
            )
        )
        await asyncio.wait_for(upstream.asked.wait(), 30)
        assert g.in_flight() == {"u0": 1}
        if phase == "in mid-stream":
            answer = await task
            assert (await anext(aiter(answer))).choices[0].delta.content == "Hel"
            await answer.close()
        else:
            task.cancel()
        # Far shorter than any timeout: only the hang-up itself can end it.
        await asyncio.wait_for(upstream.hung_up.wait(), 10)
        (outcome,) = await g.settled.wait_for(1)
        assert outcome.ended is Ended.HUNG_UP
        assert g.in_flight() == {"u0": 0}
        assert g.gateway.fleet.endpoints["u0"].queued_tokens == 0


@pytest.mark.parametrize("size", [1_000, 200_000])
async def test_it_is_noticed_behind_a_body_that_came_after_its_head(size):
    upstream = Upstream(hold_headers=asyncio.Event())
    async with gateway(upstream) as g:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * size}]})
        writer = await sent(
            g.url,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"content-length: {len(body)}\r\n\r\n",
        )
        await asyncio.sleep(0.1)  # the gateway waits for the body: uvicorn pauses behind 64 KiB
        writer.write(body.encode())
        await writer.drain()
        await asyncio.wait_for(upstream.asked.wait(), 30)
        writer.close()
        await asyncio.wait_for(upstream.hung_up.wait(), 10)
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.ended is Ended.HUNG_UP


async def test_who_has_said_its_last_still_gets_what_was_answered_at_once():
    async with gateway(Upstream()) as g:
        host, port = g.url.removeprefix("http://").split(":")
        for _ in range(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n")
            writer.write_eof()
            assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
            writer.close()


async def test_a_connection_that_is_gone_leaves_nothing_that_has_to_be_looked_for():
    async with gateway(Upstream()) as g:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                async with httpx.AsyncClient() as client:
                    assert (await client.get(f"{g.url}/health")).status_code == 200
                    await client.post(f"{g.url}/v1/chat/completions", json={"model": "m"})
            async with asyncio.timeout(10):
                while any(p.transport.is_closing() for p in found(GuardedProtocol)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            gc.enable()


def found(kind):
    """Those that nobody has let go of."""
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


async def sent(url: str, text: str) -> asyncio.StreamWriter:
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    await writer.drain()
    return writer


async def test_leaving_while_sending_the_body_asks_no_endpoint():
    upstream = Upstream()
    async with gateway(upstream) as g:
        writer = await sent(
            g.url,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
        )
        writer.close()
        await writer.wait_closed()
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.ended is Ended.HUNG_UP
    assert upstream.received == []


async def test_a_hang_up_during_a_retry_ends_the_second_attempt_too():
    broken, slow = Upstream(status=500), Upstream(hold_headers=asyncio.Event())
    async with gateway(broken, slow) as g, httpx.AsyncClient() as client:
        task = asyncio.create_task(
            client.post(
                f"{g.url}/v1/chat/completions",
                json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
            )
        )
        await asyncio.wait_for(slow.asked.wait(), 5)
        task.cancel()
        await asyncio.wait_for(slow.hung_up.wait(), 10)
        (outcome,) = await g.settled.wait_for(1)
    assert [a.endpoint for a in outcome.attempts] == ["u0", "u1"]
    assert outcome.ended is Ended.HUNG_UP


async def test_an_answers_tokens_are_counted_while_it_is_under_way():
    upstream = Upstream(hold_at=2)
    async with gateway(upstream) as g:
        endpoint = g.gateway.fleet.endpoints["u0"]
        answer = await g.sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        events = aiter(answer)
        await anext(events)
        await asyncio.wait_for(upstream.asked.wait(), 30)
        first = endpoint.active_tokens
        await anext(events)
        assert endpoint.active_tokens >= first > 1  # its prompt, and an event at least
        await answer.close()
        await g.settled.wait_for(1)
        assert endpoint.active_tokens == 0


async def test_a_connection_that_waits_for_its_next_request_keeps_nothing_of_the_last():
    async with gateway(Upstream()) as g:
        for stream in (False, True):
            answer = await g.sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=stream
            )
            if stream:
                assert [chunk async for chunk in answer]
        await g.settled.wait_for(2)
        async with asyncio.timeout(10):
            while found(Exchange):
                await asyncio.sleep(0.01)
                gc.collect()
    assert [outcome.ended for outcome in g.settled.outcomes] == [Ended.FINISHED] * 2
