from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from gateway.errors import ContextLengthExceeded, GatewayError, RateLimited
from gateway.replica.grammar import Grammars
from gateway.replica.metrics import EngineMetrics
from gateway.replica.prompt import Chat
from gateway.replica.request import Counts, Finish, Logprobs, Output, Submission
from gateway.replica.server import Replica, create_app
from gateway.replica.stats import EngineStats
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from tests.support.serving import started
from tests.support.tiny_text import CHATML, IM_END, tiny_metadata

pytestmark = pytest.mark.anyio

TOKENIZER = Tokenizer(tiny_metadata())
GRAMMARS = Grammars(TOKENIZER)
SECRET = "s3cret"
HELLO: Any = [{"role": "user", "content": "hello"}]
CHAT = {"model": "tiny", "messages": HELLO}


@dataclass
class FakeEngine:
    """Says what the test makes it say. `submitted` and `aborted` can be awaited."""

    refusal: Exception | None = None
    submitted: asyncio.Queue[Submission] = field(default_factory=asyncio.Queue)
    aborted: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    accepting: bool = True

    def submit(self, *submissions: Submission) -> None:
        if self.refusal is not None:
            raise self.refusal
        for submission in submissions:
            self.submitted.put_nowait(submission)

    def abort(self, request_id: str) -> None:
        self.aborted.put_nowait(request_id)

    def stats(self) -> EngineStats:
        return EngineStats(
            epoch="e1",
            running=1,
            waiting=2,
            queued_tokens=3,
            horizon_age_s=4.5,
            block_size=16,
            total_blocks=8,
            free_blocks=5,
            cached_blocks=2,
            owned_blocks=1,
            context_length=256,
        )


def say(submission: Submission, text: str) -> bool:
    """Whether the caller had seen enough."""
    return any(submission.on_token(Output(token)) for token in TOKENIZER.encode(text))


def finish(submission: Submission, how: Finish = Finish.STOP) -> None:
    submission.on_finish(how, Counts(len(submission.prompt), 4, 2))


@dataclass(frozen=True)
class Line:
    """A replica behind a socket, and its clients."""

    engine: FakeEngine
    replica: Replica
    http: httpx.AsyncClient
    sdk: openai.AsyncOpenAI

    async def post(self, path: str = "/v1/chat/completions", **body: object) -> httpx.Response:
        return await self.http.post(path, json=CHAT | body)


@asynccontextmanager
async def line(**changes: Any) -> AsyncIterator[Line]:
    engine = FakeEngine()
    given: dict[str, Any] = {
        "engine": engine,
        "tokenizer": TOKENIZER,
        "template": ChatTemplate(CHATML, TOKENIZER),
        "grammars": GRAMMARS,
        "models": ("tiny", "tiny-2"),
        "created": 1,
        "secret": SECRET,
    }
    replica = Replica(**(given | changes))
    config = uvicorn.Config(create_app(replica), port=0, lifespan="off", log_config=None)
    async with (
        started(uvicorn.Server(config)) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as sdk,
    ):
        yield Line(engine, replica, http, sdk)


async def test_the_sdk_gets_a_whole_chat() -> None:
    async with line() as it:
        asked = asyncio.create_task(it.sdk.chat.completions.create(model="tiny", messages=HELLO))
        submission = await it.engine.submitted.get()
        say(submission, "hello world")
        finish(submission)
        answer = await asked
    assert submission.prompt == tuple(ChatTemplate(CHATML, TOKENIZER).encode(Chat(HELLO)))
    assert IM_END in submission.sampling.stop_tokens
    assert submission.sampling.max_tokens is None
    assert answer.choices[0].message.content == "hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].model_extra == {}  # no stop string ended it
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(submission.prompt)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def test_the_sdk_gets_a_streamed_chat_piece_by_piece() -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.chat.completions.create(
                model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
        submission = await it.engine.submitted.get()
        say(submission, "hello")
        stream = await asked
        first = await anext(stream)
        said = await anext(stream)  # while the engine is still at it
        say(submission, " world")
        finish(submission, Finish.LENGTH)
        rest = [chunk async for chunk in stream]
    assert first.choices[0].delta.role == "assistant"
    assert said.choices[0].delta.content == "hello"
    assert [chunk.choices[0].delta.content for chunk in rest[:-1]] == [" world", None]
    assert rest[-2].choices[0].finish_reason == "length"
    assert rest[-1].choices == []
    assert rest[-1].usage is not None
    assert rest[-1].usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_gets_a_completion(stream: bool) -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.completions.create(model="tiny-2", prompt="hello", stream=stream)
        )
        submission = await it.engine.submitted.get()
        say(submission, "é!")
        finish(submission, Finish.LENGTH)
        answer: Any = await asked
        chunks = [chunk async for chunk in answer] if stream else [answer]
    assert submission.sampling.max_tokens == 16
    assert "".join(chunk.choices[0].text for chunk in chunks) == "é!"
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_request_and_is_named(stream: bool) -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.chat.completions.create(
                model="tiny", messages=HELLO, stop=["lord", "wor"], stream=stream
            )
        )
        submission = await it.engine.submitted.get()
        assert say(submission, "hello world")
        finish(submission)
        answer: Any = await asked
        chunks = [chunk async for chunk in answer] if stream else [answer]
    choices = [chunk.choices[0] for chunk in chunks]
    said = [choice.delta if stream else choice.message for choice in choices]
    assert "".join(one.content or "" for one in said) == "hello "
    assert (choices[-1].finish_reason, choices[-1].stop_reason) == ("stop", "wor")
    assert all("stop_reason" not in choice.model_extra for choice in choices[:-1])


