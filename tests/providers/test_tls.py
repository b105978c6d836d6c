"""An endpoint behind TLS must be who it says: a key goes to nobody else."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.errors import UpstreamUnreachable
from gateway.providers.dialects.openai import Openai
from gateway.providers.http1 import Http1Client
from gateway.providers.keys import Keys
from tests.emulator.callers import until
from tests.support.clock import ManualClock
from tests.support.hosted import answer
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

CERTIFICATE = Path(__file__).parents[1] / "support" / "signed_by_itself.pem"
"""Of a server for `localhost`, with the key that belongs to it and to nothing else."""


async def test_a_certificate_that_nobody_vouches_for_gets_no_key() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(1))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    client = Http1Client()
    keys = Keys(("key-one",), ManualClock())
    try:
        provider = Openai(client, f"https://localhost:{port}/v1", {"m": "m"}, keys)
        with pytest.raises(UpstreamUnreachable):
            await answer(provider, chat("hi"))
        assert got == []
        # Whoever trusts it can speak to it.
        trusting = ssl.create_default_context(cafile=CERTIFICATE)
        _, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        writer.write(b"x")
        await until(lambda: got)
        writer.close()
    finally:
        await client.aclose()
        server.close()
