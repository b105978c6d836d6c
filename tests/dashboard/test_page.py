"""The page and what it reads, without a browser."""

import os

import httpx
import pytest

from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Key, Secret
from gateway.dashboard.page import STATIC
from gateway.dashboard.siblings import Siblings
from gateway.errors import UpstreamBusy, UpstreamUnreachable
from gateway.rules import always
from routing_policies.catalog import Catalog
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
KEYS = (
    Key("web", Secret("12345678-web")),
    Key("boss", Secret("12345678-boss"), tenant="staff", admin=True),
)
BOSS = {"authorization": "Bearer 12345678-boss"}


async def test_the_page_holds_no_data_and_may_talk_to_nobody_else():
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        page = await client.get("/dashboard")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for file in STATIC.iterdir():
            if file.name != "index.html":
                assert (await client.get(f"/dashboard/{file.name}")).status_code == 200
        for name in ("../page.py", "%2e%2e%2fpage.py", "none.js", "index.html"):
            assert (await client.get(f"/dashboard/{name}")).status_code == 404


def test_the_page_loads_nothing_from_elsewhere_and_has_nothing_inline():
    for file in STATIC.iterdir():
        text = file.read_text()
        if file.name.startswith("uplot"):
            continue
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), file
        assert "innerHTML" not in text
        assert "<style" not in text
        assert " style=" not in text
        assert " onclick" not in text


async def test_only_an_admins_key_sees_what_others_did():
    paths = ("/dashboard/api/state", "/dashboard/api/policies", "/metrics")
    async with (
        gateway(Upstream(), keys=KEYS, api_key="12345678-web") as g,
        httpx.AsyncClient(base_url=g.url) as client,
    ):
        for path in paths:
            assert (await client.get(path)).status_code == 401
            web = {"authorization": "Bearer 12345678-web"}
            assert (await client.get(path, headers=web)).status_code == 403
            assert (await client.get(path, headers=BOSS)).status_code == 200
        assert (await client.get("/dashboard")).status_code == 200  # it asks for the key


async def test_the_state_tells_of_endpoints_and_decisions():
    async with (
        gateway(Upstream(status=500), Upstream(), endpoint={"dedicated": True}) as g,
        httpx.AsyncClient(base_url=g.url) as client,
    ):
        await g.sdk.chat.completions.create(**ASK)
        state = (await client.get("/dashboard/api/state")).json()
    assert state["models"] == {"m": ["u0", "u1"]}
    assert state["endpoints"]["u0"]["failed"] == 1
    second = state["endpoints"]["u1"]
    assert (second["answered"], second["state"], second["in_flight"]) == (1, "up", 0)
    assert second["hit_rate"] == pytest.approx(3 / 11)
    assert second["first_p50_s"] > 0
    (decision,) = state["decisions"]
    assert decision["tried"] == [
        {"endpoint": "u0", "error": "upstream_refused"},
        {"endpoint": "u1", "error": None},
    ]
    assert [c["endpoint"] for c in decision["candidates"]] == ["u0", "u1"]
    expected, actual = decision["forecast"]["cached_tokens"]
    assert (expected, actual) == (0, 3)
    series = state["series"]
    assert len(series["at"]) == len(series["endpoints"]["u1"]["first_p95_s"])
    assert sum(series["endpoints"]["u1"]["tokens_per_s"]) == pytest.approx(3 / 5)


async def test_an_endpoint_is_shown_as_it_is():
    """Drained, resting as it asked to, failing, down: by the worst that is true of it."""
    async with gateway(*(Upstream() for _ in range(5))) as g:
        await g.reached()
        endpoints, now = g.gateway.fleet.endpoints, g.gateway.clock()
        endpoints["u1"].drained = True
        endpoints["u2"].failed("m", UpstreamBusy("full", retry_after_s=30), now)
        for _ in range(5):
            endpoints["u3"].failed("m", UpstreamUnreachable("refused"), now)
        endpoints["u4"].gone("it ended")
        async with httpx.AsyncClient(base_url=g.url) as client:
            state = (await client.get("/dashboard/api/state")).json()
    assert [e["state"] for e in state["endpoints"].values()] == [
        *("up", "drained", "resting", "ejected", "down")
    ]
    whys = [e["why"] for e in state["endpoints"].values()]
    assert whys[0] is None
    assert whys[3].endswith("refused"), "its last failure"
    assert whys[4] == "it ended"
    assert all(whys[1:])


async def test_a_policy_is_shown_with_the_file_that_it_is_from():
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        (policy,) = (await client.get("/dashboard/api/policies")).json()
    assert policy["name"] == "cache_aware"
    assert policy["file"] == "cache_aware.yaml"
    assert "minimize" in policy["text"]
    assert len(policy["version"]) == 12


async def test_a_worker_that_was_started_with_another_config_is_shown_as_far_as_it_goes(tmp_path):
    """One that died, and came back when the config had other endpoints."""
    other = {
        "started": 1.0,
        "config": {"generation": 1, "reload": "ok"},
        "endpoints": {},
        "seen": {"buckets": {}, "decisions": []},
    }
    async with gateway(Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        dashboard = g.gateway.seeing.dashboard
        vars(dashboard)["siblings"] = Siblings(tmp_path, dashboard.told)
        async with Siblings(tmp_path, lambda: other).running():
            (tmp_path / f"{os.getpid()}.sock").rename(tmp_path / "other.sock")
            state = (await client.get("/dashboard/api/state")).json()
    assert state["workers"] == 2
    assert state["endpoints"]["u0"]["state"] == "up"


async def test_a_policy_whose_file_is_gone_is_shown_without_its_text(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text((PACKAGED / "cheapest.yaml").read_text())
    rules = always(load_policy(mine, Catalog.load()))
    options = {"policies": tmp_path, "rules": rules}
    async with gateway(Upstream(), **options) as g, httpx.AsyncClient(base_url=g.url) as client:
        mine.unlink()
        (policy,) = (await client.get("/dashboard/api/policies")).json()
    assert (policy["name"], policy["text"]) == ("mine", "")


async def test_it_can_be_switched_off():
    async with (
        gateway(Upstream(), dashboard=False) as g,
        httpx.AsyncClient(base_url=g.url) as client,
    ):
        assert (await client.get("/dashboard")).status_code == 404
        assert (await client.get("/metrics")).status_code == 200
