"""Why an endpoint cannot be reached is told in plain words, and without its address."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from gateway.providers.dialects.openai import Openai
from gateway.providers.http1 import Http1Client
from tests.support.hosted import answer
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

CERTIFICATE = Path(__file__).parents[1] / "support" / "signed_by_itself.pem"


@asynccontextmanager
async def speaking(says: bytes, *, tls: bool = False) -> AsyncIterator[int]:
    """A port where everybody is told the same, and then left."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        writer.close()

    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def told(base_url: str) -> UpstreamError:
    client = Http1Client()
    try:
        with pytest.raises(UpstreamError) as failed:
            await answer(Openai(client, base_url, {"m": "m"}), chat("hi"))
        return failed.value
    finally:
        await client.aclose()


async def test_a_name_that_is_none() -> None:
    error = await told("http://no..name/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert error.message == "the endpoint cannot be reached: its name was not found"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (socket.EAI_NONAME, "its name was not found"),
        (socket.EAI_AGAIN, "no names can be found now"),
    ],
)
async def test_a_name_that_is_not_found(
    number: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*args: object, **options: object) -> None:
        raise socket.gaierror(number, "nowhere.example is not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = await told("http://nowhere.example/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert error.message == f"the endpoint cannot be reached: {why}"


async def test_a_port_that_is_left_before_tls() -> None:
    async with speaking(b"") as port:
        error = await told(f"https://127.0.0.1:{port}/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert "closed before anything was sent" in error.message or "TLS failed" in error.message


async def test_a_port_that_is_closed() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        error = await told(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert error.message == "the endpoint cannot be reached: connection refused"


async def test_a_port_that_speaks_no_tls() -> None:
    async with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = await told(f"https://127.0.0.1:{port}/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert error.message.startswith("the endpoint cannot be reached: TLS failed: ")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_that_nobody_vouches_for(host: str) -> None:
    async with speaking(b"", tls=True) as port:
        error = await told(f"https://{host}:{port}/v1")
    assert isinstance(error, UpstreamUnreachable)
    assert error.message.replace("-", " ") == (
        "the endpoint cannot be reached: TLS failed: its certificate is not accepted"
        " (self signed certificate)"
    )


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "it was closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-", "it was closed"),
        (b"220 mail.example.org ESMTP\r\n", "what came is no HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "what came is no HTTP"),
    ],
)
async def test_a_connection_that_breaks(says: bytes, why: str) -> None:
    async with speaking(says) as port:
        error = await told(f"http://127.0.0.1:{port}/v1")
    assert isinstance(error, UpstreamBroken)
    assert error.message == f"the connection to the endpoint broke: {why}"