async def test_a_stop_string_may_stay_and_stop_tokens_may_be_named() -> None:
    async with line() as it:
        fields: Any = {"stop_token_ids": [9], "ignore_eos": True}
        asked = asyncio.create_task(
            it.post(stop=["wor"], include_stop_str_in_output=True, **fields)
        )
        submission = await it.engine.submitted.get()
        assert submission.sampling.stop_tokens == {9}
        assert say(submission, "hello world")
        finish(submission)
        answer = await asked
    assert answer.json()["choices"][0]["message"]["content"] == "hello wor"


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_share_a_prompt_and_differ_by_their_seed(stream: bool) -> None:
    async with line() as it:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        create: Any = it.sdk.chat.completions.create
        asked = asyncio.create_task(
            create(model="tiny", messages=HELLO, n=3, seed=5, stream=stream, **options)
        )
        submissions = [await it.engine.submitted.get() for _ in range(3)]
        for index in (2, 0, 1):
            say(submissions[index], f"hello {index}")
            finish(submissions[index], Finish.LENGTH if index else Finish.STOP)
        answer: Any = await asked
        chunks = [chunk async for chunk in answer] if stream else []
    assert len({submission.prompt for submission in submissions}) == 1
    seeds = [submission.sampling.seed for submission in submissions]
    assert (seeds[0], len(set(seeds))) == (5, 3)  # the first is as without n
    texts, ends = ["", "", ""], ["", "", ""]
    if stream:
        for chunk in chunks[:-1]:
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason or ""
    else:
        texts = [choice.message.content for choice in answer.choices]
        ends = [choice.finish_reason for choice in answer.choices]
    assert texts == ["hello 0", "hello 1", "hello 2"]
    assert ends == ["stop", "length", "length"]
    usage = chunks[-1].usage if stream else answer.usage
    prompt = len(submissions[0].prompt)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, 6)


async def test_a_choice_that_fails_ends_the_answer_and_frees_the_others() -> None:
    async with line() as it:
        asked = asyncio.create_task(it.post(n=2))
        first, second = [await it.engine.submitted.get() for _ in range(2)]
        finish(first)
        second.on_error(GatewayError("the step failed"))
        assert (await asked).status_code == 500
        assert {await it.engine.aborted.get() for _ in range(2)} == {first.id, second.id}


async def test_the_sdk_gets_log_probabilities() -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.chat.completions.create(
                model="tiny", messages=HELLO, logprobs=True, top_logprobs=1
            )
        )
        submission = await it.engine.submitted.get()
        assert submission.sampling.logprobs == 1
        (token,) = TOKENIZER.encode("hello")
        submission.on_token(Output(token, None, Logprobs(-0.5, ((token, -0.5),))))
        submission.on_token(Output(IM_END, Finish.STOP, Logprobs(-0.1, ((IM_END, -0.1),))))
        finish(submission)
        logprobs = (await asked).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(each.token, each.logprob) for each in logprobs.content] == [("hello", -0.5)]
    assert logprobs.content[0].top_logprobs[0].bytes == list(b"hello")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hello", TOKENIZER.encode("hello")])
async def test_an_echo_begins_with_the_prompt(stream: bool, prompt: Any) -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.completions.create(model="tiny", prompt=prompt, echo=True, stream=stream)
        )
        submission = await it.engine.submitted.get()
        say(submission, " world")
        finish(submission)
        answer: Any = await asked
        chunks = [chunk async for chunk in answer] if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello world"


