"""An answer given again has no attempt, and is seen all the same."""

import logging

import httpx
import pytest

from gateway.config.bind import Seconds
from gateway.config.tree import Cache, Ledger, ModelPrice, Tracing
from gateway.ledger.store import opened, read
from tests.line.test_metrics import scraped, value
from tests.support.collector import collecting
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PRICES = {"prices": {"m": ModelPrice(input=10, output=100)}}


async def test_a_hit_names_its_model_everywhere_and_costs_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, "gateway.exchange")
    file = tmp_path / "ledger.sqlite"
    options = {"cache": Cache(models={"m": Seconds(60)}), "ledger": Ledger(file)}
    async with collecting() as (url, collector):
        tracing = Tracing(endpoint=url)
        async with gateway(Upstream(), endpoint=PRICES, tracing=tracing, **options) as g:
            for _ in range(2):
                await g.sdk.chat.completions.create(**ASK)
            await g.settled.wait_for(2)
            found = await scraped(g)
            async with httpx.AsyncClient() as client:
                state = (await client.get(f"{g.url}/dashboard/api/state")).json()
        spans = await collector.wait_for(4)

    with opened(file) as connection:
        miss, hit = read(connection)
    assert (miss.model, miss.endpoint, hit.model, hit.endpoint) == ("m", "u0", "m", "cache")
    assert (hit.prompt_tokens, hit.completion_tokens) == (11, 3)
    assert hit.charged_usd == hit.cost_usd == 0 < miss.charged_usd

    assert "model=m tried=- tokens=11(3)+3" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(f" cache=hit trace={hit.trace_id}")

    assert value(found, "gateway_exchanges_total", model="m", ended="finished", fault="") == 2
    assert value(found, "gateway_response_cache_total", model="m", found="hit") == 1
    assert value(found, "gateway_response_cache_total", model="m", found="miss") == 1

    latest, first = state["decisions"]
    assert (latest["model"], latest["cache"], latest["tried"]) == ("m", "hit", [])
    assert first["cache"] == "miss"

    (server,) = [s for s in spans if s.trace_id == hit.trace_id]
    assert server.attributes["gateway.cache"] == "hit"
    assert server.attributes["gateway.endpoint"] == "cache"
    assert server.attributes["gen_ai.request.model"] == "m"
