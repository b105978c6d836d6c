"""`x-gateway-explain: 1`: the decision in numbers, for those who may know, and nobody else."""

import json

import httpx
import pytest

from gateway.config.bind import Secret
from gateway.config.tree import Key
from gateway.domain import Considered, Outcome, Principal
from gateway.front.decision import MAX_BYTES, decision_json
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WHY = {"x-gateway-explain": "1"}

pytestmark = pytest.mark.anyio


async def asked(g, headers, **fields):
    async with httpx.AsyncClient() as client:
        url = f"{g.url}/v1/chat/completions"
        return await client.post(url, json=ASK | fields, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_tells_why_it_came_from_there(stream):
    upstream = Upstream()
    async with gateway(upstream, Upstream(), policy="balanced") as g:
        g.gateway.fleet.endpoints["u1"].context_length = 1
        answer = await asked(g, WHY, stream=stream)
    told = json.loads(answer.headers["x-gateway-decision"])
    assert (told["policy"], told["model"], told["chosen"]) == ("balanced", "m", "u0")
    assert told["cut"] == 0
    assert {considered["endpoint"] for considered in told["considered"]} == {"u0", "u1"}
    assert told["considered"][0]["ttft_s"] > 0
    (received,) = upstream.received
    assert "x-gateway-explain" not in received.headers


async def test_it_tells_who_comes_last_because_he_would_refuse():
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}
    async with gateway(Upstream(headers=headers), Upstream()) as g:
        await asked(g, WHY)
        answer = await asked(g, WHY)
    first, last = json.loads(answer.headers["x-gateway-decision"])["considered"]
    assert (first["endpoint"], last["endpoint"]) == ("u1", "u0")
    assert last["limited"] is True
    assert "limited" not in first


async def test_an_error_tells_it_too():
    async with gateway(Upstream(status=500), Upstream(status=500)) as g:
        answer = await asked(g, WHY)
    assert answer.status_code == 502
    assert len(json.loads(answer.headers["x-gateway-decision"])["considered"]) == 2


@pytest.mark.parametrize("headers", [{}, {"x-gateway-explain": "0"}])
async def test_who_does_not_ask_is_told_nothing(headers):
    async with gateway(Upstream()) as g:
        assert "x-gateway-decision" not in (await asked(g, headers)).headers


@pytest.mark.parametrize(("key", "told"), [("12345678-a", True), ("12345678-b", False)])
@pytest.mark.parametrize("status", [200, 500])
async def test_with_keys_only_those_that_may_are_told(key, told, status):
    keys = (
        Key("a", Secret("12345678-a"), explain=True),
        Key("b", Secret("12345678-b")),
    )
    async with gateway(Upstream(status=status), keys=keys) as g:
        answer = await asked(g, WHY | {"authorization": f"Bearer {key}"})
    assert ("x-gateway-decision" in answer.headers) is told


def test_what_does_not_fit_is_cut_from_the_end_and_counted():
    names = [f"café-{i}\r\nx-evil: 1" for i in range(100)]
    outcome = Outcome("id", Principal("acme", "web"), 0.0, policy="p", model="m")
    outcome.considered = tuple(Considered(name, None, cost=1 / 3, ttft_s=2e9 / 3) for name in names)
    header = decision_json(outcome)
    told = json.loads(header)
    assert MAX_BYTES - 300 < len(header) <= MAX_BYTES
    assert header.isascii()
    assert header.isprintable()
    assert [c["endpoint"] for c in told["considered"]] == names[: 100 - told["cut"]]
    assert told["considered"][0]["cost"] == 0.333333
