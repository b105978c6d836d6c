"""An edit of the config takes effect, under load, and nothing is dropped."""

import asyncio
import signal
from pathlib import Path

import httpx
import openai
import pytest

from gateway.config import load
from gateway.reload import Source
from tests.support.edits import edit
from tests.support.gateways import gateway
from tests.support.processes import serve
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CONFIG = """
policy: mine
policies: ./policies
endpoints:
  u0: {{base_url: "http://unused", models: [m], prices: {{m: {{input: {price}, output: 0}}}}}}
  u1: {{base_url: "http://unused", models: [m]}}
keys: {keys}
"""
OPEN_KEY = "[{name: a, key: 12345678-a}]"
MINE = """
minimize: {in_flight: 1}
pick: {weighted: {weights: {u0: %d, u1: %d}}}
"""

pytestmark = pytest.mark.anyio


class Files:
    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"
        self.policy = folder / "policies" / "mine.yaml"
        self.policy.parent.mkdir()
        self.say()
        self.policy.write_text(MINE % (1, 0))

    def say(self, price: int = 1, keys: str = OPEN_KEY, more: str = "") -> None:
        edit(self.config, CONFIG.format(price=price, keys=keys) + more)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def running(files: Files, *upstreams: Upstream):
    source = Source(files.config, lambda: load(files.config))
    config, rules = source.read()
    given = {"keys": config.keys, "policies": config.policies}
    return gateway(*upstreams, rules=rules, source=source, api_key="12345678-a", **given)


async def config_of(g) -> dict:
    async with httpx.AsyncClient() as client:
        answer = (await client.get(f"{g.url}/health")).json()
    assert answer["status"] == "alive"
    return answer["config"]


async def until(true, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - what is waited for is on the other side
            await asyncio.sleep(0.01)


async def test_an_edited_policy_is_soon_in_force_and_drops_nothing(files, caplog):
    first, second = Upstream(hold_at=1), Upstream()
    answered: list[str] = []

    async with running(files, first, second) as g:

        async def ask_on_and_on() -> None:
            while len(answered) < 10_000 and not stop.is_set():
                answer = await g.sdk.chat.completions.with_raw_response.create(**ASK, stream=True)
                pieces = [c async for c in answer.parse()]
                assert pieces[-1].choices[0].finish_reason == "stop"
                answered.append(answer.headers["x-gateway-endpoint"])

        async def asked_second() -> bool:
            return "u1" in answered

        held = await g.sdk.chat.completions.create(**ASK, stream=True)
        before = await anext(held)  # its stream is under way
        first.hold_at = None
        stop = asyncio.Event()
        load_ = [asyncio.create_task(ask_on_and_on()) for _ in range(8)]

        async def under_load() -> bool:
            return len(answered) >= 20

        await until(under_load)
        assert set(answered) == {"u0"}

        edit(files.policy, MINE % (0, 1))
        await until(asked_second)
        changed_at = answered.index("u1")
        stop.set()
        await asyncio.gather(*load_)  # raises what any of them was refused
        first.release.set()
        rest = [chunk async for chunk in held]

        assert answered[changed_at:].count("u0") < 8  # eight were on their way
        assert before.choices[0].delta.content == "Hel"
        assert [c.choices[0].finish_reason for c in rest][-1] == "stop"
        assert await config_of(g) == {"generation": 2, "last_reload": "ok"}
        assert all(o.error is None for o in g.settled.outcomes)
        assert g.in_flight() == {"u0": 0, "u1": 0}


async def test_a_broken_edit_changes_nothing_and_the_log_says_where_it_is(files, caplog):
    async with running(files, Upstream(), Upstream()) as g:
        edit(files.policy, "minimize: {in_flight: 1}\npick: lowset\n")

        async def failed() -> bool:
            return (await config_of(g))["last_reload"] == "error"

        async def good_again() -> bool:
            return (await config_of(g))["last_reload"] == "ok"

        await until(failed)
        answer = await g.sdk.chat.completions.with_raw_response.create(**ASK)
        assert answer.headers["x-gateway-endpoint"] == "u0"
        (line,) = [r.getMessage() for r in caplog.records if "not reloaded" in r.getMessage()]
        assert f"{files.policy}:2: pick: no picker is called 'lowset'" in line
        assert (await config_of(g))["generation"] == 1

        edit(files.policy, MINE % (0, 1))
        await until(good_again)
        answer = await g.sdk.chat.completions.with_raw_response.create(**ASK)
        assert answer.headers["x-gateway-endpoint"] == "u1"


async def test_a_reload_survives_whatever_goes_wrong_in_it(files, caplog, monkeypatch):
    """A part that raises what it likes is the operator's mistake; what else is raised is ours."""
    part = files.config.parent / "policies" / "filters" / "avoids.py"
    part.parent.mkdir()
    read = Source.read

    async with running(files, Upstream(), Upstream()) as g:

        async def failed() -> bool:
            return (await config_of(g))["last_reload"] == "error"

        async def good_again() -> bool:
            return (await config_of(g))["last_reload"] == "ok"

        edit(part, 'raise RuntimeError("set FOO first")')
        edit(files.policy, MINE % (1, 0))
        await until(failed)
        (line,) = [r.getMessage() for r in caplog.records if "not reloaded" in r.getMessage()]
        assert f"{part} cannot be imported: RuntimeError: set FOO first" in line

        part.unlink()
        await until(good_again)

        monkeypatch.setattr(Source, "read", lambda self: read(self) and {}["a defect"])
        edit(files.policy, MINE % (1, 0))
        await until(failed)
        monkeypatch.undo()

        files.say(keys="[{name: b, key: 12345678-b}]")
        await until(good_again)
        with pytest.raises(openai.AuthenticationError):
            await g.sdk.chat.completions.create(**ASK)


async def test_keys_prices_and_body_limits_are_taken_over(files):
    async with running(files, Upstream(), Upstream()) as g:
        keys = "[{name: b, key: 12345678-b, models: []}]"
        files.say(price=7, keys=keys, more="server: {max_body: 10KB}\n")

        async def taken_over() -> bool:
            return (await config_of(g))["generation"] == 2

        await until(taken_over)
        assert g.gateway.fleet.endpoints["u0"].tariffs["m"].price.input == 7
        with pytest.raises(openai.AuthenticationError):
            await g.sdk.chat.completions.create(**ASK)
        other = g.sdk.with_options(api_key="12345678-b")
        with pytest.raises(openai.NotFoundError):
            await other.chat.completions.create(**ASK)
        with pytest.raises(openai.APIStatusError) as caught:
            await other.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "long " * 3000}]
            )
        assert caught.value.status_code == 413


