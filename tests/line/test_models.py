"""What a key is told of its models, and what `gateway models` shows of it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.__main__ import main
from gateway.config.bind import Secret
from gateway.config.tree import Key, ModelPrice
from gateway.tariffs import Change, Days
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PRICED = {
    "prices": {"m": ModelPrice(input=1.5, output=6, cached=0.5)},
    "context_length": 4096,
    "capabilities": ("tools", "n"),
    "region": "eu",
}
BARE = {"capabilities": ("vision",)}
KEYS = (
    Key("all", Secret("key-of-all"), tenant="a"),
    Key("one", Secret("key-of-one"), tenant="b", endpoints=("u1",)),
    Key("none", Secret("key-of-none"), tenant="c", models=()),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def told(g: Running, path: str = "", key: str = "", **headers: str) -> httpx.Response:
    if key:
        headers["authorization"] = f"Bearer {key}"
    async with httpx.AsyncClient() as client:
        return await client.get(f"{g.url}/v1/models{path}", headers=headers)


async def test_a_model_is_four_fields_unless_more_is_asked_for() -> None:
    async with gateway(Upstream(), endpoint=PRICED) as g:
        (plain,) = (await told(g)).json()["data"]
        (by_query,) = (await told(g, "?details=true")).json()["data"]
        (by_header,) = (await told(g, **{"x-gateway-details": "true"})).json()["data"]
        one = (await told(g, "/m?details=true")).json()
        wrong = await told(g, "?details=all")
        (sdks,) = [model async for model in await g.sdk.models.list()]
    assert plain.keys() == {"id", "object", "created", "owned_by"}
    assert by_query == by_header == one
    assert sdks.id == "m"
    assert wrong.status_code == 400
    assert "must be true or false" in wrong.json()["error"]["message"]


async def test_details_are_of_each_endpoint_and_nothing_is_made_up() -> None:
    async with gateway(Upstream(), Upstream(), endpoint=[PRICED, BARE]) as g:
        model = (await told(g, "/m?details=true")).json()
    assert (model["context_length"], model["capabilities"]) == (4096, ["n", "tools", "vision"])
    first, second = model["endpoints"]
    assert first == {
        "name": "u0",
        "available": True,
        "context_length": 4096,
        "capabilities": ["n", "tools"],
        "data_policy": "unrestricted",
        "region": "eu",
        "price_per_million": {"input": 1.5, "cached": 0.5, "output": 6},
        "measured": None,
    }
    assert (second["context_length"], second["price_per_million"]) == (None, None)


async def test_the_price_is_the_one_of_this_hour() -> None:
    always = Change(days=Days(range(7)), times=2)
    price = ModelPrice(input=1, output=2, when=(always,))
    async with gateway(Upstream(), endpoint={"prices": {"m": price}}) as g:
        model = (await told(g, "/m?details=true")).json()
    assert model["endpoints"][0]["price_per_million"] == {"input": 2, "cached": None, "output": 4}


async def test_speed_is_as_answers_have_taught_it() -> None:
    async with gateway(Upstream(gap_s=0.01)) as g:
        for _ in range(3):
            async for _event in await g.sdk.chat.completions.create(**ASK, stream=True):
                pass
        await g.settled.wait_for(3)
        measured = (await told(g, "/m?details=true")).json()["endpoints"][0]["measured"]
    assert 2 < measured["answers"] <= 3  # each counts less as it ages
    assert measured["ttft_s"] > 0
    assert 0.005 < measured["seconds_per_token"] < 1
    assert measured["error_rate"] == pytest.approx(0, abs=0.05)


async def test_an_endpoint_that_is_out_of_service_is_told_as_such() -> None:
    async with gateway(Upstream(), drained=("u0",)) as g:
        model = (await told(g, "/m?details=true")).json()
    assert model["endpoints"][0]["available"] is False


async def test_a_key_sees_the_endpoints_and_models_that_it_may_use() -> None:
    async with gateway(Upstream(), Upstream(), endpoint=[PRICED, BARE], keys=KEYS) as g:
        every = (await told(g, "/m?details=true", "key-of-all")).json()
        one = (await told(g, "/m?details=true", "key-of-one")).json()
        nothing = (await told(g, "?details=true", "key-of-none")).json()
        nobody = await told(g, "?details=true")
    assert [e["name"] for e in every["endpoints"]] == ["u0", "u1"]
    assert [e["name"] for e in one["endpoints"]] == ["u1"]
    assert (one["context_length"], one["capabilities"]) == (None, ["vision"])
    assert nothing["data"] == []
    assert nobody.status_code == 401


async def shown(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = await asyncio.to_thread(main, ["models", *args])
    return code, *capsys.readouterr()


async def test_the_terminal_has_a_line_for_each_endpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", "key-of-all")
    async with gateway(Upstream(), Upstream(), endpoint=[PRICED, BARE], keys=KEYS) as g:
        code, out, _ = await shown(capsys, "--url", g.url)
        as_json = json.loads((await shown(capsys, "--url", g.url, "--json"))[1])
        monkeypatch.setenv("GATEWAY_API_KEY", "another-key")
        refused = await shown(capsys, "--url", g.url)
    assert code == 0
    titles, first, second = (line.split() for line in out.splitlines())
    assert titles[:3] == ["MODEL", "ENDPOINT", "CONTEXT"]
    assert first == ["m", "u0", "4,096", "1.5", "0.5", "6", "-", "-", "-", "n,", "tools"]
    assert second == ["m", "u1", "-", "-", "-", "-", "-", "-", "-", "vision"]
    assert [e["name"] for e in as_json[0]["endpoints"]] == ["u0", "u1"]
    assert refused[0] == 1
    assert "key" in refused[2]


async def test_the_terminal_says_when_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = await shown(capsys, "--url", "http://127.0.0.1:9")
    assert (code, out, error) == (1, "", "gateway models: nobody answers at http://127.0.0.1:9\n")
