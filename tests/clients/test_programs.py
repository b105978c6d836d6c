"""Programs as users write them, each with one URL changed. `make prove` installs what they import.

In an environment of their own: what they pin, our tools do not.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.emulator.emulated import emulated
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import Running, gateway

pytestmark = [pytest.mark.anyio, pytest.mark.prove]

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
MODULES = ROOT / ".venv" / "node" / "node_modules"

CALLS_A_TOOL_FIRST = "rules: [{requests: 1, fault: {tool_call: true}}]"

NOT_OF_AN_IMITATION = (
    *("test_tool_calling", "test_agent_loop", "test_unicode_tool_call"),
    "test_image_inputs",
)
"""Of LangChain's tests: those that want arguments which only a model that reads would give (the
loops of the other programs show calls), and one that fetches a picture from the internet."""

apis = pytest.mark.parametrize("api", ["responses", "chat"])
ways = pytest.mark.parametrize("how", ["whole", "stream"])


@asynccontextmanager
async def in_front(profile: str = "openai", script: str = "") -> AsyncIterator[Running]:
    async with (
        emulated(profile, script=script) as there,
        gateway(there.url, endpoint=speaking(profile), models=("m", "other")) as g,
    ):
        yield g


async def run(*command: str | Path, succeeds: bool = True, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=HERE,
        env={**os.environ, "OPENAI_API_KEY": "none needed", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(200):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0 or not succeeds, (said + complained).decode()[-6000:]
    return said.decode()


async def told(*command: str | Path, **environ: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await run(*command, **environ)).splitlines()[-1])
    return answer


@apis
@ways
async def test_an_agent_of_openai_agents_calls_its_tool(api: str, how: str) -> None:
    async with in_front(script=CALLS_A_TOOL_FIRST) as g:
        answer = await told(PYTHON, "agents_loop.py", f"{g.url}/v1", api, how)
        outcomes = await g.settled.wait_for(2)
    assert answer["text"]
    assert answer["tools"] == 1
    assert answer["items"] == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert answer["streamed"] == (how == "stream")
    assert len(outcomes) == 2


@apis
@ways
async def test_an_agent_of_pydantic_ai_calls_its_tool(api: str, how: str) -> None:
    async with in_front(script=CALLS_A_TOOL_FIRST) as g:
        answer = await told(PYTHON, "pydantic_ai_loop.py", f"{g.url}/v1", api, how)
    assert answer["text"]
    assert answer["tools"] == 1


@apis
async def test_pydantic_ai_gets_its_types(api: str) -> None:
    async with in_front() as g:
        answer = await told(PYTHON, "pydantic_ai_loop.py", f"{g.url}/v1", api, "typed")
    assert answer.keys() == {"name", "people"}


@ways
async def test_a_loop_with_anthropics_sdk_calls_its_tool(how: str) -> None:
    async with in_front(script=CALLS_A_TOOL_FIRST) as g:
        answer = await told(PYTHON, "anthropic_loop.py", g.url, how)
    assert answer["text"]
    assert answer["tools"] == 1
    assert answer["tokens"] > 0


async def test_langchains_standard_tests_pass() -> None:
    async with in_front() as g:
        said = await run(
            PYTHON,
            *("-m", "pytest", "-q", "-c", os.devnull, "--rootdir", HERE, "-p", "no:cacheprovider"),
            *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=session"),
            *("-o", "asyncio_default_test_loop_scope=session"),
            *("-k", f"not ({' or '.join(NOT_OF_AN_IMITATION)})"),
            "langchain_standard.py",
            GATEWAY=f"{g.url}/v1",
        )
    assert " passed" in said
    assert " failed" not in said


async def test_responses_are_as_open_responses_describes_them() -> None:
    async with in_front() as g:
        command = (PYTHON.with_name("llm-comply"), "-u", f"{g.url}/v1", "-k", "K", "-m", "m")
        said = await run(*command, "--json", succeeds=False)
    results = json.loads(said[said.index("{") :])["results"]
    failed = {result["id"] for result in results if result["status"] == "failed"}
    assert failed == {"compact-response", "compact-missing-model"}  # 501: nothing is compacted here
    assert len(results) > 10


@pytest.mark.node
@apis
@ways
async def test_an_agent_of_the_ai_sdk_calls_its_tool(api: str, how: str) -> None:
    async with in_front(script=CALLS_A_TOOL_FIRST) as g:
        answer = await told("node", "ai_sdk.mjs", f"{g.url}/v1", api, how, MODULES=str(MODULES))
    assert answer["text"]
    assert (answer["tools"], answer["steps"]) == (1, 2)


@pytest.mark.node
@apis
async def test_the_ai_sdk_gets_its_types(api: str) -> None:
    async with in_front() as g:
        answer = await told("node", "ai_sdk.mjs", f"{g.url}/v1", api, "typed", MODULES=str(MODULES))
    assert answer.keys() == {"name", "people"}
