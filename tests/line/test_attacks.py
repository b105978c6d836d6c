"""What somebody would try who wants more than the gateway gives. Slow and large things are in
test_server.py, owned fields in test_owned_fields.py, another tenant's blocks on a real replica in
test_local_replicas.py."""

from __future__ import annotations

import asyncio
import logging

import httpx
import openai
import pytest

from gateway.admission.limits import Limits, Windows
from gateway.config.bind import Secret
from gateway.config.tree import Cache, Key, State, Tenant
from gateway.front.server import ConnectionLimits
from gateway.state.embedded import embedded
from tests.line.test_server import BODY, POST, answer_to, connected
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
KEYS = (
    Key("ann", Secret("sk-canary-ann"), tenant="ann"),
    Key("bob", Secret("sk-canary-bob"), tenant="bob"),
    Key("root", Secret("sk-canary-root"), tenant="ops", admin=True),
)

pytestmark = pytest.mark.anyio

CHUNKED = b"transfer-encoding: chunked\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)


@pytest.mark.parametrize(
    "head",
    [
        POST + LENGTH + CHUNKED + b"\r\n",
        POST + CHUNKED + LENGTH + b"\r\n",
        POST + LENGTH + b"content-length: 3\r\n\r\n",
        POST + b"content-length: 3, %d\r\n\r\n" % len(BODY),
        POST + b"content-length: +%d\r\n\r\n" % len(BODY),
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length : %d\r\n\r\n" % len(BODY),
        POST + b"transfer-encoding: chunked, identity\r\n\r\n",
        POST + b"transfer-encoding: xchunked\r\n" + LENGTH + b"\r\n",
        POST + LENGTH + b"x-folded: a\r\n b\r\n\r\n",
        POST.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n") + b"\n",
        POST + LENGTH + b"x-nul: a\x00b\r\n\r\n",
        POST + LENGTH + b"x-cr: a\rb\r\n\r\n",
    ],
)
async def test_a_request_that_two_parsers_would_read_differently_is_refused(head):
    upstream = Upstream()
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with gateway(upstream) as g:
        answer = await answer_to(g, head + BODY + smuggled)
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") == 1, "and nothing after it"
    assert upstream.received == []


async def test_a_callers_headers_do_not_reach_an_endpoint():
    upstream = Upstream()
    given = {
        "authorization": "Bearer sk-canary-ann",
        "cookie": "session=canary",
        "x-forwarded-for": "10.1.2.3",
        "x-forwarded-host": "evil.example",
        "x-replica-secret": "guess",
        "openai-organization": "org-canary",
        "api-key": "canary",
        "host": "evil.example",
        "te": "trailers",
        "connection": "keep-alive, x-hop",
        "x-hop": "canary",
    }
    async with gateway(upstream, keys=KEYS) as g, httpx.AsyncClient() as client:
        answer = await client.post(f"{g.url}/v1/chat/completions", headers=given, json=ASK)
    assert answer.status_code == 200
    sent = str(upstream.received[0].headers)
    assert not any(word in sent for word in ("canary", "evil", "10.1.2.3", "guess", "x-hop"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../admin/keys",
        "/v1/models/%2e%2e/%2e%2e/admin/keys",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/m%0d%0aset-cookie:%20a=b",
        "/v1/models//",
        "/v1/models/" + "m" * 20_000,
        "/v1/models/%f0%28%8c%28",
        "//v1/models",
        "/V1/MODELS",
        "/admin/keys/../keys",
        "/admin//keys",
        "/ADMIN/keys",
        "/dashboard/../../config.yaml",
        "/dashboard/%2e%2e/page.py",
        "/dashboard/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/dashboard//etc/passwd",
        "/dashboard/%00",
        "/dashboard/page.js/..",
        "/dashboard/api/../../admin/keys",
        "/.env",
        "/health/../admin/keys",
    ],
)
async def test_no_path_leads_where_it_does_not_say(path):
    async with gateway(Upstream(), keys=KEYS) as g:
        request = b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" % path.encode()
        answer = await answer_to(g, request + b"authorization: Bearer sk-canary-ann\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 403", b"HTTP/1.1 400"))
    assert b"set-cookie" not in head.lower()
    assert b"root:" not in body
    assert len(body) < 1000


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_admin_is_for_admins_whatever_the_method(method, tmp_path):
    state = State(keys_file=tmp_path / "keys.json")
    async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
        for headers in ({}, {"authorization": "Bearer sk-canary-ann"}):
            for path in ("/admin/keys", "/admin/keys/root", "/admin/keys/root/rotate"):
                answer = await client.request(method, g.url + path, headers=headers)
                assert answer.status_code in (401, 403, 405)
                assert "canary" not in answer.text
    assert not (tmp_path / "keys.json").exists()


