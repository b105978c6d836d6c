"""An answer that broke off goes on elsewhere as if it had not: docs/replica-protocol.md."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from gateway import models
from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammars
from gateway.replica.main import CHUNK_TOKENS, ReplicaSettings, Status, load_backend
from gateway.replica.server import Replica, create_app
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.weights import Weights
from tests.support.fake_backend import FakeBackend
from tests.support.tiny_text import CHATML, tiny_metadata

pytestmark = pytest.mark.anyio

TOKENIZER = Tokenizer(tiny_metadata())
GRAMMARS = Grammars(TOKENIZER)
SECRET = "s3cret"
GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 1.2, "top_p": 0.95, "seed": 7}
PENALISED: dict[str, Any] = SEEDED | {
    "top_k": 100,
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.5,
    "min_tokens": 5,
}


def tiny(context_length: int = 1024) -> Replica:
    backend = FakeBackend(vocabulary=TOKENIZER.vocabulary, context_length=context_length)
    template = ChatTemplate(CHATML, TOKENIZER)
    return Replica(Engine(backend), TOKENIZER, template, GRAMMARS, ("m",), 1, SECRET)


@asynccontextmanager
async def client(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    assert isinstance(replica.engine, Engine)
    transport = httpx.ASGITransport(create_app(replica))
    replica.engine.start()
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as http:
            yield http
    finally:
        replica.engine.stop()


async def ask(replica: Replica, path: str, **fields: Any) -> httpx.Response:
    async with client(replica) as http:
        body = {"model": "m", "return_token_ids": True} | fields
        answer = await http.post(path, json=body, headers={"x-replica-secret": SECRET})
    assert answer.status_code == 200, answer.text
    return answer


@dataclass
class Said:
    """What some consecutive chunks of a stream say."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: str | None = None
    stopped_by: str | None = None
    usage: dict[str, Any] | None = None

    @classmethod
    def of(cls, chunks: list[dict[str, Any]]) -> Said:
        said = cls()
        for chunk in chunks:
            said.usage = chunk["usage"] or said.usage
            for choice in chunk["choices"]:
                delta = choice.get("delta", {"content": choice.get("text")})
                said.text += delta.get("content") or ""
                for call in delta.get("tool_calls", ()):
                    name = call["function"].get("name")
                    said.text += f"<{call['index']} {name}>" if name else ""
                    said.text += call["function"]["arguments"]
                said.token_ids += tuple(choice["token_ids"])
                said.finish = choice["finish_reason"] or said.finish
                said.stopped_by = choice.get("stop_reason") or said.stopped_by
        return said


async def stream(replica: Replica, path: str, **fields: Any) -> list[dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await ask(replica, path, **options, **fields)
    *events, done = answer.text.split("\n\n")[:-1]
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def without_cache(usage: dict[str, Any] | None) -> dict[str, Any]:
    assert usage is not None
    return {name: value for name, value in usage.items() if name != "prompt_tokens_details"}


async def check(
    fresh: Callable[[], Replica], path: str, *, every: int = 1, **fields: Any
) -> list[dict[str, Any]]:
    """Breaks the answer off after every `every`-th chunk; returns the chunks of the whole one."""
    chunks = await stream(fresh(), path, **fields)
    whole = Said.of(chunks)
    assert whole.usage is not None
    assert len(whole.token_ids) == whole.usage["completion_tokens"]
    for cut in range(0, len(chunks), every):
        before = Said.of(chunks[:cut])
        delivered = {"continue_token_ids": before.token_ids} if cut else {}
        rest = Said.of(await stream(fresh(), path, **fields, **delivered))
        assert before.text + rest.text == whole.text, cut
        assert before.token_ids + rest.token_ids == whole.token_ids
        assert (rest.finish, rest.stopped_by) == (whole.finish, whole.stopped_by)
        assert without_cache(rest.usage) == without_cache(whole.usage)
    return chunks


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED, PENALISED])
@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_a_chat_goes_on_after_any_chunk(sampling: dict[str, Any], ignore_eos: bool) -> None:
    asked: Any = sampling | {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
    chunks = await check(tiny, "/v1/chat/completions", ignore_eos=ignore_eos, **asked)
    # many of these tokens are parts of characters, so that some breaks are inside of one
    assert any(len(c["choices"][0]["token_ids"]) > 1 for c in chunks[1:-1]) or not ignore_eos


FORM: Any = {
    "type": "object",
    "properties": {"a": {"enum": [12, 345]}, "b": {"type": "string", "maxLength": 5}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": FORM}}]


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
@pytest.mark.parametrize(
    "form",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": FORM}}},
    ],
)
async def test_calls_and_documents_go_on_after_any_chunk(
    sampling: dict[str, Any], form: dict[str, Any]
) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 120}
    chunks = await check(tiny, "/v1/chat/completions", **sampling, **asked, **form, every=3)
    finish = "tool_calls" if "tools" in form else "stop"
    assert chunks[-2]["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_is_met_across_the_break(
    sampling: dict[str, Any], include: bool
) -> None:
    asked = sampling | {"prompt": "hello", "max_tokens": 40, "ignore_eos": True}
    whole = Said.of(await stream(tiny(), "/v1/completions", **asked)).text
    cut = whole[25:28]
    assert whole.find(cut) == 25
    # the second is begun and not completed: its text is held back for a while
    stop: dict[str, Any] = {
        "stop": [cut, whole[8:10] + "\x00\x00"],
        "include_stop_str_in_output": include,
    }
    chunks = await check(tiny, "/v1/completions", **asked, **stop)
    said = Said.of(chunks)
    assert (said.text, said.finish) == (whole[: 28 if include else 25], "stop")
    assert said.stopped_by == cut


async def test_text_that_was_held_back_at_the_end_is_sent_once() -> None:
    asked: dict[str, Any] = GREEDY | {"prompt": "hello", "max_tokens": 12, "ignore_eos": True}
    whole = Said.of(await stream(tiny(), "/v1/completions", **asked)).text
    chunks = await check(tiny, "/v1/completions", **asked, stop=[whole[-2:] + "\x00"])
    assert Said.of(chunks).text == whole
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-2]["choices"][0]["text"].endswith(whole[-2:])


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_token_ends_a_continued_answer(include: bool) -> None:
    asked: dict[str, Any] = GREEDY | {"prompt": "hello", "max_tokens": 40, "ignore_eos": True}
    tokens = Said.of(await stream(tiny(), "/v1/completions", **asked)).token_ids
    stop: dict[str, Any] = {"stop_token_ids": [tokens[20]], "include_stop_str_in_output": include}
    chunks = await check(tiny, "/v1/completions", **asked, **stop)
    assert Said.of(chunks).finish == "stop"


