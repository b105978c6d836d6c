"""Outages, rehearsed: a real gateway, imitated endpoints, real sockets between."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gateway.config.bind import Secret
from gateway.emulator.emulated import emulated
from tests.emulator.callers import CHAT
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import Running, gateway

pytestmark = pytest.mark.anyio

HOSTED = {"api_key": Secret("key-1")}
ACCEPTED_AND_FAILED = "rules: [{fault: {delay: 5ms, status: 503}}]"


async def refused(g: Running, stream: bool) -> bool:
    try:
        await g.sdk.chat.completions.create(**CHAT, stream=stream)
    except openai.InternalServerError:
        return True
    return False


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("waves", "at_once"), [(1, 5), (10, 10), (2, 60)])
async def test_when_all_fail_after_accepting_they_see_a_fifth_more_than_clients_ask(
    waves: int, at_once: int, stream: bool
) -> None:
    async with (
        emulated("openai", script=ACCEPTED_AND_FAILED) as first,
        emulated("openai", script=ACCEPTED_AND_FAILED) as second,
        emulated("openai", script=ACCEPTED_AND_FAILED) as third,
        gateway(first.url, second.url, third.url, endpoint=HOSTED) as g,
    ):
        for _ in range(waves):
            assert all(await asyncio.gather(*(refused(g, stream) for _ in range(at_once))))
        await g.settled.wait_for(waves * at_once)
        assert set(g.in_flight().values()) == {0}
    asked = waves * at_once
    seen = sum(len(each.requests) for each in (first, second, third))
    assert asked <= seen <= 1.2 * asked + 3
    assert len(g.settled.outcomes) == asked


@pytest.mark.parametrize(
    "pair", [("vllm", "sglang"), ("sglang", "llama-cpp"), ("llama-cpp", "vllm")]
)
@pytest.mark.parametrize("fault", ["reset: 5", "error: 5", "close: 5"])
async def test_an_engine_goes_on_with_another_engines_answer(
    pair: tuple[str, str], fault: str
) -> None:
    asked: dict[str, Any] = {**CHAT, "max_tokens": 40, "stream_options": {"include_usage": True}}
    async with (
        emulated(pair[0], script=f"rules: [{{requests: 2, fault: {{{fault}}}}}]") as first,
        emulated(pair[1]) as second,
        gateway(first.url, second.url, endpoint=[speaking(name) for name in pair]) as g,
    ):
        whole = (await g.sdk.chat.completions.create(**CHAT, max_tokens=40)).choices[0]
        stream = await g.sdk.chat.completions.create(**asked, stream=True)
        *chunks, last = [chunk async for chunk in stream]
        _, outcome = await g.settled.wait_for(2)
        assert set(g.in_flight().values()) == {0}
    choices = [chunk.choices[0] for chunk in chunks]
    said = [choice.delta.content or "" for choice in choices]
    assert "".join(said) == whole.message.content
    assert len({chunk.id for chunk in (*chunks, last)}) == 1
    assert [c.delta.role for c in choices if c.delta.role] == ["assistant"]
    assert [c.finish_reason for c in choices if c.finish_reason] == [whole.finish_reason]
    assert [(a.endpoint, a.error, a.resumed) for a in outcome.attempts] == [
        ("u0", "upstream_broken", False),
        ("u1", None, True),
    ]
    (resumed,) = (request.json for request in second.requests)
    assert isinstance(resumed, dict)
    assert (resumed["continue_final_message"], resumed["add_generation_prompt"]) == (True, False)
    assert resumed["messages"][-1] == {"role": "assistant", "content": "".join(said[:6])}
    assert resumed["max_tokens"] <= 35
    assert last.usage is not None
    before, after = first.bill.charges[1], second.bill.charges[0]
    assert (before.completion_tokens, before.complete, after.complete) == (5, False, True)
    assert last.usage.completion_tokens == before.completion_tokens + after.completion_tokens
