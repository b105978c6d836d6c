"""
The official SDKs as judges of the imitations: which exception each raises, after how many tries.

An SDK that takes an imitation for its provider agrees with our reading of it; nobody asked the
provider. Of what the wire does, all of them must see the same.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest

from gateway.emulator.emulated import emulated
from gateway.emulator.endpoint import Endpoint
from gateway.emulator.http import Request
from gateway.emulator.play import Outcome
from tests.emulator.callers import CHAT

pytestmark = [pytest.mark.anyio, pytest.mark.prove]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Sdk:
    module: str
    client: str
    profile: str
    path: str  # after the origin: what the SDK takes as its base URL

    def error(self, name: str) -> type[Exception]:
        error: type[Exception] = getattr(importlib.import_module(self.module), name)
        return error


SDKS = (
    Sdk("openai", "AsyncOpenAI", "openai", "/v1"),
    Sdk("openai", "AsyncOpenAI", "baseten", "/v1"),
    Sdk("openai", "AsyncOpenAI", "openrouter", "/api/v1"),
    Sdk("openai", "AsyncOpenAI", "deepinfra", "/v1/openai"),
    Sdk("openai", "AsyncOpenAI", "deepseek", ""),
    Sdk("openai", "AsyncOpenAI", "huggingface", "/v1"),
    Sdk("openai", "AsyncOpenAI", "vllm", "/v1"),
    Sdk("openai", "AsyncOpenAI", "sglang", "/v1"),
    Sdk("openai", "AsyncOpenAI", "llama-cpp", "/v1"),
    Sdk("fireworks", "AsyncFireworks", "fireworks", "/inference"),
    Sdk("fireworks", "AsyncFireworks", "fireworks-dedicated", "/inference"),
    Sdk("together", "AsyncTogether", "together", ""),
    Sdk("together", "AsyncTogether", "together-dedicated", ""),
    Sdk("groq", "AsyncGroq", "groq", ""),
    Sdk("cerebras.cloud.sdk", "AsyncCerebras", "cerebras", ""),
)
EVERY = pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: f"{sdk.module}-{sdk.profile}")
OWN = pytest.mark.parametrize(
    "sdk",
    [sdk for sdk in SDKS if sdk.profile in ("openai", "fireworks", "together", "groq", "cerebras")],
    ids=lambda sdk: sdk.module,
)


@asynccontextmanager
async def judged(sdk: Sdk, **settings: Any) -> AsyncIterator[tuple[Endpoint, Any]]:
    given = {"cold_start_s": 0.0, **settings}
    async with emulated(sdk.profile, **given) as there:
        kind = getattr(importlib.import_module(sdk.module), sdk.client)
        extra = {"warm_tcp_connection": False} if "cerebras" in sdk.module else {}
        async with kind(
            api_key="k", base_url=there.origin + sdk.path, timeout=5.0, **extra
        ) as client:
            yield there, client


async def ask(client: Any, fault: str | None = None, **body: Any) -> Any:
    headers = {} if fault is None else {"x-emulate-fault": fault}
    return await client.chat.completions.create(**CHAT, **body, extra_headers=headers)


async def text(client: Any, fault: str | None = None) -> str:
    """Of a stream."""
    said = ""
    async for chunk in await ask(client, fault, stream=True):
        said += "".join(choice.delta.content or "" for choice in chunk.choices)
    return said


@EVERY
async def test_it_reads_answers_streams_and_usage(sdk: Sdk) -> None:
    async with judged(sdk) as (there, client):
        whole = await ask(client)
        assert await text(client) == whole.choices[0].message.content
        assert whole.usage.total_tokens == sum(
            (there.bill.charges[0].prompt_tokens, there.bill.charges[0].completion_tokens)
        )


STATUSES = {
    400: ("BadRequestError", 1),
    401: ("AuthenticationError", 1),
    402: ("APIStatusError", 1),
    403: ("PermissionDeniedError", 1),
    404: ("NotFoundError", 1),
    408: ("APIStatusError", 3),
    409: ("ConflictError", 3),
    412: ("APIStatusError", 1),
    413: ("APIStatusError", 1),
    422: ("UnprocessableEntityError", 1),
    429: ("RateLimitError", 3),
    498: ("APIStatusError", 1),
    500: ("InternalServerError", 3),
    502: ("InternalServerError", 3),
    503: ("InternalServerError", 3),
    504: ("InternalServerError", 3),
    524: ("InternalServerError", 3),
    529: ("InternalServerError", 3),
}
"""Exception and tries; a `retry-after` of 10 ms keeps the waits short."""


@EVERY
async def test_each_status_raises_its_exception_after_its_tries(sdk: Sdk) -> None:
    got = {}
    async with judged(sdk) as (there, client):
        for status in STATUSES:
            before = len(there.requests)
            with pytest.raises(sdk.error("APIStatusError")) as raised:
                await ask(client, f"{{status: {status}, retry_after: 10ms}}")
            got[status] = (type(raised.value).__name__, len(there.requests) - before)
    assert got == STATUSES


@OWN
async def test_should_retry_and_retry_after_are_obeyed(sdk: Sdk) -> None:
    async with judged(sdk) as (there, client):
        with pytest.raises(sdk.error("InternalServerError")):
            await ask(client, "{status: 503, headers: {x-should-retry: 'false'}}")
        assert len(there.requests) == 1
        insisting = "{status: 400, headers: {x-should-retry: 'true', retry-after-ms: '5'}}"
        with pytest.raises(sdk.error("BadRequestError")):
            await ask(client, insisting)
        assert len(there.requests) == 1 + 3


@OWN
async def test_a_fault_that_passes_is_not_noticed(sdk: Sdk) -> None:
    script = """
        rules:
          - {requests: 1, fault: {status: 503, retry_after: 10ms}}
          - {requests: 2, fault: {reset: headers}}
    """
    async with judged(sdk, script=script) as (there, client):
        assert await text(client)
        assert [request.status for request in there.requests] == [503, None, 200]
        assert len(there.bill.charges) == 1


WIRE: dict[str, tuple[str | None, int]] = {
    "{reset: headers}": ("APIConnectionError", 3),
    "{status: 502, body: html, retry_after: 10ms}": ("InternalServerError", 3),
    "{status: 503, body: empty, retry_after: 10ms}": ("InternalServerError", 3),
    "{close: 3}": (None, 1),  # the trap: to every SDK it looks like an end
    "{no_done: true}": (None, 1),
    "{no_finish_reason: true}": (None, 1),
    "{error: 3}": ("APIError", 1),
    "{malformed: 3}": ("JSONDecodeError", 1),
    "{truncate: 3}": (None, 1),  # half an event is no event
    "{split: frame}": (None, 1),
    "{split: character}": (None, 1),
    "{join: true}": (None, 1),
    "{crlf: true}": (None, 1),
    "{no_space: true}": (None, 1),
    "{gzip: true}": (None, 1),
    "{trailing: 50ms}": (None, 1),
    "{duplicate_usage: true}": (None, 1),
}
"""What a stream with this fault raises, and its tries."""

OTHERWISE: dict[str, dict[str, tuple[str | None, int]]] = {
    # Its client is aiohttp, whose resets it takes for time-outs; of an error event it makes a chunk
    # without choices, and raises nothing of its own.
    "fireworks": {"{reset: headers}": ("APITimeoutError", 3), "{error: 3}": ("TypeError", 1)},
    "cerebras.cloud.sdk": {"{error: 3}": ("InternalServerError", 1)},
}


@OWN
async def test_each_fault_of_a_stream_is_what_every_sdk_makes_of_it(sdk: Sdk) -> None:
    got: dict[str, tuple[str | None, int]] = {}
    async with judged(sdk) as (there, client):
        for fault in WIRE:
            before = len(there.requests)
            raised = None
            try:
                await text(client, fault)
            except Exception as exc:
                raised = type(exc).__name__
            got[fault] = (raised, len(there.requests) - before)
    assert got == WIRE | OTHERWISE.get(sdk.module, {})


@OWN
async def test_a_stream_that_is_reset_raises(sdk: Sdk) -> None:
    async with judged(sdk) as (there, client):
        with pytest.raises((sdk.error("APIConnectionError"), httpx.TransportError)):
            await text(client, "{reset: 3}")
        assert len(there.requests) == 1


@OWN
async def test_silence_is_a_time_out(sdk: Sdk) -> None:
    async with judged(sdk) as (there, client):
        impatient = client.with_options(timeout=0.3, max_retries=1)
        with pytest.raises(sdk.error("APITimeoutError")):
            await ask(impatient, "{silence: headers}")
        posted = [request for request in there.requests if request.method == "POST"]
        assert len(posted) == 2


async def test_fireworks_own_fields_are_read_by_its_sdk() -> None:
    sdk = next(sdk for sdk in SDKS if sdk.profile == "fireworks")
    async with judged(sdk, replicas=1) as (_, client):
        for _ in range(2):
            answer = await ask(client, perf_metrics_in_response=True)
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    assert answer.perf_metrics


async def test_a_cold_fireworks_deployment_is_an_internal_server_error_with_its_code() -> None:
    sdk = next(sdk for sdk in SDKS if sdk.profile == "fireworks-dedicated")
    async with judged(sdk, cold_start_s=1e6) as (there, client):
        with pytest.raises(sdk.error("InternalServerError")) as raised:
            await ask(client.with_options(max_retries=0))
        assert raised.value.body["error"]["code"] == "DEPLOYMENT_SCALING_UP"
        assert len(there.requests) == 1


async def test_groqs_usage_is_found_by_its_sdk_in_x_groq() -> None:
    sdk = next(sdk for sdk in SDKS if sdk.profile == "groq")
    async with judged(sdk) as (there, client):
        chunks = [chunk async for chunk in await ask(client, stream=True)]
        charge = there.bill.charges[0]
    assert chunks[0].x_groq.id
    assert chunks[-1].x_groq.usage.completion_tokens == charge.completion_tokens


async def test_cerebras_times_are_read_by_its_sdk() -> None:
    sdk = next(sdk for sdk in SDKS if sdk.profile == "cerebras")
    async with judged(sdk) as (_, client):
        answer = await ask(client)
    assert answer.time_info.total_time > 0
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_cerebras_sdk_warms_its_connection() -> None:
    asked: list[str] = []
    async with emulated("cerebras") as there:
        answered = there.service.page

        def page(request: Request) -> Outcome:
            asked.append(request.path)
            return answered(request)

        there.service.page = page  # type: ignore[method-assign]
        kind = importlib.import_module("cerebras.cloud.sdk").Cerebras
        client = await anyio.to_thread.run_sync(lambda: kind(api_key="k", base_url=there.origin))
        client.close()
    assert set(asked) == {"/v1/tcp_warming"}


async def test_togethers_finish_reason_is_read_by_its_sdk() -> None:
    sdk = next(sdk for sdk in SDKS if sdk.profile == "together")
    async with judged(sdk, context_tokens=300) as (_, client):
        assert (await ask(client)).choices[0].finish_reason == "eos"
        with pytest.raises(sdk.error("PermissionDeniedError"), match="must be <= 300"):
            await ask(client, max_tokens=299)
