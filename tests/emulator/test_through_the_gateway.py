"""The OpenAI SDK through a gateway, onto imitations, each in its own dialect."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.config.bind import Secret
from gateway.emulator.emulated import emulated
from gateway.emulator.profiles import profiles
from tests.emulator.callers import CHAT
from tests.support.gateways import gateway

pytestmark = pytest.mark.anyio

KEY = {"api_key": Secret("key-1")}
BREAKS = ["reset: 3", "close: 3", "truncate: 3", "malformed: 3", "error: 3"]
EVERY = pytest.mark.parametrize("name", profiles())


def speaking(name: str) -> dict[str, Any]:
    """The config's part for a profile."""
    credentials = {key: Secret(value) for key, value in profiles()[name].credentials.items()}
    return {"dialect": name.replace("-", "_"), **credentials}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@EVERY
async def test_an_answer_comes_through_and_its_tokens_are_those_on_the_bill(name: str) -> None:
    async with (
        emulated(name, cold_start_s=0.0) as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        answer = await g.sdk.chat.completions.create(**CHAT)
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        said = "".join([c.delta.content or "" async for e in stream for c in e.choices])
        outcomes = await g.settled.wait_for(2)
        charges = there.bill.charges
        assert g.in_flight() == {"u0": 0}
    assert said == answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert [charge.complete for charge in charges] == [True, True]
    usage = outcomes[0].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        charges[0].prompt_tokens,
        charges[0].completion_tokens,
    )


@EVERY
async def test_a_refusal_costs_only_the_next_try(name: str) -> None:
    async with (
        emulated(name, cold_start_s=0.0, script="rules: [{fault: {status: 503}}]") as first,
        emulated("openai") as second,
        gateway(first.url, second.url, endpoint=[speaking(name), KEY]) as g,
    ):
        assert (await g.sdk.chat.completions.create(**CHAT)).choices
        await g.settled.wait_for(1)
    assert [len(first.requests), len(second.requests)] == [1, 1]
    assert (len(first.bill.charges), len(second.bill.charges)) == (0, 1)


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_stream_that_breaks_is_an_error_and_no_end(fault: str) -> None:
    async with (
        emulated("openai", script=f"rules: [{{fault: {{{fault}}}}}]") as there,
        gateway(there.url, endpoint=KEY) as g,
    ):
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        await g.settled.wait_for(1)
        assert g.in_flight() == {"u0": 0}


@pytest.mark.parametrize(
    "fault",
    [
        "split: frame",
        "split: character",
        "join: true",
        "crlf: true",
        "no_space: true",
        "empty: 3",
        "trailing: 50ms",
        "duplicate_usage: true",
    ],
)
async def test_unusual_framing_reaches_nobody(fault: str) -> None:
    async with emulated("openai") as plain, gateway(plain.url, endpoint=KEY) as g:
        expected = (await g.sdk.chat.completions.create(**CHAT)).choices[0].message.content
    async with (
        emulated("openai", script=f"rules: [{{fault: {{{fault}}}}}]") as there,
        gateway(there.url, endpoint=KEY) as g,
    ):
        stream = await g.sdk.chat.completions.create(**CHAT, stream=True)
        said = "".join([c.delta.content or "" async for e in stream for c in e.choices])
    assert said == expected


@pytest.mark.parametrize("name", ["baseten-dedicated", "modal-function", "modal-server"])
async def test_a_place_that_sleeps_is_not_woken_to_see_whether_it_is_there(name: str) -> None:
    async with emulated(name) as there, gateway(there.url, endpoint=speaking(name)) as g:
        await g.reached()
        assert there.service.machine.asleep
    assert not there.requests


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama-cpp"])
async def test_an_engine_tells_the_gateway_its_context(name: str) -> None:
    async with (
        emulated(name, context_tokens=4096, models=("theirs-m",)) as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        await g.reached()
        assert g.gateway.fleet.endpoints["u0"].context_length == 4096