async def test_without_keys_nobody_is_an_admin():
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        assert (await client.get(f"{g.url}/admin/keys")).status_code == 403


async def test_one_connection_too_many_is_refused_and_the_others_go_on():
    async with gateway(Upstream(), limits=ConnectionLimits(connections=3)) as g:
        async with connected(g), connected(g):
            assert (await g.sdk.chat.completions.create(**ASK)).choices  # the third
            answer = await answer_to(g, b"")
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b'"code":"unavailable"' in answer
            assert (await g.sdk.chat.completions.create(**ASK)).choices
        async with asyncio.timeout(30):
            while True:  # until those that left are known to have left
                async with connected(g) as (reader, _):
                    try:
                        await asyncio.wait_for(reader.read(1), 0.1)
                    except TimeoutError:
                        break


async def test_another_tenants_answers_placements_and_limits_are_out_of_reach():
    upstream = Upstream(cached_tokens=0)
    options = {
        "keys": KEYS,
        "cache": Cache(models={"m": 60.0}),
        "tenants": {"ann": Tenant(Limits(requests=Windows(day=5)))},
    }
    long = {"model": "m", "messages": [{"role": "user", "content": "secret plan " * 100}]}
    async with gateway(upstream, **options) as g:
        for key in ("ann", "bob"):
            sdk = g.sdk.with_options(api_key=f"sk-canary-{key}")
            raw = await sdk.chat.completions.with_raw_response.create(**long, temperature=0)
            assert raw.headers["x-gateway-cache"] == "miss"
        _, bob = await g.settled.wait_for(2)
    assert bob.attempts[0].matched_size == 0
    assert "x-ratelimit-limit-requests" not in raw.headers
    assert len(upstream.received) == 2


async def test_no_key_shows_up_in_any_output(caplog):
    caplog.set_level(logging.DEBUG)
    upstream = Upstream(status=401, error={"error": {"message": "bad key sk-canary-upstream"}})
    told = []
    with embedded() as server:
        endpoint = {"api_key": Secret("sk-canary-upstream")}
        state = State(redis=Secret(server.url))
        async with (
            gateway(upstream, keys=KEYS, endpoint=endpoint, state=state) as g,
            httpx.AsyncClient() as client,
        ):
            for key in ("sk-canary-ann", "sk-canary-wrong"):
                sdk = g.sdk.with_options(api_key=key)
                with pytest.raises(openai.APIStatusError) as caught:
                    await sdk.chat.completions.create(**ASK)
                told += [str(caught.value), str(caught.value.response.headers)]
            for path in ("/health", "/ready", "/v1/models", "/admin/keys", "/nothing?k=sk-canary"):
                headers = {"authorization": "Bearer sk-canary-root"}
                answer = await client.get(g.url + path, headers=headers)
                told += [answer.text, str(answer.headers)]
            made = await client.post(f"{g.url}/admin/keys", headers=headers, json={"name": "new"})
            listed = await client.get(f"{g.url}/admin/keys", headers=headers)
            told += [listed.text, str(vars(g.gateway)), repr(g.gateway.door)]
            server.stop()
            await asyncio.sleep(0.5)
    callers_own = ("httpx", "httpcore", "openai")
    told += [r.getMessage() for r in caplog.records if not r.name.startswith(callers_own)]
    everything = "".join(told)
    assert "canary" not in everything
    assert made.json()["key"] not in everything
    assert "sha256" not in everything
