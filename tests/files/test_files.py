"""`/v1/files` with OpenAI's SDK, and with what no SDK would send."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.admission.keys import KeyRing
from gateway.config import ConfigError
from gateway.config.bind import Secret
from gateway.config.tree import Files, Key
from gateway.files.nouns import File
from gateway.files.store import STRAY_S, Folder
from gateway.filing import Filing
from gateway.front.body import BodyLimits
from gateway.front.door import Door
from tests.files.world import filing, upload
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

KEYS = (
    Key("acme", Secret("key-of-acme"), tenant="acme"),
    Key("rival", Secret("key-of-rival"), tenant="rival"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_file_is_uploaded_found_read_and_deleted(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # 2 MB: more than a form keeps in memory
    async with filing(tmp_path, Upstream()) as g:
        made = await g.sdk.files.create(file=("data.jsonl", content), purpose="batch")
        found = await g.sdk.files.retrieve(made.id)
        read = (await g.sdk.files.content(made.id)).content
        listed = [file.id async for file in await g.sdk.files.list()]
        deleted = await g.sdk.files.delete(made.id)
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            await g.sdk.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await g.sdk.files.content(made.id)
        after = [file.id async for file in await g.sdk.files.list()]
    assert (made.object, made.filename, made.bytes) == ("file", "data.jsonl", len(content))
    assert (made.purpose, made.status, made.expires_at) == ("batch", "processed", None)
    assert found == made
    assert read == content
    assert (listed, deleted.deleted, after) == ([made.id], True, [])
    assert [*(tmp_path / "contents").iterdir()] == []


async def test_a_list_is_paged_newest_first_or_oldest_first(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        ids = [await upload(g.sdk, b"x", "batch" if n % 2 else "user_data") for n in range(5)]
        newest = [file.id async for file in await g.sdk.files.list(limit=2)]
        oldest = [file.id async for file in await g.sdk.files.list(limit=2, order="asc")]
        for_batches = [file.id async for file in await g.sdk.files.list(purpose="batch")]
        for_nothing = [file.id async for file in await g.sdk.files.list(purpose="fun")]
    assert newest == ids[::-1]
    assert oldest == ids
    assert (for_batches, for_nothing) == ([ids[3], ids[1]], [])


async def test_a_tenant_sees_its_own_files_and_no_others(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream(), keys=KEYS, api_key="key-of-acme") as g:
        rival = g.sdk.with_options(api_key="key-of-rival")
        id = await upload(g.sdk, b"secret")
        assert [file.id async for file in await rival.files.list()] == []
        for call in (rival.files.retrieve, rival.files.content, rival.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(id)
        with pytest.raises(openai.AuthenticationError):
            await g.sdk.with_options(api_key="nobody's").files.list()
        assert (await g.sdk.files.content(id)).content == b"secret"


async def test_a_file_that_has_expired_is_gone(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        lasting = {"anchor": "created_at", "seconds": 3600}
        made = await g.sdk.files.create(
            file=("a", b"x"),
            purpose="batch",
            expires_after=lasting,  # type: ignore[arg-type]
        )
    assert made.expires_at == made.created_at + 3600
    folder = Folder(tmp_path)
    assert folder.file("default", made.id, made.created_at + 3599) is not None
    assert folder.file("default", made.id, made.created_at + 3600) is None
    folder.sweep(made.created_at + 3600)
    folder.close()
    assert [*(tmp_path / "contents").iterdir()] == []


async def post(g: Running, **form: Any) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{g.url}/v1/files", **form)
    return answer.status_code, answer.json()["error"]


FILE = {"file": ("a.jsonl", b"x")}


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (
            {"data": {"purpose": "batch"}, "files": {"other": ("a", b"x")}},
            "you must provide 'file'",
        ),
        ({"files": FILE}, "'purpose' must be one of: assistants, batch"),
        ({"files": FILE, "data": {"purpose": "fun"}}, "'purpose' must be one of"),
        ({"files": FILE, "data": {"purpose": "batch", "x": "1"}}, "'x' is not known here"),
        (
            {"files": FILE, "data": {"purpose": "batch", "expires_after[anchor]": "created_at"}},
            "'expires_after.seconds' must be from 3600 to 2592000",
        ),
        (
            {
                "files": FILE,
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "9" * 5000,
                },
            },
            "'expires_after.seconds' must be from 3600 to 2592000",
        ),
        ({"json": {"purpose": "batch"}}, "you must provide 'file'"),
        (
            {"content": b"no form", "headers": {"content-type": "multipart/form-data"}},
            "the form cannot be read",
        ),
        (
            {"files": [("file", ("a", b"x")), ("file", ("b", b"y"))], "data": {"purpose": "batch"}},
            "the form cannot be read: Too many files",
        ),
    ],
)
async def test_what_is_no_upload_is_refused_by_name(
    tmp_path: Path, form: dict[str, Any], says: str
) -> None:
    async with filing(tmp_path, Upstream()) as g:
        status, error = await post(g, **form)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(says)
    assert [*(tmp_path / "contents").iterdir()] == []


async def chunked(size: int) -> Any:
    yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for _ in range(size // 65536):
        yield b"x" * 65536


async def test_a_file_that_is_too_large_is_refused_announced_or_not(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream(), files={"max_file": 100_000}) as g:
        announced, error = await post(g, files={"file": ("a", b"x" * 300_000)})
        headers = {"content-type": "multipart/form-data; boundary=b"}
        trickled, _ = await post(g, content=chunked(1 << 20), headers=headers)
        exactly = await upload(g.sdk, b"x" * 100_000)
        with pytest.raises(openai.APIStatusError) as caught:
            await upload(g.sdk, b"x" * 100_001)
    assert (announced, trickled, caught.value.status_code) == (413, 413, 413)
    assert error["message"] == "a file has at most 100000 bytes"
    assert exactly.startswith("file-")


async def test_a_tenants_files_have_a_size_together(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream(), files={"max_stored": 10}) as g:
        first = await upload(g.sdk, b"x" * 8)
        with pytest.raises(openai.BadRequestError, match="your files have 8 bytes"):
            await upload(g.sdk, b"x" * 3)
        await g.sdk.files.delete(first)
        await upload(g.sdk, b"x" * 10)


async def test_uploads_side_by_side_have_a_size_together_too(tmp_path: Path) -> None:
    content = b"x" * 600_000
    async with filing(tmp_path, Upstream(), files={"max_stored": 1_000_000}) as g:
        told = await asyncio.gather(
            *(upload(g.sdk, content) for _ in range(6)), return_exceptions=True
        )
        stored = [file.id async for file in await g.sdk.files.list()]
    refused = [error for error in told if isinstance(error, openai.BadRequestError)]
    assert (len(stored), len(refused)) == (1, 5)
    assert [path.name for path in (tmp_path / "contents").iterdir()] == stored


async def test_an_upload_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        g.gateway.door.limits = type(g.gateway.door.limits)(1000, 0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(g.url.rpartition(":")[2]))
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
            b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b" 408 " in status


async def test_a_client_that_leaves_during_its_upload_is_no_defect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with filing(tmp_path, Upstream()) as g:
        host, _, port = g.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
            b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.wait_for(g.gateway.in_flight.ended(), 5)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "query", ["limit=-1", "limit=10001", "limit=x", "limit=" + "9" * 5000, "order=up"]
)
async def test_a_list_that_makes_no_sense_is_refused(tmp_path: Path, query: str) -> None:
    async with filing(tmp_path, Upstream()) as g, httpx.AsyncClient() as client:
        answer = await client.get(f"{g.url}/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_without_a_folder_the_refusal_says_what_is_missing() -> None:
    async with gateway(Upstream()) as g:
        for call in (g.sdk.files.list, g.sdk.batches.list):
            with pytest.raises(openai.InternalServerError, match=r"files\.folder") as caught:
                await call()
            assert (caught.value.status_code, caught.value.code) == (501, "not_supported")


async def test_a_defect_is_told_in_the_apis_shape_and_without_what_it_was(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g, httpx.AsyncClient() as client:
        id = await upload(g.sdk, b"{}")
        (tmp_path / "contents" / id).unlink()
        (tmp_path / "contents" / id).mkdir()
        answer = await client.get(f"{g.url}/v1/files/{id}/content")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert answer.json()["error"]["message"] == "the gateway failed; its log says why"


def test_a_folder_that_cannot_be_used_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "files.sqlite").write_text("this is no database, however long it is made to be")
    door = Door(KeyRing([]), BodyLimits(1000, 1.0))
    with pytest.raises(ConfigError, match=r"files\.folder.*not a database"):
        Filing(Files(folder=tmp_path), door, time.monotonic, random.Random())


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    first = Folder(tmp_path)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    with source.open("rb") as content:
        first.add(File("file-1", "t", "a", "batch", 7, created=1), content)
    first.close()
    again = Folder(tmp_path)
    assert again.file("t", "file-1", 2) == File("file-1", "t", "a", "batch", 7, created=1)
    with again.open("file-1") as content:
        assert content.read() == b"content"
    again.close()


def test_what_an_upload_that_was_killed_has_left_goes_after_a_day(tmp_path: Path) -> None:
    folder, now = Folder(tmp_path), time.time()
    (tmp_path / "contents" / "file-1.part").write_bytes(b"half")
    (tmp_path / "contents" / "file-2").write_bytes(b"whole")
    with (tmp_path / "contents" / "file-2").open("rb") as content:
        folder.add(File("file-3", "t", "a", "batch", 5, created=1), content)
    folder.sweep(now + STRAY_S - 60)
    assert len([*(tmp_path / "contents").iterdir()]) == 3
    folder.sweep(now + STRAY_S + 60)
    assert [path.name for path in (tmp_path / "contents").iterdir()] == ["file-3"]
    folder.close()
