"""What is not here is refused in OpenAI's shape, by name, and once."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

MISSING = [
    ("POST", "/v1/images/generations", "images"),
    ("POST", "/v1/audio/speech", "speech"),
    ("POST", "/v1/audio/transcriptions", "transcription"),
    ("POST", "/v1/moderations", "moderations"),
    ("POST", "/v1/fine_tuning/jobs", "fine-tuning"),
    ("GET", "/v1/fine_tuning/jobs", "fine-tuning"),
    ("POST", "/v1/assistants", "assistants"),
    ("POST", "/v1/threads/runs", "threads"),
    ("POST", "/v1/uploads", "uploads in parts"),
    ("POST", "/v1/vector_stores", "vector stores"),
    ("POST", "/v1/videos", "videos"),
    ("POST", "/v1/evals", "evals"),
    ("POST", "/v1/containers", "containers"),
    ("POST", "/v1/conversations", "conversations"),
    ("POST", "/v1/realtime/client_secrets", "realtime"),
    ("GET", "/v1/organization/usage/completions", "organizations"),
    ("GET", "/v1/chat/completions", "stored chat completions"),
    ("GET", "/v1/chat/completions/chatcmpl-1", "stored chat completions"),
    ("DELETE", "/v1/models/m", "models cannot be deleted"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("method", "path", "names"), MISSING)
async def test_it_is_501_and_says_what_is_missing(method: str, path: str, names: str) -> None:
    upstream = Upstream()
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        answer = await client.request(method, g.url + path, json={} if method == "POST" else None)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (501, "not_supported")
    assert error.keys() == {"message", "type", "param", "code"}
    assert names in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert upstream.received == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/chat/completions", {"POST"}), ("/v1/models", {"GET", "HEAD"})]
)
async def test_a_method_that_openai_has_nowhere_is_405(
    method: str, path: str, allowed: set[str]
) -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        answer = await client.request(method, g.url + path)
    if method in allowed:
        assert answer.status_code == 200
        return
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert method == "HEAD" or answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/", "/v1/imagesque"])
async def test_what_nobody_has_is_404(path: str) -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        answer = await client.get(g.url + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "said"),
    [
        ("GET", "/v1/messages", 405, "not_found_error", "no GET /v1/messages here"),
        ("PUT", "/v1/messages/count_tokens", 405, "not_found_error", "no PUT"),
        ("GET", "/v1/messages/nope", 404, "not_found_error", "no GET /v1/messages/nope here"),
        ("POST", "/v1/messages/batches", 501, "api_error", "no batches of messages"),
    ],
)
async def test_below_messages_it_is_in_anthropics_shape(
    method: str, path: str, status: int, kind: str, said: str
) -> None:
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        answer = await client.request(method, g.url + path)
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert said in body["error"]["message"]
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == body["request_id"]


async def test_the_sdk_raises_once_and_tells() -> None:
    async with gateway(Upstream()) as g:
        sdk = g.sdk.with_options(max_retries=2)
        with pytest.raises(openai.InternalServerError, match="this gateway has no images"):
            await sdk.images.generate(prompt="a cat")