async def test_the_assistants_last_message_can_be_continued() -> None:
    async with line() as it:
        begun = [*HELLO, {"role": "assistant", "content": "he"}]
        asked = asyncio.create_task(it.post(messages=begun, continue_final_message=True))
        submission = await it.engine.submitted.get()
        finish(submission)
        await asked
    assert TOKENIZER.decode(submission.prompt).endswith("<|im_start|>assistant\nhe")


async def test_a_prompt_can_be_counted_before_it_is_sent() -> None:
    async with line() as it:
        chat = (await it.http.post("/tokenize", json=CHAT)).json()
        text = (await it.http.post("/tokenize", json={"prompt": "hello world"})).json()
        back = await it.http.post("/detokenize", json={"tokens": chat["tokens"]})
    tokens = ChatTemplate(CHATML, TOKENIZER).encode(Chat(HELLO))
    assert chat == {"count": len(tokens), "max_model_len": 256, "tokens": tokens}
    assert text["tokens"] == TOKENIZER.encode("hello world")
    assert back.json() == {"prompt": TOKENIZER.decode(tokens)}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt"}, 404, "model"),
        ("/tokenize", {"text": "a"}, 400, "text"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [100_000]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "gpt"}, 404, "model"),
    ],
)
async def test_what_cannot_be_tokenised_is_refused_with_its_place(
    path: str, body: dict[str, Any], status: int, param: str
) -> None:
    async with line() as it:
        answer = await it.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_metrics_are_prometheus_text_under_vllms_names() -> None:
    async with line() as it:
        answer = await it.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert "# TYPE vllm:num_requests_running gauge" in lines
    assert 'vllm:num_requests_running{model_name="tiny"} 1' in lines
    assert 'vllm:num_requests_waiting{model_name="tiny"} 2' in lines
    assert 'vllm:kv_cache_usage_perc{model_name="tiny"} 0.125' in lines
    assert 'vllm:num_preemptions_total{model_name="tiny"} 0' in lines


async def test_a_long_prompt_is_tokenised_beside_the_loop() -> None:
    async with line() as it:
        text = "hello" * 10_000
        asked = asyncio.create_task(it.post("/v1/completions", prompt=text, messages=None))
        submission = await it.engine.submitted.get()
        finish(submission)
        assert (await asked).status_code == 200
    assert submission.prompt == tuple(TOKENIZER.encode(text))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", ["", "hello"])
async def test_hanging_up_aborts_the_request(stream: bool, said: str) -> None:
    """Before the first token and after it, streamed or not."""
    async with line() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.http.base_url.port)
        body = json.dumps(CHAT | {"stream": stream}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: replica\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        submission = await it.engine.submitted.get()
        say(submission, said)
        if stream and said:
            assert b"hello" in await reader.readuntil(b"hello")
        assert it.engine.aborted.empty()
        writer.close()
        await writer.wait_closed()
        assert await asyncio.wait_for(it.engine.aborted.get(), timeout=5) == submission.id


async def test_an_error_before_the_first_byte_has_its_status() -> None:
    async with line() as it:
        asked = asyncio.create_task(it.post(stream=True))
        (await it.engine.submitted.get()).on_error(GatewayError("the step failed"))
        answer = await asked
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the step failed"


async def test_an_error_after_the_first_byte_ends_the_stream_without_done() -> None:
    async with line() as it:
        asked = asyncio.create_task(
            it.sdk.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        )
        submission = await it.engine.submitted.get()
        say(submission, "hello")
        stream = await asked
        await anext(stream)
        await anext(stream)
        submission.on_error(GatewayError("the step failed"))
        with pytest.raises(openai.APIError, match="the step failed"):
            await anext(stream)


async def test_a_request_that_the_engine_gives_up_does_not_look_whole() -> None:
    async with line() as it:
        asked = asyncio.create_task(it.post())
        finish(await it.engine.submitted.get(), Finish.ABORTED)
        assert (await asked).status_code == 503


@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry_after"),
    [
        (ContextLengthExceeded("too long"), 400, "context_length_exceeded", None),
        (RateLimited("full", retry_after_s=1.2), 429, "rate_limit_exceeded", "2"),
        (RateLimited("full", retry_after_s=500.0), 429, "rate_limit_exceeded", "60"),
    ],
)
async def test_what_the_engine_refuses_is_told(
    refusal: Exception, status: int, code: str, retry_after: str | None
) -> None:
    async with line() as it:
        it.engine.refusal = refusal
        answer = await it.post(stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == retry_after


async def test_an_unexpected_failure_tells_nothing_of_the_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with line() as it:
        it.engine.refusal = KeyError("private words")
        answer = await it.post(messages=[{"role": "user", "content": "private words"}])
    assert answer.status_code == 500
    assert "private" not in answer.text
    assert "private" not in caplog.text
    assert "KeyError" in caplog.text


Ask = Callable[[httpx.AsyncClient], Any]


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda c: c.get("/v2/models"), 404, "not_found"),
        (lambda c: c.get("/v1/models/"), 404, "not_found"),
        (lambda c: c.get("/v1/completions"), 405, "invalid_request_error"),
        (lambda c: c.post("/v1/completions", content=b"{"), 400, "invalid_request_error"),
        (lambda c: c.post("/v1/completions", content=b" " * 5000), 413, "request_too_large"),
        (
            lambda c: c.post("/v1/chat/completions", json=CHAT | {"model": "gpt"}),
            404,
            "model_not_found",
        ),
        (
            lambda c: c.post("/v1/chat/completions", content=b'{"\\ud800": 1}'),
            400,
            "invalid_request_error",
        ),
    ],
)
async def test_every_refusal_is_openais_error_object(ask: Ask, status: int, code: str) -> None:
    async with line(most_body=4096) as it:
        answer = await ask(it.http)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error.keys() == {"message", "type", "param", "code"}


