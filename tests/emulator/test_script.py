"""Which request meets which fault."""

from __future__ import annotations

from pathlib import Path
from random import Random

import httpx
import pytest

from gateway.config.document import ConfigError
from gateway.emulator.faults import NONE
from gateway.emulator.script import Facing, Faults, parse_script, read_script
from tests.emulator.callers import CHAT, asking
from tests.support.serving import NO_TLS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def statuses(script: str, count: int = 10, *, profile: str = "openai", seed: int = 0) -> list[int]:
    """Of the first requests, one each second; 200 without a fault."""
    faults = Faults(profile, parse_script(script).rules, seed)
    chosen = (faults.choose(number, number - 1.0, "m", False) for number in range(1, count + 1))
    return [fault.status or 200 for fault in chosen]


@pytest.mark.parametrize(
    ("conditions", "met"),
    [
        ("requests: 3", [3]),
        ("requests: 3-5", [3, 4, 5]),
        ("requests: 8-", [8, 9, 10]),
        ("every: 4", [4, 8]),
        ("after: 2s, until: 5s", [3, 4, 5]),
        ("every: 2, until: 5s", [2, 4]),
        ("profile: groq", []),
        ("profile: openai, requests: 1", [1]),
        ("model: other", []),
        ("stream: true", []),
        ("stream: false, model: m", list(range(1, 11))),
    ],
)
def test_a_rules_conditions_must_all_hold(conditions: str, met: list[int]) -> None:
    got = statuses(f"rules: [{{{conditions}, fault: {{status: 503}}}}]")
    assert [number for number, status in enumerate(got, 1) if status == 503] == met


def test_the_first_rule_that_fits_decides() -> None:
    script = "rules: [{requests: 2, fault: {status: 429}}, {fault: {status: 503}}]"
    assert statuses(script, 3) == [503, 429, 503]


def test_chance_is_the_seeds() -> None:
    script = "rules: [{probability: 0.5, fault: {status: 503}}]"
    first = statuses(script, 200)
    assert first == statuses(script, 200)
    assert first != statuses(script, 200, seed=1)
    assert 70 < first.count(503) < 130


def test_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "outage.yaml"
    for text, says in (
        ("rules:\n  - request: 3\n    fault: {}", "outage.yaml:2: rules[0].request"),
        ("rules:\n  - requests: 0\n    fault: {}", "must be a request's number"),
        ("rules:\n  - probability: 2\n    fault: {}", "probability must be above 0"),
        ("settings:\n  openai: {replicas: 0}", "must be at least 1"),
        ("settings:\n  openai: {replica: 2}", "did you mean 'replicas'?"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as refused:
            read_script(file)
        assert says in str(refused.value)


async def test_the_header_comes_before_the_queue_and_the_queue_before_the_script() -> None:
    script = "rules: [{fault: {status: 500}}]"
    async with asking("openai", script=script) as caller:
        admin = caller.endpoint.origin + "/emulator/faults"
        queued = {"fault": {"status": 502}, "times": 2}
        assert (await caller.client.post(admin, json=queued)).status_code == 200
        got = [(await caller.ask()).status_code]
        got.append((await caller.ask(fault="{status: 404}")).status_code)
        got += [(await caller.ask()).status_code for _ in range(2)]
        await caller.client.delete(admin)
        got.append((await caller.ask()).status_code)
        wrong = await caller.client.post(admin, json={"fault": {"stat": 1}})
    assert got == [502, 404, 502, 500, 200]
    assert wrong.status_code == 400
    assert "did you mean 'status'?" in wrong.json()["message"]


async def test_a_scripts_settings_change_the_profiles() -> None:
    script = "settings: {groq: {requests_per_minute: 1, models: [only]}, together: {replicas: 9}}"
    async with asking("groq", script=script) as caller:
        first = await caller.ask({**CHAT, "model": "only"})
        second = await caller.ask({**CHAT, "model": "only"})
    assert (first.status_code, second.status_code) == (200, 429)
    assert caller.endpoint.profile.settings.tokens_per_s == 500


async def test_a_timed_refusal_closes_the_port_though_nobody_asks() -> None:
    script = "rules: [{after: 50ms, fault: {refuse: 10s}}]"
    async with asking("openai", script=script) as caller:

        async def refused() -> bool:
            try:
                async with httpx.AsyncClient(verify=NO_TLS) as client:
                    await client.get(caller.endpoint.url + "/models")
            except httpx.ConnectError:
                return True
            return False

        while not await refused():
            pass


async def test_the_requests_that_came_can_be_read() -> None:
    async with asking("openai") as caller:
        await caller.ask()
        await caller.ask(fault="{status: 503}")
        told = (await caller.client.get(caller.endpoint.origin + "/emulator/requests")).json()
    path = "/v1/chat/completions"
    assert [(r["number"], r["path"], r["status"]) for r in told] == [(1, path, 200), (2, path, 503)]
    assert caller.endpoint.requests[0].json == CHAT
    assert caller.endpoint.requests[0].fault == NONE


def test_a_rule_without_conditions_fits_everything() -> None:
    rule = parse_script("rules: [{fault: {}}]").rules[0]
    assert rule.fits(Facing("openai", 1, 0.0, None, False), Random(0))


async def test_what_is_asked_about_the_place_meets_no_fault_and_is_not_counted() -> None:
    async with asking("vllm", script="rules: [{requests: 1, fault: {status: 503}}]") as caller:
        told = [
            (await caller.client.get(caller.endpoint.origin + path)).status_code
            for path in ("/v1/models", "/metrics", "/health", "/v1/none")
        ]
        got = [(await caller.ask()).status_code for _ in range(2)]
    assert told == [200, 200, 200, 404]
    assert got == [503, 200]
