"""A newcomer's gateway: `gateway serve`, two replicas of the real model, the OpenAI SDK."""

import asyncio
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import openai
import pydantic
import pytest
from anthropic import Anthropic
from openai import OpenAI

from gateway.domain import InferenceRequest
from gateway.providers.dialects.replica import Replica
from gateway.providers.http1 import Http1Client
from gateway.providers.keys import Keys
from gateway.providers.reading import Timeouts
from gateway.tokenizers import counter
from tests.support.processes import Serving, serve
from tests.support.requests import chat

CONFIG = """
server: {drain: 5s}
replicas:
  smollm2: {model: smollm2, count: 2, kv_tokens: 8192}
keys:
  - {name: ann, tenant: ann, key: "${ANN_KEY}"}
  - {name: bob, tenant: bob, key: "${BOB_KEY}"}
"""
BLOCK = 16


@dataclass
class Local:
    serving: Serving
    url: str
    replicas: dict[str, str]  # name -> URL
    pids: dict[str, int]
    ann: OpenAI
    bob: OpenAI

    def stats(self, name: str) -> dict:
        with urllib.request.urlopen(f"{self.replicas[name]}/stats", timeout=5) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    config: Path = tmp_path_factory.mktemp("serve") / "config.yaml"
    config.write_text(CONFIG)
    with serve(config, "--port", "0", ANN_KEY="sk-ann-ann", BOB_KEY="sk-bob-bob") as serving:
        found = [
            serving.wait_for(r"\[(smollm2-\d)\] ready at (\S+) \(pid (\d+)\)", 300)
            for _ in range(2)
        ]
        shown = re.search(r'Ready[^"]*"(\S+)/v1"', "".join(serving.lines))
        assert shown is not None
        url = shown[1]
        with (
            OpenAI(base_url=f"{url}/v1", api_key="sk-ann-ann", max_retries=0) as ann,
            OpenAI(base_url=f"{url}/v1", api_key="sk-bob-bob", max_retries=0) as bob,
        ):
            replicas = {match[1]: match[2] for match in found}
            pids = {match[1]: int(match[3]) for match in found}
            yield Local(serving, url, replicas, pids, ann, bob)
        code = serving.stop()
    assert code in (0, 130)
    for replica in found:  # nothing is left behind
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{replica[2]}/health")


def ask(client: OpenAI, *contents: str, **options):
    """Contents alternate between user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return client.chat.completions.with_raw_response.create(
        model="smollm2",
        messages=messages,
        **{"temperature": 0, "max_tokens": 24, **options},
    )


def test_the_model_answers(local: Local):
    answer = ask(local.ann, "Write one sentence about the sea.").parse()
    assert len(answer.choices[0].message.content) > 20
    assert answer.usage.completion_tokens <= 24
    assert answer.model == "smollm2"


def test_a_stream_says_the_same_as_a_whole_answer(local: Local):
    whole = ask(local.ann, "Name three colours.").parse().choices[0].message.content
    stream = ask(local.ann, "Name three colours.", stream=True).parse()
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == whole


def test_completions_go_on_with_the_text(local: Local):
    answer = local.ann.completions.create(
        model="smollm2", prompt="One, two, three, four,", max_tokens=6, temperature=0
    )
    assert "five" in answer.choices[0].text


def test_conversations_stay_with_the_replica_that_has_them_cached(local: Local):
    """From the second turn on at least the previous prompt's full blocks are not computed again."""
    talks = {
        name: [f"My name is {name} and I like {thing}. Tell me something about it."]
        for name, thing in {"Ada": "old clocks", "Eve": "sailing boats"}.items()
    }
    previous: dict[str, int] = {}
    homes: dict[str, set[str]] = {name: set() for name in talks}
    for turn in range(4):
        for name, contents in talks.items():
            raw = ask(local.ann, *contents)
            answer = raw.parse()
            cached = answer.usage.prompt_tokens_details.cached_tokens
            if turn:
                assert cached >= previous[name] // BLOCK * BLOCK > 0
            previous[name] = answer.usage.prompt_tokens
            homes[name].add(raw.headers["x-gateway-endpoint"])
            contents += [answer.choices[0].message.content, f"And then? ({turn})"]
    assert [len(where) for where in homes.values()] == [1, 1]


def test_a_tenant_never_finds_what_another_has_cached(local: Local):
    secret = "The code word of our project is heliotrope, and nobody else may know it. " * 4
    for client, expected in ((local.ann, False), (local.bob, False), (local.ann, True)):
        usage = ask(client, secret, max_tokens=1).parse().usage
        assert (usage.prompt_tokens_details.cached_tokens >= BLOCK * 3) is expected


