"""Bad input and bad luck, as the OpenAI SDK sees them."""

import asyncio
import json

import httpx
import openai
import pytest

from gateway.config.bind import Bytes, Secret
from gateway.config.tree import Key, Server
from gateway.front.door import Door
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"

pytestmark = pytest.mark.anyio


async def error_of(g, **changes) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await g.sdk.chat.completions.create(**{**ASK, **changes})
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


async def test_an_unknown_model_is_not_found_and_the_usable_ones_are_named():
    async with gateway(Upstream(), models=("m", "n")) as g:
        error = await error_of(g, model="gpt-4o")
        with pytest.raises(openai.NotFoundError):
            await g.sdk.models.retrieve("gpt-4o")
    assert type(error) is openai.NotFoundError
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "m, n" in error.message


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": 7}, "model"),
    ],
)
async def test_a_field_of_the_wrong_kind_is_a_bad_request_that_names_it(changes, param):
    upstream = Upstream()
    async with gateway(upstream) as g:
        error = await error_of(g, **changes)
    assert type(error) is openai.BadRequestError
    assert error.param == param
    assert upstream.received == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"", b'{"model": NaN}', b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_a_bad_request(body):
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        response = await client.post(g.url + PATH, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_over_the_limit_is_413_whether_announced_or_not():
    async with gateway(Upstream(), server=Server(max_body=Bytes(20_000))) as g:
        error = await error_of(g, messages=[{"role": "user", "content": "x" * 300_000}])

        async def unannounced():
            for _ in range(30):
                yield b"x" * 10_000

        async with httpx.AsyncClient() as client:
            response = await client.post(g.url + PATH, content=unannounced())
    assert (error.status_code, error.code) == (413, "request_too_large")
    assert response.status_code == 413


async def test_with_keys_a_bad_or_missing_one_is_401_before_the_body_is_read():
    keys = (Key(name="app", key=Secret("sk-right-one")),)
    async with gateway(Upstream(), api_key="sk-wrong-one", keys=keys) as g:
        assert type(await error_of(g)) is openai.AuthenticationError
        with pytest.raises(openai.AuthenticationError):
            await g.sdk.models.list()
        answer = await g.sdk.with_options(api_key="sk-right-one").chat.completions.create(**ASK)
        assert answer.choices

        # A body that never comes: were it read first, there would be no answer.
        host, port = g.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999\r\n\r\n{" % PATH.encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()
    assert head.startswith(b"HTTP/1.1 401")
    assert b"www-authenticate: Bearer" in head


async def test_a_key_for_some_models_sees_and_uses_only_those():
    keys = (Key(name="app", key=Secret("sk-only-n"), models=("n",)),)
    async with gateway(Upstream(), models=("m", "n"), api_key="sk-only-n", keys=keys) as g:
        assert [model.id async for model in g.sdk.models.list()] == ["n"]
        error = await error_of(g)
    assert error.code == "model_not_found"
    assert error.message.endswith("it may use: n")


async def test_a_prompt_beyond_every_context_is_refused_by_name():
    long = [{"role": "user", "content": "word " * 5000}]
    upstream = Upstream()
    async with gateway(upstream, endpoint={"context_length": 1000}) as g:
        error = await error_of(g, messages=long)
    assert (type(error), error.code) == (openai.BadRequestError, "context_length_exceeded")
    assert upstream.received == []


async def test_the_endpoints_own_word_on_its_context_reaches_the_client():
    refusal = {"message": "too long by 3 tokens", "code": "context_length_exceeded", "param": None}
    upstream = Upstream(status=400, error={"error": refusal})
    async with gateway(upstream) as g:
        error = await error_of(g)
    assert (type(error), error.code) == (openai.BadRequestError, "context_length_exceeded")
    assert "too long by 3 tokens" in error.message


async def test_what_an_endpoint_finds_wrong_with_the_request_is_the_clients_to_know():
    refusal = {"message": "top_k must be positive", "param": "top_k", "type": "x", "code": None}
    upstreams = [Upstream(status=422, error={"error": refusal}) for _ in range(2)]
    async with gateway(*upstreams) as g:
        error = await error_of(g)
    assert (type(error), error.param) == (openai.BadRequestError, "top_k")
    assert sum(len(u.received) for u in upstreams) == 1, "the next endpoint would say the same"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "upstream_key_refused"),
        (402, "upstream_unpaid"),
        (403, "upstream_key_refused"),
        (404, "upstream_gone"),
        (307, "upstream_refused"),
        (500, "upstream_refused"),
        (503, "upstream_refused"),
    ],
)
async def test_trouble_between_us_and_an_endpoint_never_looks_like_the_clients(status, code):
    secret = {"error": {"message": "Incorrect API key sk-upstream-1234 at 10.0.0.9"}}
    async with gateway(Upstream(status=status, error=secret)) as g:
        error = await error_of(g)
    assert type(error) is openai.InternalServerError
    assert (error.status_code, error.code) == (502, code)
    assert "sk-upstream" not in str(error)
    assert "10.0.0.9" not in str(error)


async def test_when_every_endpoint_is_at_its_limit_the_client_hears_the_shortest_wait():
    upstreams = [
        Upstream(status=429, headers={"retry-after": "9"}),
        Upstream(status=429, headers={"retry-after": "4"}),
        Upstream(status=500),
    ]
    async with gateway(*upstreams) as g:
        error = await error_of(g)
    assert type(error) is openai.RateLimitError
    assert error.response.headers["retry-after"] == "4"


