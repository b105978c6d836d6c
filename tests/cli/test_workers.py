"""`gateway serve --workers`: one limit, one socket, and a worker that dies comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import openai
import pytest
import redis

from gateway.workers import CannotStart, Parent
from tests.support.edits import edit
from tests.support.processes import children, serve, serve_and_leave_nothing
from tests.support.serving import NO_TLS, serving
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

CONFIG = """
endpoints:
  e: {{base_url: {url}/v1, models: [m], prices: {{m: {{input: 10, output: 100}}}}}}
keys:
  - {{name: app, key: sk-some-application}}
  - {{name: ops, key: sk-some-administrator, admin: true}}
tenants: {{default: {{limits: {{requests: {{day: 20}}, dollars: {{month: 5}}}}}}}}
"""
PATIENT = "state: {deadline: 2s}\n"  # what a worker decides alone is not what is tested here


def workers(pid: int) -> list[int]:
    return [c for c in children(pid) if "--worker" in arguments(c)]


def state_servers(pid: int) -> list[int]:
    return [c for c in children(pid) if any("state.sock" in part for part in arguments(c))]


def arguments(pid: int) -> list[str]:
    """None if it has ended since it was listed, or while its arguments were read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # whoever inherits it has not looked yet


async def until(condition, seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.1)


async def ask(url: str) -> int:
    """On a connection of its own, so that any worker may take it."""
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="sk-some-application", max_retries=0, timeout=60
    ) as sdk:
        try:
            await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )
        except openai.APIStatusError as error:
            return error.status_code
        return 200


async def seen(url: str, path: str) -> httpx.Response:
    """On a connection of its own, as above."""
    headers = {"authorization": "Bearer sk-some-administrator"}
    async with httpx.AsyncClient(headers=headers, verify=NO_TLS, timeout=30) as web:
        return await web.get(f"{url}{path}")


async def counted(url: str, name: str, label: str = "") -> float:
    """What `/metrics` says, over all labels."""
    lines = (await seen(url, "/metrics")).text.splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith(name) and label in x)


async def test_two_workers_share_one_limit_and_one_that_dies_comes_back(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream) + PATIENT)
        with serve(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            url = ready[1]
            statuses = [await ask(url) for _ in range(24)]
            assert statuses == [200] * 20 + [429] * 4

            in_a_row = 0  # whichever worker is asked
            with anyio.fail_after(120):  # each tells the others once a second
                while in_a_row < 4:
                    in_a_row = in_a_row + 1 if await knows_all(url) else 0
            one, other = workers(gateway.process.pid)
            os.kill(one, signal.SIGKILL)
            await anyio.to_thread.run_sync(gateway.wait_for, "starts again", 30)
            assert await ask(url) == 429, "the other one still answers, and knows"
            await until(lambda: len(workers(gateway.process.pid)) == 2)
            assert await counted(url, "gateway_exchanges_total", 'ended="finished"') == 20
            everyone = children(gateway.process.pid)
            code = await anyio.to_thread.run_sync(gateway.stop, signal.SIGTERM)
    assert code == 0
    assert other in everyone
    assert all(ended(child) for child in everyone)
    assert not any("sk-some" in line for line in gateway.lines)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")


async def knows_all(url: str) -> bool:
    """The worker that answers knows of what all have done."""
    finished = await counted(url, "gateway_exchanges_total", 'ended="finished"')
    left = await counted(url, "gateway_tenant_budget_left_dollars")
    state = (await seen(url, "/dashboard/api/state")).json()
    endpoint, ids = state["endpoints"]["e"], [decision["id"] for decision in state["decisions"]]
    return (
        (finished, state["workers"], endpoint["answered"]) == (20, 2, 20)
        and left == pytest.approx(5 - 20 * 410 / 1e6)
        and len(ids) == len(set(ids)) == 24
        and state["series"]["endpoints"]["e"]["first_p95_s"].count(None) < 180
    )


async def test_what_a_killed_worker_had_in_flight_nobody_has_any_more(tmp_path):
    config = tmp_path / "config.yaml"
    upstream = Upstream(hold_at=1)
    async with serving(upstream) as url:
        config.write_text(CONFIG.format(url=url))
        with serve(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cut_off, ready[1])
                with anyio.fail_after(60):
                    await upstream.asked.wait()
                    while await counted(ready[1], "gateway_endpoint_in_flight") != 1:  # noqa: ASYNC110
                        await anyio.sleep(0.1)
                before = workers(gateway.process.pid)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
            await until(lambda: len({*workers(gateway.process.pid)} - {*before}) == 2)
            with anyio.fail_after(120):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        in_flight = await counted(ready[1], "gateway_endpoint_in_flight")
                        generation = await counted(ready[1], "gateway_config_generation")
                        state = (await seen(ready[1], "/dashboard/api/state")).json()
                        if (in_flight, generation, state["workers"]) == (0, 1, 2):
                            break
                    await anyio.sleep(0.1)


async def until_two_answer(url: str) -> None:
    with anyio.fail_after(60):
        while (await seen(url, "/dashboard/api/state")).json()["workers"] != 2:  # noqa: ASYNC110
            await anyio.sleep(0.1)


async def cut_off(url: str) -> None:
    with pytest.raises((httpx.HTTPError, openai.APIError)):
        await ask(url)


async def test_a_key_that_is_made_or_revoked_is_so_for_every_one_of_four_workers(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream) + "state: {keys_file: keys.json}\n")
        with serve(config, "--port", "0", "--workers", "4") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            admin = {"authorization": "Bearer sk-some-administrator"}
            keys = f"{ready[1]}/admin/keys"
            async with httpx.AsyncClient(headers=admin) as web:
                key = (await web.post(keys, json={"name": "web"})).json()["key"]
                await everyone_says(ready[1], key, 200)
                rotated = (await web.post(f"{keys}/web/rotate")).json()["key"]
                await everyone_says(ready[1], rotated, 200)
                await everyone_says(ready[1], key, 401)
                await web.delete(f"{keys}/web")
                await everyone_says(ready[1], rotated, 401)


