"""What each provider does that no other does: our reading of their documents, as examples."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.emulator.callers import CHAT, asking, events, until

pytestmark = pytest.mark.anyio

REASONING = {**CHAT, "reasoning_effort": "low"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Baseten


async def test_baseten_errors_are_texts_and_want_of_capacity_is_529() -> None:
    async with asking(
        "baseten", replicas=1, slots=1, max_queued=1, tokens_per_s=4.0, speed=1.0
    ) as caller:
        running = [asyncio.create_task(caller.ask()) for _ in range(2)]
        await until(lambda: caller.endpoint.service.machine.waiting == 1)
        refused = await caller.ask()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert refused.status_code == 529
    assert isinstance(refused.json()["error"], str)


async def test_baseten_keeps_a_session_on_one_replica() -> None:
    async with asking("baseten", replicas=8) as caller:
        for _ in range(4):
            await caller.ask(x_session_affinity="s-1")
        cached = [charge.cached_tokens > 0 for charge in caller.endpoint.bill.charges]
    assert cached == [False, True, True, True]


async def test_a_dedicated_baseten_takes_api_key_and_no_bearer() -> None:
    async with asking("baseten-dedicated") as caller:
        assert (await caller.ask(authorization="Bearer key-1")).status_code == 401
        assert (await caller.ask()).status_code == 200


async def test_a_cold_dedicated_baseten_holds_the_request_until_it_runs() -> None:
    async with asking("baseten-dedicated", cold_start_s=1000.0) as caller:  # 1 s at this speed
        asked = asyncio.create_task(caller.ask())
        await until(lambda: caller.endpoint.requests)
        assert caller.endpoint.service.machine.start() > 0
        assert (await asked).status_code == 200


async def test_a_cold_dedicated_baseten_can_be_woken() -> None:
    async with asking("baseten-dedicated", cold_start_s=50.0) as caller:
        woken = await caller.client.post(caller.endpoint.origin + "/production/wake")
        await until(lambda: not caller.endpoint.service.machine.start())
    assert woken.status_code == 202


async def test_a_dedicated_baseten_gives_up_holding_with_504() -> None:
    async with asking("baseten-dedicated", cold_start_s=5000.0, wait_s=50.0) as caller:
        assert (await caller.ask()).status_code == 504


# Fireworks


async def test_fireworks_tells_usage_unasked_in_the_finish_event() -> None:
    async with asking("fireworks") as caller:
        plain = events(await caller.stream())
        told = events(await caller.stream(perf_metrics_in_response=True))
    assert plain[-1]["usage"]["prompt_tokens"] > 0
    assert plain[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in event for event in plain[:-1])
    assert int(told[-1]["perf_metrics"]["prompt-tokens"]) == told[-1]["usage"]["prompt_tokens"]


async def test_fireworks_counts_in_headers_where_the_answer_is_whole() -> None:
    async with asking("fireworks", replicas=1) as caller:
        for _ in range(2):
            answer = await caller.ask()
        streamed = await caller.ask({**CHAT, "stream": True})
    usage = answer.json()["usage"]
    assert int(answer.headers["fireworks-prompt-tokens"]) == usage["prompt_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert int(answer.headers["fireworks-cached-prompt-tokens"]) == cached > 0
    assert not [name for name in streamed.headers if name.startswith("fireworks-")]


async def test_a_cold_fireworks_deployment_refuses_at_once_and_then_runs() -> None:
    async with asking("fireworks-dedicated", cold_start_s=100.0) as caller:
        cold = await caller.ask()
        await until(lambda: not caller.endpoint.service.machine.start())
        warm = await caller.ask()
    assert cold.status_code == 503
    assert cold.json()["error"]["code"] == "DEPLOYMENT_SCALING_UP"
    assert warm.status_code == 200


async def test_fireworks_cuts_what_is_too_long_unless_told_otherwise() -> None:
    async with asking("fireworks", context_tokens=64) as caller:
        cut = await caller.ask()
        told = {"context_length_exceeded_behavior": "error"}
        refused = await caller.ask({**CHAT, **told})
        both = await caller.ask({**CHAT, "max_tokens": 1, "max_completion_tokens": 1})
    assert cut.json()["usage"]["prompt_tokens"] < 64
    assert (refused.status_code, both.status_code) == (400, 400)


async def test_fireworks_isolation_keys_keep_caches_apart() -> None:
    async with asking("fireworks", replicas=1) as caller:
        for tenant in ("a", "b", "a"):
            await caller.ask({**CHAT, "prompt_cache_isolation_key": tenant})
        cached = [charge.cached_tokens > 0 for charge in caller.endpoint.bill.charges]
    assert cached == [False, False, True]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fireworks", {"prompt_cache_key": "s"}),
        ("fireworks", {"user": "s"}),
        ("together-dedicated", {"prompt_cache_key": "s"}),
        ("openrouter", {"session_id": "s"}),
        ("deepinfra", {"prompt_cache_key": "s"}),
        ("cerebras", {"prompt_cache_key": "s"}),
    ],
)
async def test_a_hint_in_the_body_finds_the_cache_again(name: str, hint: dict[str, str]) -> None:
    async with asking(name, replicas=16) as caller:
        for _ in range(3):
            await caller.ask({**CHAT, **hint})
        cached = [charge.cached_tokens > 0 for charge in caller.endpoint.bill.charges]
    assert cached == [False, True, True]


async def test_priority_costs_more_and_is_echoed_where_that_is_so() -> None:
    async with asking("deepinfra", replicas=1) as caller:
        answer = (await caller.ask({**CHAT, "service_tier": "priority"})).json()
        charge = caller.endpoint.bill.charges[0]
    plain = caller.endpoint.profile.settings.usd(
        charge.prompt_tokens, charge.cached_tokens, charge.completion_tokens
    )
    assert answer["service_tier"] == charge.tier == "priority"
    assert answer["usage"]["estimated_cost"] == charge.usd == pytest.approx(1.5 * plain)


async def test_the_first_token_is_sooner_and_cheaper_where_the_prompt_is_cached() -> None:
    async with asking("fireworks", replicas=16, prefill_tokens_per_s=100.0) as caller:
        told = [await caller.ask({**CHAT, "prompt_cache_key": "s"}) for _ in range(2)]
        first, second = caller.endpoint.bill.charges
    seconds = [float(each.headers["fireworks-server-time-to-first-token"]) for each in told]
    assert seconds[1] < seconds[0] / 4
    assert second.usd < first.usd / 2


# Modal


async def test_modal_wants_key_and_secret() -> None:
    async with asking("modal-server") as caller:
        assert (await caller.ask(modal_secret="")).status_code == 401
        assert (await caller.ask()).status_code == 200


async def test_a_modal_function_redirects_to_its_result() -> None:
    async with asking("modal-function", cold_start_s=400.0) as caller:  # 150 s is 0.15 s here
        answer = await caller.ask()
        hops = 0
        while answer.status_code == 303:
            hops += 1
            where = answer.headers["location"]
            assert where.startswith(caller.endpoint.url + "/chat/completions?")
            answer = await caller.client.get(where)
        charges = caller.endpoint.bill.charges
    assert hops == 2
    assert answer.json()["object"] == "chat.completion"
    assert len(charges) == 1


async def test_a_modal_server_without_a_replica_is_503_in_its_health_too() -> None:
    async with asking("modal-server", cold_start_s=100.0) as caller:
        health = caller.endpoint.origin + "/health"
        assert (await caller.ask()).status_code == 503
        assert (await caller.client.get(health)).status_code == 503
        await until(lambda: not caller.endpoint.service.machine.start())
        assert (await caller.client.get(health)).status_code == 200
        assert (await caller.ask()).status_code == 200


@pytest.mark.parametrize("header", ["modal_session_id", "modal_routing_affinity_key"])
async def test_a_modal_server_finds_a_sessions_replica_again(header: str) -> None:
    async with asking("modal-server", replicas=8) as caller:
        for _ in range(3):
            await caller.ask(**{header: "s-1"})
        cached = [charge.cached_tokens > 0 for charge in caller.endpoint.bill.charges]
    assert cached == [False, True, True]


# Together


async def test_together_ends_with_eos_and_refuses_too_much_context_with_403() -> None:
    async with asking("together", context_tokens=500) as caller:
        answer = (await caller.ask()).json()
        refused = await caller.ask({**CHAT, "max_tokens": 499})
        reasoned = (await caller.ask(REASONING)).json()
    assert answer["choices"][0]["finish_reason"] == "eos"
    assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert refused.status_code == 403
    assert "must be <= 500" in refused.json()["error"]["message"]
    assert reasoned["choices"][0]["message"]["reasoning"]


async def test_together_is_429_above_the_dynamic_rate_and_503_below_it() -> None:
    async with asking("together", requests_per_minute=2) as caller:
        got = [(await caller.ask()) for _ in range(3)]
        below = await caller.ask(fault="{status: 503}")
    assert [answer.status_code for answer in got] == [200, 200, 429]
    assert (got[1].headers["x-ratelimit-limit"], below.status_code) == ("2", 503)
    assert got[2].headers["x-ratelimit-remaining"] == "0"
    assert "x-cluster" in got[0].headers


async def test_a_stopped_together_endpoint_is_a_routing_error() -> None:
    async with asking("together-dedicated", cold_start_s=100.0) as caller:
        refused = await caller.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "routing_error")


# OpenRouter


async def test_openrouter_comments_until_the_first_token_and_always_tells_the_cost() -> None:
    async with asking("openrouter", overhead_s=100.0) as caller:  # 0.1 s at this speed
        text = await caller.stream()
        charge = caller.endpoint.bill.charges[0]
    before, _, after = text.partition("data: ")
    assert set(before.split("\n\n")) == {": OPENROUTER PROCESSING", ""}
    assert ": OPENROUTER" not in after
    usage = events(text)[-1]["usage"]
    assert usage["cost"] == usage["cost_details"]["upstream_inference_cost"] == charge.usd > 0


async def test_openrouter_charges_nothing_for_an_answer_that_failed() -> None:
    async with asking("openrouter") as caller:
        told = events(await caller.stream("{error: 3}"))
        await until(lambda: caller.endpoint.bill.charges)
    assert told[-1]["choices"][0]["finish_reason"] == "error"
    assert told[-1]["error"]["code"] == 500
    assert caller.endpoint.bill.usd == 0


async def test_openrouter_says_when_to_come_back() -> None:
    async with asking("openrouter", requests_per_minute=1) as caller:
        await caller.ask()
        refused = await caller.ask()
    assert refused.status_code == 429
    assert 50 < float(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["availability"]["retryable"]


# Groq and Cerebras


async def test_groq_tells_usage_in_x_groq() -> None:
    async with asking("groq") as caller:
        told = events(await caller.stream())
        whole = await caller.ask()
    assert set(told[0]["x_groq"]) == {"id"}
    assert told[-1]["x_groq"]["usage"]["completion_tokens"] > 0
    assert "usage" not in told[-1]
    assert whole.json()["usage"]["total_time"] > 0
    assert whole.headers["x-ratelimit-limit-requests"] == "500000"
    assert re.fullmatch(r"(\d+m)?[\d.]+m?s", whole.headers["x-ratelimit-reset-tokens"])


async def test_groqs_limits_name_the_seconds_and_flex_is_498() -> None:
    async with asking("groq", tokens_per_minute=200) as caller:
        got = [await caller.ask() for _ in range(2)]
        flex = await caller.ask({**CHAT, "service_tier": "flex"})
    assert [answer.status_code for answer in got] == [200, 429]
    assert 0 < float(got[1].headers["retry-after"]) <= 60
    assert (flex.status_code, flex.json()["error"]["code"]) == (498, "capacity_exceeded")


async def test_groq_refuses_structured_streams() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    async with asking("groq") as caller:
        streamed = await caller.ask({**CHAT, "stream": True, "response_format": wanted})
        whole = await caller.ask({**CHAT, "response_format": wanted})
    assert (streamed.status_code, whole.status_code) == (400, 200)


async def test_cerebras_times_itself_and_caches_128_tokens_at_a_time() -> None:
    async with asking("cerebras") as caller:
        told = events(await caller.stream())
        await caller.ask()
        answer = await caller.ask()
        warming = await caller.client.get(caller.endpoint.url + "/tcp_warming")
    assert told[-1]["time_info"]["total_time"] > 0
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] % 128 == 0
    assert float(answer.headers["x-ratelimit-reset-tokens-minute"]) >= 0
    assert "x-ratelimit-limit-requests-day" in answer.headers
    assert warming.status_code == 200


# DeepInfra, DeepSeek, Hugging Face


async def test_deepinfra_limits_what_runs_at_once() -> None:
    async with asking("deepinfra", concurrency=1, tokens_per_s=4.0, speed=1.0) as caller:
        running = asyncio.create_task(caller.ask())
        await until(lambda: caller.endpoint.service.machine.load)
        refused = await caller.ask()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        forced = await caller.ask({**CHAT, "tools": [{"function": {}}], "tool_choice": "required"})
    assert (refused.status_code, refused.json()) == (429, {"detail": "Rate limited"})
    assert "retry-after" not in refused.headers
    assert forced.json()["detail"][0]["loc"] == ["body", "tool_choice"]


async def test_deepseek_sends_blank_lines_and_comments_while_one_waits() -> None:
    async with asking("deepseek", overhead_s=100.0) as caller:
        whole = await caller.ask()
        streamed = await caller.stream()
        again = (await caller.ask()).json()["usage"]
    assert whole.text.startswith("\n")
    assert whole.json()["object"] == "chat.completion"
    assert streamed.startswith(": keep-alive\n\n")
    assert events(streamed)[-1]["usage"]["prompt_tokens"] > 0
    assert again["prompt_cache_hit_tokens"] > 0
    missed = again["prompt_tokens"] - again["prompt_cache_hit_tokens"]
    assert again["prompt_cache_miss_tokens"] == missed


async def test_the_hugging_face_router_lists_providers_and_knows_their_names() -> None:
    async with asking("huggingface") as caller:
        url = caller.endpoint.url
        listed = (await caller.client.get(url + "/models")).json()["data"][0]["providers"]
        good = await caller.ask({**CHAT, "model": "org/name:cheapest"})
        bad = await caller.ask({**CHAT, "model": "org/name:nobody"})
    assert {"status", "pricing", "context_length", "throughput"} <= set(listed[0])
    assert (good.status_code, bad.status_code) == (200, 400)


# Engines


@pytest.mark.parametrize("name", ["vllm", "sglang"])
async def test_an_engine_goes_on_where_the_assistants_message_ends(name: str) -> None:
    async with asking(name) as caller:
        whole = (await caller.ask()).json()["choices"][0]["message"]["content"]
        cut = (await caller.ask({**CHAT, "max_tokens": 5})).json()["choices"][0]["message"]
        messages = [*CHAT["messages"], cut]
        asked = {"continue_final_message": True, "add_generation_prompt": False}
        rest = await caller.ask({**CHAT, "messages": messages, **asked})
    assert cut["content"] + rest.json()["choices"][0]["message"]["content"] == whole


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("vllm", ["vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]),
        ("sglang", ["sglang:num_queue_reqs", "sglang:token_usage"]),
        ("llama-cpp", ["llamacpp:requests_deferred", "llamacpp:requests_processing"]),
    ],
)
async def test_an_engine_tells_of_itself_without_a_key(name: str, metrics: list[str]) -> None:
    async with asking(name, slots=1, speed=1.0, tokens_per_s=4.0) as caller:
        running = [asyncio.create_task(caller.ask()) for _ in range(3)]
        await until(lambda: caller.endpoint.service.machine.waiting == 2)
        page = await caller.client.get(caller.endpoint.origin + "/metrics")
        health = await caller.client.get(caller.endpoint.origin + "/health")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    value = {line.split()[0].partition("{")[0]: line.split()[1] for line in page.text.splitlines()}
    assert value[metrics[0]] == "2"
    assert metrics[1] in value
    assert health.status_code == 200


async def test_vllms_cache_salt_keeps_caches_apart() -> None:
    async with asking("vllm") as caller:
        for salt in ("a", "b", "a"):
            await caller.ask({**CHAT, "cache_salt": salt})
        cached = [charge.cached_tokens > 0 for charge in caller.endpoint.bill.charges]
    assert cached == [False, False, True]


async def test_a_loading_llama_cpp_says_so() -> None:
    async with asking("llama-cpp", cold_start_s=1000.0) as caller:
        health = await caller.client.get(caller.endpoint.origin + "/health")
    error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
    assert (health.status_code, health.json()) == (503, {"error": error})


# OpenAI's own shape


async def test_openai_usage_is_null_until_its_own_event() -> None:
    async with asking("openai", requests_per_minute=2) as caller:
        asked = events(await caller.stream(stream_options={"include_usage": True}))
        unasked = events(await caller.stream())
        refused = await caller.ask()
    assert [event["usage"] for event in asked[:-1]] == [None] * (len(asked) - 1)
    assert (asked[-1]["choices"], asked[-1]["usage"]["completion_tokens"] > 0) == ([], True)
    assert all("usage" not in event for event in unasked)
    assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")


async def test_each_key_has_limits_of_its_own() -> None:
    async with asking("openai", requests_per_minute=1) as caller:
        got = [await caller.ask(authorization=f"Bearer {key}") for key in ("a", "a", "b")]
    assert [answer.status_code for answer in got] == [200, 429, 200]


async def test_completions_are_answered_too() -> None:
    async with asking("openai") as caller:
        url = caller.endpoint.url + "/completions"
        body = {"model": "m", "prompt": "Once upon", "max_tokens": 4}
        whole = (await caller.client.post(url, json=body)).json()
        streamed = await caller.client.post(url, json={**body, "stream": True})
    pieces = [event["choices"][0]["text"] for event in events(streamed.text)]
    assert "".join(pieces) == whole["choices"][0]["text"]
    assert (whole["object"], whole["usage"]["completion_tokens"]) == ("text_completion", 4)