async def test_no_endpoint_at_all_is_503_and_tells_strangers_nothing_more():
    async with gateway(Upstream()) as g:
        g.gateway.fleet.endpoints["u0"].gone("somebody tripped over the cable")
        error = await error_of(g)
    assert (error.status_code, error.code) == (503, "no_endpoint_available")
    assert "cable" not in error.message


async def test_an_endpoint_that_cannot_be_reached_is_502():
    async with gateway("http://127.0.0.1:9/v1") as g:
        error = await error_of(g)
    assert (error.status_code, error.code) == (502, "upstream_unreachable")
    assert "127.0.0.1" not in error.message


@pytest.mark.parametrize(
    "broken",
    [
        {"break_at": 2},
        {"stop_at": 2},
        {"raw_at": {2: b"data: {oops\n\n"}},
        {"raw_at": {2: b'data: {"error": {"message": "sk-upstream", "code": 500}}\n\n'}},
        {"raw_at": {2: b"data: 7\n\n"}},
    ],
)
async def test_a_stream_that_breaks_ends_in_an_error_that_the_sdk_raises(broken):
    async with gateway(Upstream(**broken)) as g:
        stream = await g.sdk.chat.completions.create(**ASK, stream=True)
        chunks = aiter(stream)
        pieces = [(await anext(chunks)).choices[0].delta.content for _ in range(2)]
        with pytest.raises(openai.APIError) as caught:
            await anext(chunks)
        outcomes = await g.settled.wait_for(1)
    assert pieces == ["Hel", "lo"]
    assert caught.value.code == "upstream_broken"
    assert "sk-upstream" not in str(caught.value)
    assert [o.ended for o in outcomes] == ["failed"]


async def test_unknown_paths_and_methods_answer_in_the_same_shape():
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        missing = await client.post(g.url + "/v1/nothing", content=b"{}")
        wrong = await client.get(g.url + "/v1/completions")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    for response in (missing, wrong):
        assert set(json.loads(response.content)["error"]) == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"]


async def test_a_defect_before_the_exchange_begins_answers_in_the_same_shape(monkeypatch):
    def broken(self: Door, scope: object) -> None:
        raise ZeroDivisionError("sk-secret")

    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        monkeypatch.setattr(Door, "principal", broken)
        response = await client.post(g.url + "/v1/chat/completions", content=b"{}")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "server_error"
    assert response.headers["x-request-id"]
    assert "sk-secret" not in response.text


async def test_a_defect_in_a_refusal_answers_in_the_same_shape(monkeypatch):
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        monkeypatch.setattr("gateway.front.exchange.quota_headers", lambda quotas: 1 / 0)
        response = await client.post(g.url + "/v1/chat/completions", content=b"{}")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "server_error"
    assert response.headers.get_list("x-request-id") == [response.headers["x-request-id"]]


async def test_an_answer_that_the_framework_finds_has_one_name():
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        # Starlette's routes take a path with a line's end for the one without.
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        response = await client.post(g.url + "/v1/chat/completions%0A", json=body)
    assert len(response.headers.get_list("x-request-id")) == 1


async def test_health_and_readiness():
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        await g.reached()
        assert (await client.get(g.url + "/health")).status_code == 200
        assert (await client.get(g.url + "/ready")).status_code == 200
        g.gateway.fleet.endpoints["u0"].gone("killed")
        assert (await client.get(g.url + "/health")).status_code == 200
        assert (await client.get(g.url + "/ready")).status_code == 503


async def test_a_whole_answer_is_whole_however_the_connection_ends():
    ends = [{"break_at_end": True}, {"break_at_end": True, "done": False}]
    for broken in ends:
        async with gateway(Upstream(**broken)) as g:
            stream = await g.sdk.chat.completions.create(**ASK, stream=True)
            pieces = [c.choices[0].delta.content or "" async for c in stream]
            (outcome,) = await g.settled.wait_for(1)
        assert "".join(pieces) == "Hello there"
        assert outcome.ended == "finished"


async def test_a_short_prompt_does_not_make_a_long_one_look_too_long():
    """The template's tokens of "hi" once made a ratio that refused 30 KB in a context of 8,192."""
    async with gateway(Upstream(), endpoint={"context_length": 8192}) as g:
        await g.sdk.chat.completions.create(**ASK)
        long = [{"role": "user", "content": "word " * 6000}]
        assert (await g.sdk.chat.completions.create(model="m", messages=long)).choices


async def test_a_large_body_goes_through():
    upstream = Upstream()
    text = "word " * 500_000
    async with gateway(upstream) as g:
        answer = await g.sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}]
        )
    assert answer.choices
    assert upstream.received[0].body["messages"][0]["content"] == text


async def test_one_observers_defect_costs_no_other_its_record():
    class Defective:
        def settled(self, outcome):
            raise OverflowError("mine alone")

    async with gateway(Upstream()) as g:
        g.gateway.dispatcher.observers = [Defective(), *g.gateway.dispatcher.observers]
        await g.sdk.chat.completions.create(**ASK)
        assert len(await g.settled.wait_for(1)) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "localhost"}, 200),
    ],
)
async def test_without_keys_no_web_page_may_ask(headers, status):
    async with gateway(Upstream()) as g, httpx.AsyncClient() as client:
        response = await client.get(g.url + "/v1/models", headers=headers)
    assert response.status_code == status


async def test_a_template_is_refused_through_the_side_door_too():
    async with gateway(Upstream()) as g:
        error = await error_of(g, extra_body={"chat_template_kwargs": {"chat_template": "{{x}}"}})
    assert error.param == "chat_template_kwargs"


async def test_a_long_name_of_a_model_is_not_echoed_whole():
    async with gateway(Upstream()) as g:
        error = await error_of(g, model="m" * 100_000)
    assert len(error.message) < 400
