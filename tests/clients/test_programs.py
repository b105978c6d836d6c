"""Programs as users write them, each with one URL changed. `make prove` installs what they import.

In an environment of their own: what they pin, our tools do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.emulator.emulated import emulated
from tests.emulator.test_through_the_gateway import speaking
from tests.support.gateways import gateway
from tests.support.processes import serve

pytestmark = [pytest.mark.anyio, pytest.mark.prove]

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
MODULES = ROOT / ".venv" / "node" / "node_modules"

REPLICAS = """
server: {{port: {port}, drain: 5s}}
replicas:
  m: {{model: smollm2, kv_tokens: 8192}}
  other: {{model: smollm2, kv_tokens: 8192}}
"""
CITIES = {"Oslo", "Rome"}

NOT_OF_AN_IMITATION = (
    *("test_tool_calling", "test_agent_loop", "test_unicode_tool_call"),
    "test_image_inputs",
)
"""Of LangChain's tests: those that want arguments which only a model that reads would give (the
loops of the other programs show calls), and one that fetches a picture from the internet."""

NOT_OF_A_SMALL_MODEL = (
    "test_tool_calling",  # wants {"input": 3} or {}, and its schemas allow more
    "test_agent_loop",  # leaves the model the choice whether to call
    "test_unicode_tool_call",  # wants a Chinese name said again
    "test_message_with_name",  # a 400 by name: the model's template has no place for it
    "test_image_inputs",  # from the internet
)
"""Of LangChain's tests, onto a model of 135 million parameters that reads text alone."""

apis = pytest.mark.parametrize("api", ["responses", "chat"])
ways = pytest.mark.parametrize("how", ["whole", "stream"])


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`gateway serve` and the real model, in processes of their own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path_factory.mktemp("serve") / "config.yaml"
    config.write_text(REPLICAS.format(port=port))
    with serve(config) as serving:
        for _ in range(2):
            serving.wait_for(r"\] ready at ", 300)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    async with (
        emulated("openai") as there,
        gateway(there.url, endpoint=speaking("openai"), models=("m", "other")) as g,
    ):
        yield g.url


@pytest.fixture(params=["provider", "replica"])
def url(request: pytest.FixtureRequest) -> str:
    """A gateway, in front of a provider that is emulated or of the real model."""
    url: str = request.getfixturevalue(request.param)
    return url


async def run(*command: str | Path, succeeds: bool = True, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=HERE,
        env={**os.environ, "OPENAI_API_KEY": "none needed", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(300):
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
async def test_an_agent_of_openai_agents_calls_its_tool(url: str, api: str, how: str) -> None:
    answer = await told(PYTHON, "agents_loop.py", f"{url}/v1", api, how)
    assert_called(answer)
    assert answer["items"] == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert answer["streamed"] == (how == "stream")


@apis
@ways
async def test_an_agent_of_pydantic_ai_calls_its_tool(url: str, api: str, how: str) -> None:
    assert_called(await told(PYTHON, "pydantic_ai_loop.py", f"{url}/v1", api, how))


@apis
async def test_pydantic_ai_gets_its_types(url: str, api: str) -> None:
    assert_typed(await told(PYTHON, "pydantic_ai_loop.py", f"{url}/v1", api, "typed"))


@ways
async def test_a_loop_with_anthropics_sdk_calls_its_tool(url: str, how: str) -> None:
    answer = await told(PYTHON, "anthropic_loop.py", url, how)
    assert_called(answer)
    assert answer["tokens"] > 0


def assert_called(answer: dict[str, Any]) -> None:
    """Its tool once, with what its schema allows; and then it said something."""
    assert answer["text"].strip()
    (city,) = answer["asked"]
    assert city in CITIES


def assert_typed(answer: dict[str, Any]) -> None:
    assert answer.keys() == {"name", "people"}
    assert answer["name"] in CITIES
    assert 0 <= answer["people"] <= 50_000_000


async def test_langchains_standard_tests_pass_on_a_provider(provider: str) -> None:
    await langchains(provider, NOT_OF_AN_IMITATION)


async def test_langchains_standard_tests_pass_on_the_real_model(replica: str) -> None:
    await langchains(replica, NOT_OF_A_SMALL_MODEL)


async def langchains(url: str, but: tuple[str, ...]) -> None:
    said = await run(
        PYTHON,
        *(
            "-m",
            "pytest",
            "-q",
            "--tb=short",
            "-c",
            os.devnull,
            "--rootdir",
            HERE,
            "-p",
            "no:cacheprovider",
        ),
        *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=session"),
        *("-o", "asyncio_default_test_loop_scope=session"),
        *("-k", f"not ({' or '.join(but)})"),
        "langchain_standard.py",
        GATEWAY=f"{url}/v1",
    )
    assert " passed" in said
    assert " failed" not in said


async def test_responses_are_as_open_responses_describes_them(provider: str) -> None:
    command = (PYTHON.with_name("llm-comply"), "-u", f"{provider}/v1", "-k", "K", "-m", "m")
    said = await run(*command, "--json", succeeds=False)
    results = json.loads(said[said.index("{") :])["results"]
    failed = {result["id"] for result in results if result["status"] == "failed"}
    assert failed == {"compact-response", "compact-missing-model"}  # 501: nothing is compacted here
    assert len(results) > 10


@pytest.mark.node
@apis
@ways
async def test_an_agent_of_the_ai_sdk_calls_its_tool(url: str, api: str, how: str) -> None:
    answer = await told("node", "ai_sdk.mjs", f"{url}/v1", api, how, MODULES=str(MODULES))
    assert_called(answer)
    assert answer["steps"] == 2


@pytest.mark.node
@apis
async def test_the_ai_sdk_gets_its_types(url: str, api: str) -> None:
    assert_typed(await told("node", "ai_sdk.mjs", f"{url}/v1", api, "typed", MODULES=str(MODULES)))