async def test_what_needs_a_restart_is_named_and_not_done(files, caplog):
    async with running(files, Upstream(), Upstream()) as g:
        url = g.gateway.config.endpoints["u0"].base_url
        config = files.config.read_text().replace("u1:", "u2:")
        edit(files.config, config + "server: {port: 1}\nreplicas: {r: {model: smollm2}}\n")

        async def taken_over() -> bool:
            return (await config_of(g))["generation"] == 2

        await until(taken_over)
        said = {r.getMessage().split()[0] for r in caplog.records if "restart" in r.getMessage()}
        assert said >= {"server.port", "replicas.r", "endpoints.u1", "endpoints.u2"}
        assert not any("policy" in key or "prices" in key for key in said)
        assert list(g.gateway.fleet.endpoints) == ["u0", "u1"]
        assert g.gateway.config.endpoints["u0"].base_url == url


async def test_the_last_key_is_not_taken_away_from_a_running_gateway(files):
    async with running(files, Upstream(), Upstream()) as g:
        files.say(keys="[]")

        async def failed() -> bool:
            return (await config_of(g))["last_reload"] == "error"

        await until(failed)
        with pytest.raises(openai.AuthenticationError):
            await g.sdk.with_options(api_key="none").chat.completions.create(**ASK)


def test_gateway_serve_watches_its_files(files):
    """The process, its log, and a file that another one replaces, as editors do."""
    with serve(files.config, "--port", "0") as serving:
        serving.wait_for("listening on", 30)
        edit(files.policy, "minimize: {in_flight: 1}\npick: lowset\n")
        serving.wait_for(r"not reloaded.*mine\.yaml:2: pick: no picker is called 'lowset'", 30)
        edit(files.policy, MINE % (0, 1))
        serving.wait_for("the config was reloaded: generation 2", 30)
        assert serving.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