async def test_an_answer_that_fills_the_context_goes_on_to_its_end() -> None:
    asked: dict[str, Any] = GREEDY | {"prompt": "hello " * 8, "ignore_eos": True}
    small = partial(tiny, context_length=128)
    chunks = await check(small, "/v1/completions", **asked, max_tokens=120)
    said = Said.of(chunks)
    assert (said.finish, said.usage["total_tokens"]) == ("length", 128)


async def test_an_echoed_prompt_is_not_sent_again() -> None:
    asked: dict[str, Any] = GREEDY | {"prompt": "hello", "max_tokens": 5, "echo": True}
    chunks = await check(tiny, "/v1/completions", **asked)
    assert Said.of(chunks).text.startswith("hello")


async def test_a_whole_answer_can_be_the_rest_of_a_stream() -> None:
    asked: dict[str, Any] = SEEDED | {"prompt": "hello", "max_tokens": 30, "logprobs": 1}
    whole = (await ask(tiny(), "/v1/completions", **asked)).json()["choices"][0]
    chunks = await stream(tiny(), "/v1/completions", **asked)
    before = Said.of(chunks[:4])
    asked["continue_token_ids"] = before.token_ids
    rest = (await ask(tiny(), "/v1/completions", **asked)).json()["choices"][0]
    assert before.text + rest["text"] == whole["text"]
    assert [*before.token_ids, *rest["token_ids"]] == whole["token_ids"]
    shown = len(rest["logprobs"]["tokens"])
    for name, values in rest["logprobs"].items():  # offsets too
        assert values == whole["logprobs"][name][-shown:]


@pytest.fixture(scope="module")
def smollm2() -> Callable[[], Replica]:
    weights = Weights.open(models.find("smollm2"))
    tokenizer = Tokenizer(weights.metadata)
    settings = ReplicaSettings("smollm2", kv_tokens=512)
    backend = load_backend(weights, settings, Status(None))
    template = ChatTemplate(str(weights.metadata["tokenizer.chat_template"]), tokenizer)
    grammars = Grammars(tokenizer)

    def fresh() -> Replica:
        engine = Engine(backend, chunk_tokens=CHUNK_TOKENS)
        return Replica(engine, tokenizer, template, grammars, ("m",), 1, SECRET)

    return fresh


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
async def test_the_real_model_goes_on_where_it_was(
    smollm2: Callable[[], Replica], sampling: dict[str, Any]
) -> None:
    question = "Write one sentence about Zürich, with two emojis."
    messages = [{"role": "user", "content": question}]
    asked: dict[str, Any] = sampling | {"messages": messages, "max_tokens": 40}
    await check(smollm2, "/v1/chat/completions", **asked, every=7)