@pytest.mark.parametrize("field", [{"cache_salt": "x"}, {"priority": 0}, {"session_id": "x"}])
def test_a_replicas_own_port_takes_owned_fields_from_the_gateway_only(local: Local, field):
    for url in local.replicas.values():
        for headers in ({}, {"x-replica-secret": "guess"}):
            with (
                OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as direct,
                pytest.raises(openai.PermissionDeniedError),
            ):
                ask(direct, "hi", extra_body=field, extra_headers=headers)


def test_what_the_gateway_sees_of_a_replica_is_not_for_others(local: Local):
    (url, *_) = local.replicas.values()
    with OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as direct:
        assert b"epoch" not in ask(direct, "hi", max_tokens=1).content


def test_a_prompt_beyond_the_context_is_refused_by_name(local: Local):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(local.ann, "word " * 9000)
    assert caught.value.code == "context_length_exceeded"


def test_what_the_replica_does_not_do_is_refused_by_name(local: Local):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(local.ann, "hi", n=99)
    assert caught.value.param == "n"


class Weather(pydantic.BaseModel):
    city: Literal["Bern", "Oslo", "Rome"]
    days: int = pydantic.Field(ge=1, le=7)
    warm: bool


WEATHER = openai.pydantic_function_tool(Weather, name="get_weather", description="Tells weather.")
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_required_call_is_streamed_and_valid(local: Local, choice):
    messages = [{"role": "user", "content": "How will the weather be in Oslo this week?"}]
    asked = {"model": "smollm2", "messages": messages, "tools": [WEATHER], "temperature": 0}
    deltas = []
    with local.ann.chat.completions.stream(
        **asked, tool_choice=choice, parallel_tool_calls=False
    ) as stream:
        for event in stream:
            if event.type == "chunk":
                deltas += (
                    event.chunk.choices[0].delta.tool_calls or () if event.chunk.choices else ()
                )
        answer = stream.get_final_completion().choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(call.function.parsed_arguments, Weather)
    assert (deltas[0].id, deltas[0].function.name) == (call.id, "get_weather")
    assert len(deltas) > 5
    assert "".join(d.function.arguments for d in deltas) == call.function.arguments


def test_a_conversation_goes_on_after_a_call(local: Local):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "snow"}'},
    ]
    answer = local.ann.chat.completions.create(
        model="smollm2", messages=messages, tools=[WEATHER], max_tokens=8, temperature=0
    )
    assert answer.usage.completion_tokens > 0


def test_the_sdk_parses_what_it_asked_for(local: Local):
    answer = local.ann.chat.completions.parse(
        model="smollm2",
        messages=[{"role": "user", "content": "The weather in Rome for three days, please."}],
        response_format=Weather,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)
    anything = local.ann.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Answer with an empty JSON object."}],
        response_format={"type": "json_object"},
        max_tokens=40,
    )
    assert anything.choices[0].message.content.startswith("{")


def test_a_response_calls_a_tool_and_goes_on_after_it(local: Local):
    tool = {"type": "function", **WEATHER["function"]}
    asked = {"model": "smollm2", "tools": [tool], "temperature": 0}
    with local.ann.responses.stream(
        **asked, input="How will the weather be in Oslo?", tool_choice="required"
    ) as stream:
        first = stream.get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert all(Weather.model_validate_json(call.arguments) for call in calls)
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "snow"}
        for call in calls
    ]
    second = local.ann.responses.create(
        **asked, previous_response_id=first.id, input=outputs, max_output_tokens=16
    )
    assert calls
    assert second.usage.output_tokens > 0
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        local.bob.responses.retrieve(first.id)  # another tenant's


