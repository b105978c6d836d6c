"""What holds of every profile, with no line for any of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.emulator.asked import Refusal
from gateway.emulator.emulated import emulated
from gateway.emulator.profiles import profiles
from tests.emulator.callers import CHAT, asking, events, text_of, until

pytestmark = pytest.mark.anyio
EVERY = pytest.mark.parametrize("name", profiles())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_there_are_all_of_them() -> None:
    hosted = "baseten fireworks modal-function modal-server together openrouter groq cerebras"
    others = "deepinfra deepseek huggingface vllm sglang llama-cpp openai"
    dedicated = "baseten-dedicated fireworks-dedicated together-dedicated"
    assert set(profiles()) == set(f"{hosted} {others} {dedicated}".split())


@EVERY
async def test_a_stream_says_the_same_as_the_whole_answer(name: str) -> None:
    async with asking(name) as caller:
        whole = (await caller.ask()).json()
        text = await caller.stream()
    told = events(text)
    assert text_of(told) == whole["choices"][0]["message"]["content"]
    assert text.rstrip().endswith("data: [DONE]")
    reasons = [c["finish_reason"] for e in told for c in e["choices"] if c["finish_reason"]]
    assert reasons == [whole["choices"][0]["finish_reason"]]
    assert len({event["id"] for event in told}) == 1


@EVERY
async def test_the_bill_is_what_the_usage_says_to_the_token(name: str) -> None:
    async with asking(name) as caller:
        usages = [(await caller.ask()).json()["usage"] for _ in range(3)]
        bill = (await caller.client.get(caller.endpoint.origin + "/emulator/bill")).json()
    assert bill["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert bill["completion_tokens"] == sum(usage["completion_tokens"] for usage in usages)
    assert bill["usd"] == pytest.approx(caller.endpoint.bill.usd)
    settings = caller.endpoint.profile.settings
    assert bill["usd"] == pytest.approx(
        settings.usd(bill["prompt_tokens"], bill["cached_tokens"], bill["completion_tokens"])
    )


@EVERY
async def test_max_tokens_stop_and_n_are_honoured(name: str) -> None:
    async with asking(name) as caller:
        full = (await caller.ask()).json()["choices"][0]["message"]["content"]
        cut = (await caller.ask({**CHAT, "max_tokens": 3})).json()
        stop = full.split()[4]
        stopped = (await caller.ask({**CHAT, "stop": stop})).json()
        two = (await caller.ask({**CHAT, "n": 2})).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 3
    assert full.startswith(cut["choices"][0]["message"]["content"])
    assert stopped["choices"][0]["message"]["content"] == full[: full.index(stop)]
    assert [choice["index"] for choice in two["choices"]] == [0, 1]
    assert two["choices"][1]["message"] != two["choices"][0]["message"]


@EVERY
async def test_the_same_seed_says_the_same_and_another_does_not(name: str) -> None:
    said = []
    for seed in (0, 0, 1):
        async with asking(name, seed=seed) as caller:
            said.append((await caller.ask()).json()["choices"][0]["message"]["content"])
    assert said[0] == said[1] != said[2]


@EVERY
async def test_a_prompt_that_comes_again_is_cached_where_it_was_computed(name: str) -> None:
    async with asking(name, replicas=1) as caller:
        for _ in range(2):
            await caller.ask()
        first, second = caller.endpoint.bill.charges
    size = caller.endpoint.profile.settings.block_tokens
    assert (first.cached_tokens, second.cached_tokens % size) == (0, 0)
    assert second.prompt_tokens - size <= second.cached_tokens < second.prompt_tokens


@EVERY
async def test_a_key_that_is_not_taken_is_refused_in_the_providers_words(name: str) -> None:
    async with asking(name, keys=("another",)) as caller:
        refused = await caller.ask()
    assert refused.status_code == 401
    profile = caller.endpoint.profile
    assert refused.json() == profile.body(profile.refusal(401))
    assert caller.endpoint.bill.charges == []


@EVERY
async def test_what_is_no_request_is_refused(name: str) -> None:
    async with asking(name, models=("m",)) as caller:
        url = caller.endpoint.url + "/chat/completions"
        for body in (b"{", b"[]", b'{"model": "m"}', b'{"model": "m", "messages": [{}]}'):
            assert (await caller.client.post(url, content=body)).status_code == 400
        assert (await caller.ask({**CHAT, "model": "x"})).status_code in (400, 404)
        missing = await caller.client.get(caller.endpoint.url + "/nowhere")
        listed = await caller.client.get(caller.endpoint.url + "/models")
    assert missing.status_code == 404
    assert [model["id"] for model in listed.json()["data"]] == ["m"]


@EVERY
async def test_any_status_comes_with_the_providers_own_body(name: str) -> None:
    async with asking(name) as caller:
        for status in (400, 401, 402, 403, 404, 408, 412, 429, 500, 502, 503, 529):
            answer = await caller.ask(fault=f"{{status: {status}, retry_after: 2s}}")
            assert answer.status_code == status
            profile = caller.endpoint.profile
            assert answer.json() == profile.body(with_retry_after(profile.refusal(status)))
            assert answer.headers["retry-after"] == "2"
    assert caller.endpoint.bill.charges == []


def with_retry_after(refusal: Refusal) -> Refusal:
    refusal.headers["retry-after"] = "2"
    return refusal


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": []}}}
ODD: tuple[dict[str, Any], ...] = (
    {"n": 10**30},
    {"n": 129},
    {"n": 0},
    {"max_tokens": 10**30},
    {"max_tokens": -1},
    {"stop": 5},
    {"stop": [5]},
    {"messages": 5},
    {"messages": [5]},
    {"stream_options": 5},
    {"service_tier": []},
    {"tools": 5},
    {"tools": [5]},
    {"tools": [{"function": 5}]},
    {"tools": [FUNCTION], "tool_choice": "required"},
    {"tool_choice": 5},
    {"tool_choice": {"type": []}},
    {"tool_choice": {"function": []}},
    {"tool_choice": {"function": {"name": []}}},
    {"response_format": {"type": "json_schema", "json_schema": 1}},
    *(
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
        for schema in (
            {"type": []},
            {"type": {}},
            {"enum": 5},
            {"type": "object", "properties": ["x"]},
            {"type": "array", "minItems": "many"},
            {"type": "array", "minItems": 10**9},
            {"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999}},
        )
    ),
)


@EVERY
async def test_what_makes_no_sense_is_refused_and_breaks_nothing(name: str) -> None:
    async with asking(name) as caller:
        for odd in ODD:
            refused = await caller.ask({**CHAT, **odd})
            assert (refused.status_code, type(refused.json())) == (400, dict), odd
        deep = await caller.client.post(
            caller.endpoint.url + "/chat/completions", content=b'{"x":' * 100_000
        )
        assert deep.status_code == 400
        assert not caller.endpoint.defects


@pytest.mark.parametrize(
    "odd",
    [
        {"input": [1.5]},
        {"input": {"a": 1}},
        {"input": "a", "dimensions": "many"},
        {"input": "a", "dimensions": 10**9},
        {"input": "a", "dimensions": -1},
    ],
)
async def test_vectors_of_nothing_are_refused(odd: dict[str, Any]) -> None:
    async with asking("vllm") as caller:
        url = caller.endpoint.url + "/embeddings"
        refused = await caller.client.post(url, json={"model": "m", **odd})
        assert refused.status_code == 400
        assert not caller.endpoint.defects


@EVERY
async def test_tools_and_json_are_plausible(name: str) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}},
        },
    }
    async with asking(name) as caller:
        called = await caller.ask({**CHAT, "tools": [tool]}, fault="{tool_call: true}")
        streamed = await caller.stream("{tool_call: true}", tools=[tool])
        asked: dict[str, Any] = {"response_format": {"type": "json_object"}}
        json_text = (await caller.ask({**CHAT, **asked})).json()["choices"][0]["message"]["content"]
    choice = called.json()["choices"][0]
    function = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], function["name"]) == ("tool_calls", "weather")
    assert json.loads(function["arguments"]) == {"days": 7}
    deltas = [c["delta"] for e in events(streamed) for c in e["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert "".join(call["function"]["arguments"] for call in calls) == function["arguments"]
    assert all(call["index"] == 0 for call in calls)
    assert isinstance(json.loads(json_text), dict)


@EVERY
async def test_a_client_that_hangs_up_frees_the_slot(name: str) -> None:
    async with asking(name, slots=1, tokens_per_s=5.0, speed=1.0) as caller:
        asked = asyncio.create_task(caller.stream(max_tokens=8))
        await until(lambda: caller.endpoint.requests)
        await asyncio.sleep(0.3)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: caller.endpoint.bill.charges)
        charge = caller.endpoint.bill.charges[0]
        assert caller.endpoint.service.machine.load == 0
        assert caller.endpoint.requests[0].hung_up
    whole = caller.endpoint.profile.bills_hang_ups_whole
    assert (charge.complete, charge.completion_tokens == 8) == (False, whole)


async def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no profile is called 'x'; there are: baseten"):
        async with emulated("x"):
            pass


async def test_several_requests_go_over_one_connection() -> None:
    async with asking("openai") as caller:
        for _ in range(3):
            assert (await caller.ask()).status_code == 200
        assert len(caller.endpoint._port._connections) == 1
