"""Embeddings through the whole line: OpenAI's SDK in front, imitated providers behind."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.admission.limits import Limits, Windows
from gateway.config.tree import Cache, Ledger, ModelPrice, Tenant
from gateway.emulator.embedding import vector
from gateway.emulator.emulated import emulated
from gateway.emulator.profiles import profiles
from gateway.ledger.store import opened, read
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import Running, gateway

pytestmark = pytest.mark.anyio

TEXTS = ["a cat on a mat", "the cat sat"]
PRICED = {"dialect": "vllm", "prices": {"m": ModelPrice(input=10, output=0)}}
EMBEDDING = sorted(name for name, profile in profiles().items() if profile.embeds)
OTHERS = sorted(profiles().keys() - set(EMBEDDING))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def raw(g: Running, **fields: Any) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{g.url}/v1/embeddings", json={"model": "m", **fields})
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize("name", EMBEDDING)
async def test_the_sdk_has_a_vector_for_each_text(name: str) -> None:
    async with (
        emulated(name, cold_start_s=0.0) as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        answer = await g.sdk.embeddings.create(model="m", input=TEXTS)
        (charge,) = there.bill.charges
    assert [item.embedding for item in answer.data] == [vector(text, 64) for text in TEXTS]
    assert [item.index for item in answer.data] == [0, 1]
    assert (answer.object, answer.model) == ("list", "m")
    assert (charge.model, charge.completion_tokens) == ("theirs-m", 0)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == charge.prompt_tokens


async def test_numbers_and_base64_are_the_same_vector() -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=PRICED) as g:
        numbers = await raw(g, input="a cat")
        packed = await raw(g, input="a cat", encoding_format="base64")
    (vector_there,) = (item["embedding"] for item in numbers["data"])
    (text,) = (item["embedding"] for item in packed["data"])
    assert struct.unpack("<64f", base64.b64decode(text)) == tuple(vector_there)
    assert math.isclose(sum(x * x for x in vector_there), 1.0, rel_tol=1e-5)


async def test_dimensions_reach_the_endpoint() -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=PRICED) as g:
        answer = await g.sdk.embeddings.create(model="m", input="a cat", dimensions=5)
    assert len(answer.data[0].embedding) == 5


@pytest.mark.parametrize(("given", "count"), [([1, 2, 3], 1), ([[1, 2], [3]], 2)])
async def test_token_ids_are_inputs_too(given: list[Any], count: int) -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=PRICED) as g:
        answer = await g.sdk.embeddings.create(model="m", input=given)
        (outcome,) = await g.settled.wait_for(1)
    assert len(answer.data) == count
    assert outcome.request is not None
    assert outcome.request.prompt_tokens == 3


async def test_another_endpoint_answers_when_one_fails() -> None:
    async with (
        emulated("vllm", script="rules: [{fault: {status: 500}}]") as first,
        emulated("vllm", script="rules: [{fault: {truncate: 1}}]") as second,
        emulated("vllm") as third,
        gateway(first.url, second.url, third.url, endpoint=PRICED) as g,
    ):
        answer = await g.sdk.embeddings.create(model="m", input=TEXTS)
        (outcome,) = await g.settled.wait_for(1)
    assert len(answer.data) == 2
    assert [a.error for a in outcome.attempts] == ["upstream_refused", "upstream_broken", None]


async def test_only_the_prompt_is_paid_for_and_it_is_in_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    async with (
        emulated("vllm", input_usd=10.0, output_usd=100.0) as there,
        gateway(there.url, endpoint=PRICED, ledger=Ledger(file)) as g,
    ):
        await g.sdk.embeddings.create(model="m", input=TEXTS)
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{g.url}/metrics")).text
        bill = there.bill.usd
    with opened(file) as connection:
        (record,) = read(connection)
    assert (record.operation, record.completion_tokens) == ("embeddings", 0)
    assert record.cost_usd == pytest.approx(bill)
    assert 'gen_ai_operation_name="embeddings"' in metrics


async def test_the_decision_expects_no_output_and_no_cached_prefix() -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=PRICED) as g:
        for _ in range(3):
            await g.sdk.embeddings.create(model="m", input=TEXTS)
        outcomes = await g.settled.wait_for(3)
    last = outcomes[-1]
    assert last.request is not None
    assert g.gateway.fleet.expected(last.request).output_tokens == 0
    assert last.attempts[0].expected_cached_tokens == 0


@pytest.mark.parametrize("name", OTHERS)
async def test_where_nobody_embeds_the_refusal_says_so_and_nobody_is_asked(name: str) -> None:
    async with (
        emulated(name, cold_start_s=0.0) as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await g.sdk.embeddings.create(model="m", input="a cat")
        assert not there.requests
    error = caught.value
    assert (error.status_code, error.code, error.param) == (501, "not_supported", "model")
    assert error.body["message"] == "no endpoint of 'm' can do embeddings"  # type: ignore[index]
    assert error.response.headers["x-should-retry"] == "false"


async def test_a_tenants_limit_counts_the_inputs_tokens() -> None:
    tenants = {"default": Tenant(Limits(tokens=Windows(minute=20)))}
    async with (
        emulated("vllm") as there,
        gateway(there.url, endpoint=PRICED, tenants=tenants) as g,
    ):
        await g.sdk.embeddings.create(model="m", input=[[1] * 15])
        with pytest.raises(openai.RateLimitError):
            await g.sdk.embeddings.create(model="m", input=[[1] * 15])


async def test_a_cached_answer_is_the_same_vector() -> None:
    async with (
        emulated("vllm") as there,
        gateway(there.url, endpoint=PRICED, cache=Cache(models={"m": 60.0})) as g,  # type: ignore[dict-item]
    ):
        first = await g.sdk.embeddings.create(model="m", input=TEXTS)
        again = await g.sdk.embeddings.create(model="m", input=TEXTS)
        assert len(there.requests) == 1
    assert again == first


async def test_an_input_longer_than_a_context_is_the_endpoints_to_judge() -> None:
    """Together they are longer than its context, and each fits."""
    async with (
        emulated("vllm", context_tokens=40) as there,
        gateway(there.url, endpoint={**PRICED, "context_length": 40}) as g,
    ):
        answer = await g.sdk.embeddings.create(model="m", input=["word " * 30] * 40)
    assert len(answer.data) == 40


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "you must provide 'input'"),
        ({"input": ""}, "'input' must not be empty"),
        ({"input": [""]}, "input[0] must not be empty"),
        ({"input": ["a", 1]}, "input[1] must be a string like the others"),
        ({"input": [[1], ["a"]]}, "input[1] must be token ids"),
        ({"input": ["a"] * 2049}, "'input' must have at most 2048 items"),
        ({"input": "a", "encoding_format": "int8"}, "'encoding_format' must be one of: float"),
        ({"input": "a", "dimensions": 0}, "'dimensions' must be at least 1"),
        ({"input": "a", "stream": True}, "embeddings are not streamed"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    fields: dict[str, Any], says: str
) -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=PRICED) as g:
        told = await raw(g, **fields)
        assert not there.requests
    assert told["error"]["message"].startswith(says)
    assert told["error"]["type"] == "invalid_request_error"