def test_a_message_calls_a_tool_and_goes_on_after_it(local: Local):
    function = WEATHER["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    asked = {"model": "smollm2", "max_tokens": 64, "tools": [tool]}
    messages = [{"role": "user", "content": "How will the weather be in Oslo?"}]
    with Anthropic(base_url=local.url, api_key="sk-ann-ann", max_retries=0) as ann:
        with ann.messages.stream(
            **asked,
            messages=messages,
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        ) as stream:
            first = stream.get_final_message()
        (call,) = [block for block in first.content if block.type == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "snow"}
        messages += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = ann.messages.create(**asked, messages=messages)
        counted = ann.messages.count_tokens(model="smollm2", messages=messages[:1])
    assert Weather.model_validate(call.input)
    assert second.usage.output_tokens > 0
    assert 5 < counted.input_tokens < 100


def test_a_form_that_cannot_be_kept_to_is_refused_with_the_reason(local: Local):
    unkept = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        ask(local.ann, "hi", response_format=unkept)
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError, match="not among the tools") as caught:
        ask(local.ann, "hi", tools=[WEATHER], tool_choice={**NAMED, "function": {"name": "f"}})
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_frees_the_replica(local: Local, stream: bool):
    """6,000 tokens take minutes; the blocks must be free long before."""
    with httpx.Client(timeout=httpx.Timeout(0.5 if not stream else 10)) as client:
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "Write a very long story about a dragon."}],
            "max_tokens": 6000,
            "ignore_eos": True,
            "temperature": 1.3,
            "stream": stream,
        }
        headers = {"authorization": "Bearer sk-ann-ann"}
        url = f"{local.url}/v1/chat/completions"
        if stream:
            with client.stream("POST", url, json=body, headers=headers) as response:
                next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(url, json=body, headers=headers)
    deadline = time.monotonic() + 8
    while busy := [n for n in local.replicas if local.stats(n)["running"]]:
        assert time.monotonic() < deadline, f"{busy} still run what nobody reads"
        time.sleep(0.01)
    assert all(local.stats(n)["blocks"]["owned"] == 0 for n in local.replicas)


def told(client: OpenAI, topic: str) -> Iterator[str]:
    """A greedy story, piece by piece; each about something else, so that none is cached."""
    with ask(client, f"Tell a story about {topic}.", max_tokens=40, stream=True).parse() as stream:
        for chunk in stream:
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""


def test_streams_of_a_replica_that_is_killed_end_as_if_it_had_not_been(local: Local):
    topics = [
        f"{who} and {what}"
        for who in ("a cat", "a king", "a ship", "a nurse")
        for what in ("the sea", "a clock", "two brothers", "the snow", "an old tree")
    ]
    with ThreadPoolExecutor(len(topics)) as threads:
        undisturbed = list(threads.map(lambda topic: "".join(told(local.ann, topic)), topics))
        streaming = threading.Barrier(len(topics) + 1)

        def disturbed(topic: str) -> str:
            pieces = told(local.bob, topic)  # whose tenant has nothing cached yet
            begun = "".join(next(pieces) for _ in range(4))
            streaming.wait(60)
            return begun + "".join(pieces)

        running = [threads.submit(disturbed, topic) for topic in topics]
        streaming.wait(60)
        os.kill(local.pids["smollm2-1"], signal.SIGKILL)
        assert [stream.result() for stream in running] == undisturbed
    again = local.serving.wait_for(r"\[smollm2-1\] ready at (\S+) \(pid (\d+)\)", 120)
    assert any("resumed=smollm2-0" in line for line in local.serving.lines)
    local.replicas["smollm2-1"], local.pids["smollm2-1"] = again[1], int(again[2])


def test_a_replica_that_dies_is_restarted_and_missed_by_nobody(local: Local):
    """Last, because it gives a replica a new address."""
    os.kill(local.pids["smollm2-0"], signal.SIGKILL)
    for _ in range(5):
        assert ask(local.ann, "Are you there?", max_tokens=4).parse().choices
    local.serving.wait_for(r"smollm2-0.*SIGKILL", 30)
    again = local.serving.wait_for(r"\[smollm2-0\] ready at (\S+)", 120)
    local.replicas["smollm2-0"] = again[1]
    assert local.stats("smollm2-0")["running"] == 0


def test_the_gateway_counts_a_prompt_as_the_replica_does(local: Local):
    texts = ("Why is the sea salt?", "Rivers. \u00e9\u4e2d\U0001f30a", "And the rivers?")
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]
    usage = local.ann.chat.completions.create(
        model="smollm2", messages=messages, max_tokens=1
    ).usage
    assert counter("smollm2")(chat(*texts)) == usage.prompt_tokens
    assert asyncio.run(told_by_the_replica(local, chat(*texts))) == usage.prompt_tokens
    assert asyncio.run(told_by_the_replica(local, chat("hi", tools=[{}]))) is None
    usage = local.ann.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "hi"}],
        tools=[WEATHER],
        max_completion_tokens=1,
    ).usage
    asked = chat("hi", tools=[WEATHER])
    assert counter("smollm2")(asked) == usage.prompt_tokens
    assert asyncio.run(told_by_the_replica(local, asked)) == usage.prompt_tokens


async def told_by_the_replica(local: Local, request: InferenceRequest) -> int | None:
    client = Http1Client()
    url = f"{local.replicas['smollm2-0']}/v1"
    replica = Replica(client, url, {"m": "smollm2"}, Keys([], time.monotonic), Timeouts())
    try:
        return await replica.count(request)
    finally:
        await client.aclose()