async def test_a_model_without_a_template_only_completes() -> None:
    async with line(template=None) as it:
        answer = await it.post()
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("secret", "header"), [(SECRET, None), (SECRET, "wrong"), (None, ""), (None, "None")]
)
async def test_gateway_fields_are_refused_without_the_secret(
    secret: str | None, header: str | None
) -> None:
    async with line(secret=secret) as it:
        headers = {} if header is None else {"x-replica-secret": header}
        asked = it.http.post(
            "/v1/chat/completions", json=CHAT | {"cache_salt": "t"}, headers=headers
        )
        answer = await asked
    assert answer.status_code == 403
    assert answer.json()["error"]["param"] == "cache_salt"


@pytest.mark.parametrize("stream", [False, True])
async def test_with_the_secret_fields_count_and_the_report_comes(stream: bool) -> None:
    async with line() as it:
        fields = {"cache_salt": "t", "priority": 0, "session_id": "s", "stream": stream}
        options = {"stream_options": {"include_usage": True}} if stream else {}
        asked = asyncio.create_task(
            it.http.post(
                "/v1/chat/completions",
                json=CHAT | fields | options,
                headers={"x-replica-secret": SECRET},
            )
        )
        submission = await it.engine.submitted.get()
        finish(submission)
        text = (await asked).text
    assert (submission.salt, submission.priority) == (b"t", 0)
    last = text.split("data: ")[-2] if stream else text
    assert json.loads(last)["replica"] == {
        "epoch": "e1",
        "running": 1,
        "queued_tokens": 3,
        "horizon_age_s": 4.5,
    }


async def test_without_the_secret_no_report_comes() -> None:
    async with line() as it:
        asked = asyncio.create_task(it.post())
        finish(await it.engine.submitted.get())
        assert "replica" not in (await asked).json()


async def test_models_health_and_stats_tell_the_state() -> None:
    async with line() as it:
        models = await it.sdk.models.list()
        stats = (await it.http.get("/stats")).json()
        healthy = await it.http.get("/health")
        it.replica.draining.set()
        draining = await it.http.get("/health")
    assert [model.id for model in models.data] == ["tiny", "tiny-2"]
    assert models.data[0].model_extra == {"context_length": 256}
    assert stats == {
        "epoch": "e1",
        "running": 1,
        "queued_tokens": 3,
        "horizon_age_s": 4.5,
        "waiting": 2,
        "block_size": 16,
        "blocks": {"total": 8, "free": 5, "cached": 2, "owned": 1},
        "context_length": 256,
        "busy_s": 0.0,
        "models": ["tiny", "tiny-2"],
    }
    assert (healthy.status_code, draining.status_code) == (200, 503)


async def test_health_is_503_when_the_engine_has_died() -> None:
    async with line() as it:
        assert (await it.http.get("/health")).status_code == 200
        it.engine.accepting = False
        answer = await it.http.get("/health")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "rebound.example"}, {"origin": "null"}],
)
async def test_on_loopback_no_web_page_is_answered(headers: dict[str, str]) -> None:
    async with line(local_only=True) as it:
        refused = await it.http.post("/v1/chat/completions", json=CHAT, headers=headers)
        own = await it.http.get("/v1/models", headers={"origin": "http://localhost:3000"})
    assert (refused.status_code, own.status_code) == (403, 200)
    assert it.engine.submitted.empty()
