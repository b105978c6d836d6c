"""Going down without losing anybody, as a whole and one endpoint at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import Any

import httpx
import pytest

from gateway.front.drain import Drain
from gateway.front.server import ConnectionLimits, server
from tests.support.gateways import gateway
from tests.support.serving import started
from tests.support.upstream import Upstream

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

pytestmark = pytest.mark.anyio


async def test_first_it_says_that_it_is_not_ready_and_still_answers() -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        await g.reached()
        assert (await client.get(f"{g.url}/ready")).status_code == 200
        g.gateway.drain.noticed = True
        ready = await client.get(f"{g.url}/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert (await client.get(f"{g.url}/health")).status_code == 200
        assert (await g.sdk.chat.completions.create(**ASK)).choices


async def test_then_it_takes_nothing_new_and_sends_whoever_asks_elsewhere() -> None:
    upstream = Upstream()
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        g.gateway.drain.refusing = True
        answer = await client.post(f"{g.url}/v1/chat/completions", json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
    assert upstream.received == []


@pytest.mark.parametrize(
    ("signals", "notice_s", "at_once"),
    [
        ([signal.SIGTERM], 60.0, False),
        ([signal.SIGTERM, signal.SIGTERM], 60.0, True),
        ([signal.SIGTERM], 0.0, True),
        ([signal.SIGINT], 60.0, True),
    ],
)
async def test_sigterm_gives_notice_and_a_second_one_cuts_it_short(
    signals: list[signal.Signals], notice_s: float, at_once: bool
) -> None:
    drain, limits = Drain(), ConnectionLimits()
    web = server(
        Upstream(),
        host="127.0.0.1",
        port=0,
        limits=limits,
        drain_s=0,
        drain=drain,
        notice_s=notice_s,
    )
    async with started(web):
        for number in signals:
            web.handle_exit(number, None)
        assert drain.noticed
        assert web.should_exit is at_once
    assert drain.refusing


async def test_after_the_notice_the_server_goes_down() -> None:
    drain, limits = Drain(), ConnectionLimits()
    web = server(
        Upstream(),
        host="127.0.0.1",
        port=0,
        limits=limits,
        drain_s=0,
        drain=drain,
        notice_s=0.01,
    )
    async with started(web):
        web.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(30):
            while not web.should_exit:
                assert drain.noticed
                await asyncio.sleep(0.01)


async def test_an_endpoint_drained_by_hand_finishes_what_it_has_and_gets_nothing_new() -> None:
    first, second = Upstream(hold_at=1), Upstream()
    async with gateway(first, second) as g:
        stream = aiter(await g.sdk.chat.completions.create(**ASK, stream=True))
        assert (await anext(stream)).choices[0].delta.content == "Hel"
        config = g.gateway.config
        g.gateway.put_in_force(dataclasses.replace(config, drained=("u0",)), g.gateway.rules)
        await g.sdk.chat.completions.create(**ASK)
        assert [len(u.received) for u in (first, second)] == [1, 1]
        first.release.set()
        assert [c.choices[0].delta.content async for c in stream] == ["lo", " there", None]
        g.gateway.put_in_force(config, g.gateway.rules)
        assert g.gateway.fleet.endpoints["u0"].healthy


async def test_a_name_that_is_no_endpoints_cannot_be_drained() -> None:
    async with gateway(Upstream()) as g:
        with pytest.raises(ValueError, match="drained names 'x'"):
            dataclasses.replace(g.gateway.config, drained=("x",))
