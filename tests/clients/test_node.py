"""OpenAI's SDK for Node as a judge of the gateway, onto every profile. `make prove` installs it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.emulator.embedding import DIMENSIONS, vector
from gateway.emulator.emulated import emulated
from gateway.emulator.profiles import profiles
from tests.emulator.callers import CHAT
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import Running, gateway

pytestmark = [pytest.mark.anyio, pytest.mark.prove, pytest.mark.node]

ASK = Path(__file__).with_name("ask.cjs")
MODULES = Path(__file__).parents[2] / ".venv" / "node" / "node_modules"


async def ask(g: Running, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await told(ASK, g, {**CHAT, **fields})
    return answer


async def told(program: Path, g: Running, asked: object) -> Any:
    node = await asyncio.create_subprocess_exec(
        "node",
        str(program),
        f"{g.url}/v1",
        json.dumps(asked),
        env={**os.environ, "NODE_PATH": str(MODULES)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await node.communicate()
    return json.loads(said)


@pytest.mark.parametrize("name", profiles())
async def test_an_answer_is_the_same_streamed_or_not(name: str) -> None:
    async with (
        emulated(name, cold_start_s=0.0) as there,
        gateway(there.url, endpoint=speaking(name)) as g,
    ):
        whole, streamed = await ask(g), await ask(g, stream=True)
    assert whole == streamed
    assert whole["text"]
    assert (whole["finish_reasons"], whole["ids"]) == (["stop"], 1)


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [
        (400, "BadRequestError", 1),
        (401, "InternalServerError", 1),  # the gateway's key: x-should-retry says no
        (429, "RateLimitError", 3),
        (503, "InternalServerError", 3),
    ],
)
async def test_a_refusal_raises_its_exception_after_its_tries(
    status: int, error: str, tries: int
) -> None:
    script = f"rules: [{{fault: {{status: {status}}}}}]"
    async with (
        emulated("openai", script=script) as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
    ):
        told = await ask(g)
        assert len(await g.settled.wait_for(tries)) == tries
    assert (told["error"], told["is_api_error"]) == (error, True)


@pytest.mark.parametrize(
    "fault",
    [f"{what}: 3" for what in ("reset", "close", "truncate", "malformed", "error")],
)
async def test_a_stream_that_nobody_takes_up_raises_the_sdks_own_error(fault: str) -> None:
    async with (
        emulated("openai", script=f"rules: [{{fault: {{{fault}}}}}]") as there,
        gateway(there.url, endpoint=speaking("openai")) as g,
    ):
        told = await ask(g, stream=True)
    assert told == {
        "error": "APIError", "is_api_error": True, "code": "upstream_broken", "status": None
    }  # fmt: skip


async def test_a_stream_that_is_taken_up_is_one_answer() -> None:
    broken = "rules: [{stream: true, fault: {reset: 3}}]"
    async with (
        emulated("vllm", script=broken) as first,
        emulated("vllm") as second,
        gateway(first.url, second.url, endpoint=speaking("vllm")) as g,
    ):
        assert await ask(g, stream=True) == await ask(g)


async def test_vectors_are_the_endpoints_numbers() -> None:
    async with emulated("vllm") as there, gateway(there.url, endpoint=speaking("vllm")) as g:
        vectors = await told(ASK.with_name("embed.cjs"), g, ["a cat", "a dog"])
    assert vectors == [vector("a cat", DIMENSIONS), vector("a dog", DIMENSIONS)]
