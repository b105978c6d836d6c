"""Keys made, rotated and revoked while the gateway runs."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.__main__ import main
from gateway.admission.key_store import MadeKeys
from gateway.config.bind import Secret
from gateway.config.tree import Key, State, WhenLost
from gateway.errors import NotFound
from gateway.state.connect import connect
from gateway.state.embedded import embedded
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

KEYS = (
    Key("root", Secret("sk-the-operator"), admin=True),
    Key("app", Secret("sk-some-application")),
)
ROOT = {"authorization": "Bearer sk-the-operator"}

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["file", "redis"])
def state(request, tmp_path):
    if request.param == "file":
        yield State(keys_file=tmp_path / "keys.json")
    else:
        with embedded() as server:
            yield State(redis=Secret(server.url))


async def status(client, url: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return (await client.get(f"{url}/v1/models", headers=headers)).status_code


async def becomes(client, url: str, key: str, wanted: int) -> None:
    async with asyncio.timeout(5):  # what is promised
        while await status(client, url, key) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_key_is_made_used_rotated_and_revoked_on_every_gateway(state):
    async with (
        gateway(Upstream(), keys=KEYS, state=state) as one,
        gateway(Upstream(), keys=KEYS, state=state) as two,
        httpx.AsyncClient() as client,
    ):
        path = f"{one.url}/admin/keys"
        given = {"name": "web", "tenant": "acme", "models": [], "expires": "2099-01-01"}
        made = await client.post(path, headers=ROOT, json=given)
        body = made.json()
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        await becomes(client, two.url, body["key"], 200)
        models = await client.get(
            f"{two.url}/v1/models", headers={"authorization": f"Bearer {body['key']}"}
        )
        assert models.json()["data"] == [], "its scope came with it"

        rotated = (await client.post(f"{path}/{body['id']}/rotate", headers=ROOT)).json()
        await becomes(client, two.url, rotated["key"], 200)
        await becomes(client, two.url, body["key"], 401)

        listed = await client.get(f"{two.url}/admin/keys", headers=ROOT)
        assert [k["name"] for k in listed.json()["data"]] == ["web"]
        assert not any(secret in listed.text for secret in (rotated["key"], "sha256", "hash"))

        assert (await client.delete(f"{path}/web", headers=ROOT)).status_code == 200
        await becomes(client, one.url, rotated["key"], 401)
        await becomes(client, two.url, rotated["key"], 401)
        assert (await client.delete(f"{path}/web", headers=ROOT)).status_code == 404


async def test_only_an_admin_may_and_mistakes_are_named(tmp_path):
    state = State(keys_file=tmp_path / "keys.json")
    app = {"authorization": "Bearer sk-some-application"}
    async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
        path = f"{g.url}/admin/keys"
        for method, url in [
            ("GET", path),
            ("POST", path),
            ("DELETE", f"{path}/root"),
            ("POST", f"{path}/root/rotate"),
        ]:
            assert (await client.request(method, url, headers=app)).status_code == 403
            assert (await client.request(method, url)).status_code == 401
        for given, named in [
            ({}, "name"),
            ({"name": "x", "hash": "sha256:0"}, "hash"),
            ({"name": "x", "modles": []}, "modles"),
            ({"name": "x", "models": "m"}, "models"),
            ({"name": "x", "request_class": "royal"}, "request_class"),
            ({"name": "x", "admin": "yes"}, "admin"),
            ({"name": "x", "expires": "soon"}, "expires"),
            ({"name": "x", "limits": {"request": {}}}, "'request'; it has: requests"),
            ({"name": "x", "limits": {"requests": {"hour": 1}}}, "limits.requests has no 'hour'"),
            ({"name": "x", "limits": {"tokens": {"day": "1"}}}, "limits.tokens.day"),
            ({"name": "x", "limits": {"tokens": {"day": 0}}}, "more than 0"),
            ({"name": "x", "limits": {"concurrent": 1.5}}, "limits.concurrent"),
            ({"name": "x", "limits": {"tokens": {"day": 10**400}}}, "too large"),
            ({"name": "x", "models": ["m", "n"]}, "there is no 'n' here; known: m"),
            ({"name": "x", "policies": ["fast"]}, "there is no 'fast' here; known: cache_aware"),
            ({"name": "x", "endpoints": ["u9"]}, "there is no 'u9' here; known: u0"),
            ({"name": "x", "expires": "2020-01-01"}, "a time to come"),
            ({"name": "app"}, "of this name"),
        ]:
            answer = await client.post(path, headers=ROOT, json=given)
            assert (answer.status_code, named in answer.text) == (400, True)
    assert not (tmp_path / "keys.json").exists()


async def test_of_keys_made_at_once_by_several_gateways_none_is_lost(state):
    async with (
        gateway(Upstream(), keys=KEYS, state=state) as one,
        gateway(Upstream(), keys=KEYS, state=state) as two,
        httpx.AsyncClient(timeout=30) as client,
    ):
        paths = (f"{one.url}/admin/keys", f"{two.url}/admin/keys")
        answers = await asyncio.gather(
            *(
                client.post(paths[index % 2], headers=ROOT, json={"name": f"key-{index}"})
                for index in range(24)
            )
        )
        listed = (await client.get(paths[0], headers=ROOT)).json()["data"]
    assert {answer.status_code for answer in answers} == {201}
    assert len(listed) == 24


async def test_a_revoked_key_is_not_brought_back_by_a_rotation_that_came_late(state):
    class Late(MadeKeys):
        async def _find(self, id):
            found = await super()._find(id)
            await self.store.remove(found.id)  # somebody else's, just now
            return found

    async with gateway(Upstream(), keys=KEYS, state=state) as g:
        keys = MadeKeys(g.gateway.key_store)
        await keys.create({"name": "web"})
        with pytest.raises(NotFound):
            await Late(g.gateway.key_store).rotate("web")
        assert await keys.every() == []


async def test_a_made_key_has_limits_of_its_own_that_outlive_its_rotation(state):
    limits = {"requests": {"day": 2}, "dollars": {"month": 5}}
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
        path, chat = f"{g.url}/admin/keys", f"{g.url}/v1/chat/completions"
        made = await client.post(path, headers=ROOT, json={"name": "web", "limits": limits})
        listed = await client.get(path, headers=ROOT)
        statuses = []
        for _ in range(3):
            key = (await client.post(f"{path}/web/rotate", headers=ROOT)).json()["key"]
            await becomes(client, g.url, key, 200)
            headers = {"authorization": f"Bearer {key}"}
            answer = await client.post(chat, headers=headers, json=ask)
            statuses.append(answer.status_code)
        other = await client.post(chat, headers=ROOT, json=ask)
    assert made.json()["limits"] == limits
    assert listed.json()["data"][0]["limits"] == limits
    assert statuses == [200, 200, 429]
    assert "2 requests per day of this key" in answer.text
    assert other.status_code == 200


async def test_while_the_store_is_away_known_keys_stay_in_force():
    with embedded() as server:
        state = State(redis=Secret(server.url))
        async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
            made = await client.post(f"{g.url}/admin/keys", headers=ROOT, json={"name": "web"})
            await becomes(client, g.url, made.json()["key"], 200)
            server.stop()
            await asyncio.sleep(1.5)
            assert await status(client, g.url, made.json()["key"]) == 200
            listed = await client.get(f"{g.url}/admin/keys", headers=ROOT)
    assert listed.status_code == 503


async def test_a_made_key_that_cannot_be_checked_is_no_unknown_key():
    with embedded() as server:
        state = State(redis=Secret(server.url))
        async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
            await becomes(client, g.url, "gw-made-a-moment-ago", 401)
            server.stop()
            await becomes(client, g.url, "gw-made-a-moment-ago", 503)
            assert await status(client, g.url, "sk-nobodys") == 401
            server.start()
            await becomes(client, g.url, "gw-made-a-moment-ago", 401)


async def test_keys_that_fail_closed_are_refused_in_time_and_taken_again_without_a_restart():
    with embedded() as server:
        state = State(redis=Secret(server.url), when_lost=WhenLost(keys="closed"))
        async with gateway(Upstream(), keys=KEYS, state=state) as g, httpx.AsyncClient() as client:
            made = await client.post(f"{g.url}/admin/keys", headers=ROOT, json={"name": "web"})
            key, store = made.json()["key"], connect(server.url, 5.0)
            await becomes(client, g.url, key, 200)
            kept = await store.hgetall("{gateway}:keys")
            server.stop()
            await becomes(client, g.url, key, 503)
            assert await status(client, g.url, "sk-some-application") == 200
            server.start()
            await store.hset("{gateway}:keys", mapping=kept)
            await becomes(client, g.url, key, 200)
            await store.aclose()


def test_the_command_line_makes_what_a_gateway_takes(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        "endpoints: {e: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n"
        "keys: [{name: root, key: sk-the-operator, admin: true}]\n"
        "state: {keys_file: keys.json}\n"
    )

    def keys(*arguments: str) -> tuple[int, str, str]:
        code = main(["keys", *arguments, "--config", str(config)])
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = keys("create", "web", "--tenant", "acme", "--request-class", "batch")
    key = out.splitlines()[1]
    stored = (tmp_path / "keys.json").read_text()
    assert code == 0
    assert key.startswith("gw-")
    assert key not in stored
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert json.loads(keys("list")[1])["tenant"] == "acme"
    limits = ("--requests", "minute=60", "day=1000", "--dollars", "day=2.5", "--concurrent", "4")
    assert keys("create", "limited", *limits)[0] == 0
    assert json.loads(keys("list")[1].splitlines()[0])["limits"] == {
        "requests": {"minute": 60, "day": 1000},
        "concurrent": 4,
        "dollars": {"day": 2.5},
    }
    assert "WINDOW=NUMBER" in keys("create", "wrong", "--tokens", "minute")[2]
    assert "no 'month'" in keys("create", "wrong", "--tokens", "month=1")[2]
    assert "of this name" in keys("create", "root")[2]
    assert "no 'n' here; known: m" in keys("create", "wrong", "--models", "n")[2]
    assert "no 'fast' here; known: cache_aware" in keys("create", "wrong", "--policies", "fast")[2]
    assert "a time to come" in keys("create", "wrong", "--expires", "2020-01-01")[2]
    assert keys("revoke", "limited")[0] == 0
    assert keys("create", "web")[0] == 1
    assert keys("revoke", "web")[0] == 0
    assert "no key 'web'" in keys("revoke", "web")[2]


def test_without_a_store_the_command_line_says_what_is_missing(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("endpoints: {e: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n")
    assert main(["keys", "list", "--config", str(config)]) == 2
    assert "set redis or keys_file" in capsys.readouterr().err
