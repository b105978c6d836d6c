"""Engines' own servers: what they tell of themselves, and how they go on with an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.domain import Delivered, EndpointStats
from gateway.errors import (
    UpstreamCold,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamUnreachable,
)
from gateway.providers.base import Continuation
from gateway.providers.catalog import dialect_names, find_dialect
from tests.support.hosted import Hosted, Reply, answer, replies, speaking
from tests.support.requests import chat, completion

pytestmark = pytest.mark.anyio

FROM_TEXT = [n for n in dialect_names() if find_dialect(n).continuation is Continuation.TEXT]

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="theirs/m"} 3.0
vllm:num_requests_running{engine="1",model_name="theirs/m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="theirs/m"} 4.0
vllm:num_requests_waiting{engine="1",model_name="theirs/m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="theirs/m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="theirs/m"} 0.5
"""
OLDER_VLLM = VLLM.replace(b"kv_cache_usage_perc", b"gpu_cache_usage_perc")
SGLANG = b"""sglang:num_running_reqs{model_name="theirs/m"} 5.0
sglang:num_queue_reqs{model_name="theirs/m"} 4.0
sglang:token_usage{model_name="theirs/m"} 0.5
"""
LLAMA = b"""llamacpp:requests_processing 5
llamacpp:requests_deferred 4
"""
MODELS = {
    "data": [
        {"id": "theirs/m", "max_model_len": 8192},
        {"id": "another", "max_model_len": 16},
        {"id": "theirs/m", "max_model_len": "long"},
    ]
}


@pytest.mark.parametrize(
    ("dialect", "metrics", "kv_usage"),
    [
        ("vllm", VLLM, 0.5),
        ("vllm", OLDER_VLLM, 0.5),
        ("sglang", SGLANG, 0.5),
        ("llama_cpp", LLAMA, None),
        ("llama_cpp", LLAMA + b"llamacpp:kv_cache_usage_ratio 0.5\n", 0.5),
    ],
)
async def test_it_tells_its_load_and_its_context(
    dialect: str, metrics: bytes, kv_usage: float | None
) -> None:
    pages = {
        "/metrics": Reply(body=metrics),
        "/v1/models": Reply(body=MODELS),
        "/props": Reply(body={"default_generation_settings": {"n_ctx": 8192}}),
    }
    async with speaking(dialect, Hosted(pages=pages), base="/v1") as provider:
        told = await provider.stats()
    assert told == EndpointStats(running=5, waiting=4, kv_usage=kv_usage, context_length=8192)


@pytest.mark.parametrize("dialect", FROM_TEXT)
@pytest.mark.parametrize(
    "page",
    [
        Reply(501, b"not started with it"),
        Reply(404, b""),
        Reply(body=b"<html>"),
        Reply(body=b"[" * 100_000),
        Reply(body=b"vllm:num_requests_running NaN\nsglang:num_running_reqs -3\n"),
        Reply(body=b'{"default_generation_settings": {"n_ctx": -1}, "data": [7, {"id": 1}]}'),
    ],
)
async def test_who_does_not_tell_or_tells_nonsense_is_only_there(dialect: str, page: Reply) -> None:
    async with speaking(dialect, Hosted([page])) as provider:
        assert await provider.stats() == EndpointStats()


@pytest.mark.parametrize(
    ("slots", "running"),
    [
        ([{"is_processing": True}, {"is_processing": False}, {"is_processing": True}], 2),
        ([{"is_processing": False}], 0),
        ([{"is_processing": 1}], None),
        ([], None),
    ],
)
async def test_llama_cpp_shows_its_slots_without_metrics(slots: object, running: int) -> None:
    pages = {"/slots": Reply(body=slots)}
    async with speaking("llama_cpp", Hosted([Reply(501, b"")], pages), base="/v1") as provider:
        assert await provider.stats() == EndpointStats(running=running)


@pytest.mark.parametrize("dialect", FROM_TEXT)
async def test_who_is_not_there_is_unreachable(dialect: str) -> None:
    async with speaking(dialect, Hosted()) as provider:
        away = replace(provider, base_url="http://127.0.0.1:9/v1")
        with pytest.raises(UpstreamUnreachable):
            await away.stats()


@pytest.mark.parametrize("dialect", FROM_TEXT)
async def test_an_answer_is_continued_from_its_text(dialect: str) -> None:
    hosted = Hosted()
    delivered = Delivered("Once upon", (5, 6, 7))
    async with speaking(dialect, hosted) as provider:
        for asked in (
            chat("Tell me", stream=True, max_tokens=10),
            completion("It was:", stream=True, max_tokens=2),
        ):
            await answer(provider, replace(asked, delivered=delivered))
    spoken, completed = (r.body for r in hosted.received)
    assert spoken["messages"][-1] == {"role": "assistant", "content": "Once upon"}
    assert (spoken["continue_final_message"], spoken["add_generation_prompt"]) == (True, False)
    assert spoken["max_tokens"] == 7
    assert completed["prompt"] == "It was:Once upon"
    assert completed["max_tokens"] == 1, "there is no asking for nothing"


async def test_a_prompt_of_token_ids_has_no_text_to_go_on_from() -> None:
    hosted = Hosted()
    asked = replace(completion([1, 2, 3], stream=True), delivered=Delivered("x", None))
    async with speaking("vllm", hosted) as provider:
        with pytest.raises(UpstreamRefused):
            await answer(provider, asked)
    assert hosted.received == []


async def test_vllm_keeps_tenants_caches_apart() -> None:
    hosted = Hosted()
    async with speaking("vllm", hosted) as provider:
        for tenant in ("ann", "ann", "bob"):
            await answer(provider, chat("hi", tenant=tenant))
    ann, again, bob = (r.body["cache_salt"] for r in hosted.received)
    assert ann == again != bob


async def test_what_503_means_differs() -> None:
    kinds = {"vllm": UpstreamRefused, "sglang": UpstreamOverloaded, "llama_cpp": UpstreamCold}
    for dialect, kind in kinds.items():
        async with speaking(dialect, replies(Reply(503, {"error": {"code": 503}}))) as provider:
            with pytest.raises(kind) as caught:
                await answer(provider, chat("hi"))
            assert type(caught.value) is kind