async def everyone_says(url: str, key: str, wanted: int) -> None:
    """Twenty connections in a row, which any worker may have, within what is promised."""
    in_a_row = 0
    headers = {"authorization": f"Bearer {key}"}
    with anyio.fail_after(120):
        while in_a_row < 20:
            async with httpx.AsyncClient(headers=headers, verify=NO_TLS) as web:
                said = (await web.get(f"{url}/v1/models")).status_code
            in_a_row = in_a_row + 1 if said == wanted else 0


async def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream))
        with serve(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            everyone = children(gateway.process.pid)
            assert len(everyone) == 3, "two workers and the server that they share"
            gateway.process.kill()
            gateway.process.wait()
            await until(lambda: all(ended(pid) for pid in everyone))
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(f"{ready[1]}/health")


def test_workers_that_cannot_start_end_the_whole_with_one_line_of_why(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(url="http://127.0.0.1:9") + "tokenizers: {m: /none.gguf}\n")
    with serve_and_leave_nothing(config, "--port", "0", "--workers", "2") as gateway:
        assert gateway.process.wait(60) == 2
    (said,) = (line for line in gateway.lines if not line.startswith("{"))
    assert said.startswith(f"{config}: tokenizers.m: ")


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [
        ("raise SystemExit(7)", 7, "ended with exit code 7 before any had started"),
        ("import os; os.kill(os.getpid(), 9)", 1, "was killed by SIGKILL before any had started"),
        ("print('failed no such thing'); raise SystemExit(2)", 2, "no such thing"),
    ],
)
async def test_a_worker_that_ends_before_any_has_started_is_not_tried_again(program, code, why):
    ready = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parent = Parent([sys.executable, "-c", program], 2, listener, 0.0, ready.append)
        with pytest.raises(CannotStart, match=why) as ended:
            await parent.run()
    assert (ended.value.code, ready) == (code, [])


STANDS = """
import os, signal
def end(*_): {}
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
while True: signal.pause()
"""


@pytest.mark.parametrize(
    ("program", "started", "code"),
    [
        (STANDS.format("os._exit(0)"), 2, 0),
        (STANDS.format("os._exit(3)"), 2, 3),
        (STANDS.format("os.kill(os.getpid(), 9)"), 2, 1),
        ("import signal; signal.pause()", 0, 0),  # it dies of the signal, as it was told
    ],
)
async def test_the_exit_code_says_what_became_of_the_workers(program, started, code):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parent = Parent([sys.executable, "-c", program], 2, listener, 10.0, str)
        task = asyncio.create_task(parent.run())
        await until(lambda: len(parent._workers) == 2 and len(parent._started) == started)
        parent.stop(signal.SIGTERM)
        assert await task == code


async def test_ctrl_c_reaches_a_worker_too_that_has_not_been_heard_yet(tmp_path):
    program = f"""
import os, pathlib, signal
signal.signal(signal.SIGTERM, lambda *_: None)  # as one that takes its notice
signal.signal(signal.SIGINT, lambda *_: os._exit(5))
pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
while True: signal.pause()
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parent = Parent([sys.executable, "-c", program], 2, listener, 60.0, str)
        task = asyncio.create_task(parent.run())
        await until(lambda: len([*tmp_path.iterdir()]) == 2)
        parent.stop(signal.SIGINT)
        assert await task == 5


async def test_a_worker_that_the_config_keeps_from_coming_back_is_tried_until_it_can(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        good = CONFIG.format(url=upstream)
        config.write_text(good)
        with serve_and_leave_nothing(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            await until_two_answer(ready[1])  # one that still starts would not
            edit(config, good + "sever: {}\n")
            one, _ = workers(gateway.process.pid)
            os.kill(one, signal.SIGKILL)
            for pause in (2, 4):
                says = rf'^{{.*"worker \d cannot start: {config}:\d+: sever: .* again in {pause} s"'
                await anyio.to_thread.run_sync(gateway.wait_for, says, 60)
            assert await ask(ready[1]) == 200, "the other one keeps the last good config"
            edit(config, good)
            await until(lambda: len(workers(gateway.process.pid)) == 2)
            await until_two_answer(ready[1])


async def test_a_state_server_that_dies_comes_back_and_the_workers_share_again(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream) + PATIENT)
        with serve_and_leave_nothing(config, "--port", "0", "--workers", "2") as gateway:
            await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            pid = gateway.process.pid
            for _ in range(2):
                (server,) = state_servers(pid)
                os.kill(server, signal.SIGKILL)
                says = r"\[state server\] was killed by SIGKILL; starts again in \d+ s"
                await anyio.to_thread.run_sync(gateway.wait_for, says, 60)
                await until(lambda: holds_something(pid))
            assert await anyio.to_thread.run_sync(gateway.stop, signal.SIGTERM) == 0


def holds_something(pid: int) -> bool:
    """Workers tell their state server of themselves."""
    for path in Path("/tmp").glob(f"gw-{pid}-*/state.sock"):
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(unix_socket_path=str(path)) as state,
        ):
            return bool(state.keys())
    return False
