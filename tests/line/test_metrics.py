"""What Prometheus scrapes, after real traffic."""

import asyncio
import re
import subprocess
import sys

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admission.limits import Dollars, Limits
from gateway.config.tree import Key, ModelPrice, Secret, Tenant
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PRICES = {"prices": {"m": ModelPrice(input=10, output=100)}}


async def scraped(g: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{g.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def test_an_answer_counts_in_time_tokens_and_dollars():
    async with gateway(Upstream(), endpoint=PRICES) as g:
        async for _ in await g.sdk.chat.completions.create(**ASK, stream=True):
            pass
        await g.settled.wait_for(1)
        found = await scraped(g)
    model = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m"}
    place = model | {"gen_ai_provider_name": "u0"}
    for name, labels in (
        ("gen_ai_server_request_duration_seconds_count", model | {"error_type": ""}),
        ("gen_ai_server_time_to_first_token_seconds_count", model),
        ("gen_ai_server_time_per_output_token_seconds_count", model),
        ("gen_ai_client_operation_duration_seconds_count", place | {"error_type": ""}),
        ("gen_ai_client_operation_time_to_first_chunk_seconds_count", place),
        ("gateway_first_token_actual_to_expected_count", {"endpoint": "u0"}),
        ("gateway_exchanges_total", {"model": "m", "ended": "finished", "fault": ""}),
        ("gateway_decisions_total", {"policy": "cache_aware", "reason": "only_candidate"}),
        ("gateway_attempts_total", {"endpoint": "u0", "error_type": ""}),
        ("gateway_endpoint_up", {"endpoint": "u0"}),
        ("gateway_config_generation", {}),
        ("gateway_config_reload_ok", {}),
    ):
        assert value(found, name, **labels) == 1, name
    tokens = "gen_ai_client_token_usage_sum"
    assert value(found, tokens, **place, gen_ai_token_type="input") == 11
    assert value(found, tokens, **place, gen_ai_token_type="output") == 3
    assert value(found, tokens, **place, gen_ai_token_type="cached_input") == 3
    dollars = {"endpoint": "u0", "model": "m"}
    spent = value(found, "gateway_cost_dollars_total", **dollars, billed_by="tariff")
    assert spent == pytest.approx((11 * 10 + 3 * 100) / 1e6)
    assert value(found, "gateway_expected_cost_dollars_total", **dollars) > 0
    assert value(found, "gateway_cached_tokens_total", **dollars) == 3
    assert value(found, "gateway_endpoint_in_flight", endpoint="u0") == 0
    for name in ("gateway_spans_dropped", "gateway_ledger_dropped"):
        assert value(found, name) == 0


async def test_fallbacks_rejections_and_what_was_shed_are_counted_by_cause():
    async with gateway(Upstream(status=500), Upstream(), Upstream()) as g:
        g.gateway.fleet.endpoints["u2"].drained = True
        await g.sdk.chat.completions.create(**ASK)
        with pytest.raises(openai.NotFoundError):
            await g.sdk.chat.completions.create(**{**ASK, "model": "no such model"})
        found = await scraped(g)
    assert value(found, "gateway_fallbacks_total", endpoint="u1", after="upstream_refused") == 1
    assert value(found, "gateway_rejections_total", endpoint="u2", filter="healthy") == 1
    assert value(found, "gateway_shed_total", error_type="model_not_found") == 1
    assert value(found, "gateway_endpoint_up", endpoint="u2") == 0
    assert value(found, "gateway_endpoint_drained", endpoint="u2") == 1
    assert value(found, "gateway_endpoint_ejected", endpoint="u0") == 0
    assert not any("no such model" in str(key) for key in found)


async def test_who_is_refused_at_the_door_is_counted_by_cause_and_not_by_what_he_said():
    keys = (Key("web", Secret("12345678-web")), Key("boss", Secret("12345678-boss"), admin=True))
    async with gateway(Upstream(), keys=keys) as g, httpx.AsyncClient(base_url=g.url) as web:
        for key in ("sk-canary-one", "sk-canary-two"):
            headers = {"authorization": f"Bearer {key}"}
            for path in ("chat/completions", "messages/count_tokens", "responses/input_tokens"):
                answer = await web.post(f"/v1/{path}", json=ASK, headers=headers)
                assert answer.status_code == 401
        assert (await web.get("/canary")).status_code == 404
        assert (await web.put("/v1/models")).status_code == 405
        headers = {"authorization": "Bearer 12345678-web"}
        assert (await web.get("/metrics", headers=headers)).status_code == 403
        headers = {"authorization": "Bearer 12345678-boss"}
        text = (await web.get("/metrics", headers=headers)).text
    refused = {line for line in text.splitlines() if line.startswith("gateway_refused_total")}
    assert refused == {
        'gateway_refused_total{error_type="invalid_api_key"} 6.0',
        'gateway_refused_total{error_type="not_found"} 2.0',
        'gateway_refused_total{error_type="permission_denied"} 1.0',
    }
    assert "canary" not in text


async def test_a_web_page_that_is_refused_is_counted():
    async with gateway(Upstream()) as g:
        async with httpx.AsyncClient(headers={"origin": "https://elsewhere.example"}) as web:
            assert (await web.get(f"{g.url}/v1/models")).status_code == 403
        found = await scraped(g)
    assert value(found, "gateway_refused_total", error_type="permission_denied") == 1


async def test_what_is_left_of_tenants_budgets_is_told_and_of_no_others():
    tenants = {
        "default": Tenant(Limits(dollars=Dollars(day=2.0, month=50.0))),
        "idle": Tenant(Limits(dollars=Dollars(month=7.0))),
        "free": Tenant(Limits(concurrent=4)),
    }
    async with gateway(Upstream(), endpoint=PRICES, tenants=tenants) as g:
        await g.sdk.chat.completions.create(**ASK)
        await g.settled.wait_for(1)
        found = await scraped(g)
    left, of = "gateway_tenant_budget_left_dollars", "gateway_tenant_budget_dollars"
    spent = (11 * 10 + 3 * 100) / 1e6
    assert value(found, left, tenant="default", window="day") == pytest.approx(2.0 - spent)
    assert value(found, left, tenant="default", window="month") == pytest.approx(50.0 - spent)
    assert value(found, of, tenant="default", window="month") == 50.0
    assert value(found, left, tenant="idle", window="month") == 7.0
    assert "free" not in str(list(found))


async def test_ten_thousand_tenants_with_budgets_have_no_more_than_a_thousand_labels():
    tenants = {f"t{n}": Tenant(Limits(dollars=Dollars(day=1.0))) for n in range(10_000)}
    async with gateway(Upstream(), tenants=tenants) as g:
        found = await scraped(g)
    assert sum(name == "gateway_tenant_budget_left_dollars" for name, _ in found) == 1000


async def test_no_label_names_a_user_a_session_or_a_request():
    async with gateway(Upstream()) as g:
        headers = {"x-request-id": "the-request"}
        await g.sdk.chat.completions.create(
            **ASK, user="the-user", extra_headers=headers, extra_body={"session_id": "the-session"}
        )
        found = await scraped(g)
    text = str(list(found))
    assert not re.search("the-(user|session|request)", text)
    assert "tenant" not in text


async def test_what_is_in_flight_shows_while_it_is():
    upstream = Upstream(hold_at=1)
    async with gateway(upstream) as g:
        answer = await g.sdk.chat.completions.create(**ASK, stream=True)
        await anext(aiter(answer))
        assert value(await scraped(g), "gateway_endpoint_in_flight", endpoint="u0") == 1
        await answer.close()
        await asyncio.wait_for(upstream.hung_up.wait(), 10)
        await g.settled.wait_for(1)
        assert value(await scraped(g), "gateway_endpoint_in_flight", endpoint="u0") == 0


async def test_what_ends_with_the_gateway_is_counted_for_those_that_go_on():
    async with gateway(Upstream()) as g:
        await g.sdk.chat.completions.create(**ASK)
        await scraped(g)
        await g.sdk.chat.completions.create(**ASK)
    told = g.gateway.seeing.metrics.exposition().decode()
    assert 'gateway_attempts_total{endpoint="u0",error_type=""} 2.0' in told


WORKER = """
import sys
from gateway.domain import Attempt, Ended, Operation, Outcome, Principal
from gateway.telemetry.metrics import Metrics

metrics = Metrics(lambda: {"endpoint_in_flight": {"a": 2.0}, "config_generation": {"": 3.0}})
for _ in range(5):
    outcome = Outcome("r", Principal("t", "k"), 0.0, Operation.CHAT, ended=Ended.FINISHED)
    outcome.finished, outcome.attempts = 1.0, [Attempt("a", 0.0, last_event=1.0)]
    metrics.settled(outcome)
metrics.refresh()
print("counted", flush=True)
sys.stdin.readline()
print(metrics.exposition().decode())
"""


def test_whichever_of_several_workers_is_scraped_answers_for_all(tmp_path):
    """Two processes that share a folder, as workers do."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "counted\n"
    text, _ = workers[0].communicate("\n", timeout=30)
    workers[1].communicate("\n", timeout=30)
    assert 'gateway_attempts_total{endpoint="a",error_type=""} 10.0' in text
    assert 'gateway_endpoint_in_flight{endpoint="a"} 4.0' in text
    assert "gateway_config_generation 3.0" in text
