"""Whether a hosted endpoint is there, before anybody has asked it for an answer."""

from __future__ import annotations

import httpx
import openai
import pytest

from gateway.config.bind import Secret
from tests.emulator.callers import until
from tests.support.gateways import gateway
from tests.support.hosted import Hosted, Reply
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio


async def test_it_is_asked_for_its_models_once_and_with_its_key() -> None:
    upstream = Upstream()
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        await g.reached()
        assert (await client.get(f"{g.url}/ready")).status_code == 200
    assert (upstream.probes, upstream.received) == (1, [])


async def test_having_no_list_of_models_is_an_answer_too() -> None:
    async with gateway(Upstream(models_status=404)) as g:
        await g.reached()


async def test_a_refused_key_makes_nobody_ready() -> None:
    upstream = Upstream(models_status=401)
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        answer = await g.sdk.models.list()  # time goes by
        assert answer.data
        assert (await client.get(f"{g.url}/ready")).status_code == 503


async def test_the_keys_are_in_the_same_turn_after_it() -> None:
    hosted = Hosted(pages={"/v1/models": Reply(401, {})})
    keys = {"api_key": Secret("key-a"), "api_keys": (Secret("key-b"),)}
    async with gateway(hosted, endpoint=keys) as g:
        await until(lambda: hosted.received)
        await g.sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    used = [r.headers["authorization"] for r in hosted.received]
    assert used == ["Bearer key-a", "Bearer key-a"]


async def test_the_log_says_once_why_one_that_was_given_up_cannot_be_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING", logger="gateway.fleet")
    async with gateway("http://no..name/v1") as g:
        messages = [{"role": "user", "content": "hi"}]
        for _ in range(10):
            with pytest.raises(openai.APIStatusError) as failed:
                await g.sdk.chat.completions.create(model="m", messages=messages)
            assert "no..name" not in str(failed.value)
        await until(lambda: caplog.records)
    (line,) = caplog.messages
    assert line.startswith("endpoint u0 is ejected: ")
    assert line.endswith("cannot be reached: its name was not found")
