import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from gateway.supervisor import (
    ReplicaProcess,
    Supervisor,
    Timing,
    replica_command,
    threads_per_replica,
)
from gateway.supervisor.process import inherited

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent
Event = tuple[str, ...]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Recorder:
    """A watcher that keeps what it is told, to be awaited one by one."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def replica_progress(self, name: str, step: str, done: float) -> None:
        self.events.put_nowait(("progress", name, step, str(done)))

    def replica_ready(self, name: str, url: str, secret: str, epoch: str) -> None:
        self.events.put_nowait(("ready", name, url, secret, epoch))

    def replica_gone(self, name: str, reason: str) -> None:
        self.events.put_nowait(("gone", name, reason))

    def replica_failed(self, name: str, error: str) -> None:
        self.events.put_nowait(("failed", name, error))

    async def next(self) -> Event:
        async with asyncio.timeout(10):
            return await self.events.get()


class Sleeper:
    """Notes the delays and skips them; after the last wanted one, it sleeps for good."""

    def __init__(self, wanted: int) -> None:
        self.delays: list[float] = []
        self._wanted = wanted
        self.all_slept = asyncio.Event()

    async def __call__(self, delay: float) -> None:
        self.delays.append(delay)
        if len(self.delays) == self._wanted:
            self.all_slept.set()
            await asyncio.Event().wait()


def stand_in(*steps: str) -> list[str]:
    return [sys.executable, str(HERE / "stand_in.py"), *steps]


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)


async def wait_closed(reader: asyncio.StreamReader) -> None:
    """Until the other side is gone; a killed process resets the connection."""
    async with asyncio.timeout(10):
        try:
            while await reader.read(1000):
                pass
        except ConnectionResetError:
            pass


def is_running(epoch: str) -> bool:
    try:
        os.kill(int(epoch), 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_ready_replica_is_reported_with_where_it_is_and_its_secret() -> None:
    watcher = Recorder()
    async with Supervisor({"local-0": stand_in("ready", "wait")}, watcher):
        kind, name, url, secret, _ = await watcher.next()
        reader, writer = await connect(url)
        assert (kind, name) == ("ready", "local-0")
        assert await reader.readline() == secret.encode() + b"\n"
        writer.close()


async def test_progress_is_reported_in_order() -> None:
    watcher = Recorder()
    async with Supervisor({"local-0": stand_in("loading", "ready", "wait")}, watcher):
        assert await watcher.next() == ("progress", "local-0", "reading", "0.25")
        assert await watcher.next() == ("progress", "local-0", "packing", "1.0")
        assert (await watcher.next())[0] == "ready"


async def test_replicas_of_one_supervisor_share_a_secret_that_no_other_has() -> None:
    watcher = Recorder()
    commands = {"a": stand_in("ready", "wait"), "b": stand_in("ready", "wait")}
    async with Supervisor(commands, watcher):
        first, second = await watcher.next(), await watcher.next()
    while not watcher.events.empty():
        watcher.events.get_nowait()
    async with Supervisor({"c": stand_in("ready", "wait")}, watcher):
        third = await watcher.next()
    assert {first[1], second[1]} == {"a", "b"}
    assert first[3] == second[3] != third[3]


async def test_a_replica_that_dies_is_reported_gone_and_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher, sleeper = Recorder(), Sleeper(wanted=2)
    async with Supervisor({"local-0": stand_in("ready", "wait")}, watcher, sleep=sleeper):
        _, _, _, secret, epoch = await watcher.next()
        os.kill(int(epoch), signal.SIGKILL)
        assert await watcher.next() == ("gone", "local-0", "was killed by SIGKILL")
        _, _, _, same_secret, new_epoch = await watcher.next()
        assert secret == same_secret
        assert epoch != new_epoch
    assert "[local-0] was killed by SIGKILL; starts again in 1 s" in caplog.text


async def test_delays_double_up_to_the_longest() -> None:
    sleeper = Sleeper(wanted=4)
    timing = Timing(first_delay=1, longest_delay=5)
    async with Supervisor({"a": stand_in("die")}, Recorder(), timing, sleep=sleeper):
        await asyncio.wait_for(sleeper.all_slept.wait(), 10)
    assert sleeper.delays == [1, 2, 4, 5]


@pytest.mark.parametrize(("seconds_up", "third_delay"), [(59, 4), (60, 1)])
async def test_a_long_life_starts_the_delays_anew(seconds_up: int, third_delay: int) -> None:
    watcher, sleeper, now = Recorder(), Sleeper(wanted=3), 0.0
    command = stand_in("ready", "wait")
    async with Supervisor({"a": command}, watcher, clock=lambda: now, sleep=sleeper):
        for life in range(3):
            _, _, _, _, epoch = await watcher.next()
            now += seconds_up if life == 2 else 1
            os.kill(int(epoch), signal.SIGTERM)
            assert await watcher.next() == ("gone", "a", "ended with exit code 0")
        await asyncio.wait_for(sleeper.all_slept.wait(), 10)
    assert sleeper.delays == [1, 2, third_delay]


async def test_three_refusals_in_a_row_are_reported_once_and_then_it_is_tried_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher, sleeper = Recorder(), Sleeper(wanted=5)
    async with Supervisor({"a": stand_in("loading", "failed")}, watcher, sleep=sleeper):
        await asyncio.wait_for(sleeper.all_slept.wait(), 10)
    told = [watcher.events.get_nowait() for _ in range(watcher.events.qsize())]
    assert [event for event in told if event[0] != "progress"] == [("failed", "a", "no such model")]
    assert sleeper.delays == [1, 2, 30, 30, 30]
    assert "[a] cannot start: no such model; starts again in 30 s" in caplog.text


async def test_a_program_that_does_not_exist_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleeper = Sleeper(wanted=2)
    async with Supervisor({"a": ["/no/such/program"]}, Recorder(), sleep=sleeper):
        await asyncio.wait_for(sleeper.all_slept.wait(), 10)
    assert "[a] could not be started: [Errno 2] No such file or directory" in caplog.text


async def test_a_replica_that_hangs_in_loading_is_ended_and_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher, sleeper = Recorder(), Sleeper(wanted=2)
    command = stand_in("loading", "hang")
    async with Supervisor({"a": command}, watcher, Timing(loading=0.5), sleep=sleeper):
        await asyncio.wait_for(sleeper.all_slept.wait(), 10)
    told = [watcher.events.get_nowait() for _ in range(watcher.events.qsize())]
    assert {event[0] for event in told} <= {"progress"}  # never ready, so never gone
    assert "[a] said nothing for 0.5 s while loading; starts again in 1 s" in caplog.text


async def test_a_ready_replica_may_be_silent_for_longer_than_a_loading_one() -> None:
    watcher = Recorder()
    async with Supervisor({"a": stand_in("ready", "wait")}, watcher, Timing(loading=0.5)):
        _, _, url, _, _ = await watcher.next()
        reader, writer = await connect(url)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_closed(reader), 0.7)
        writer.close()


async def test_leaving_tells_that_it_is_gone_and_then_ends_it_with_sigterm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watcher = Recorder()
    async with Supervisor({"a": stand_in("ready", "wait")}, watcher):
        _, _, _, _, epoch = await watcher.next()
    assert await watcher.next() == ("gone", "a", "stopped")
    assert "[a] SIGTERM came" in caplog.text
    assert not is_running(epoch)


async def test_a_replica_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    watcher = Recorder()
    async with Supervisor({"a": stand_in("deaf", "ready", "hang")}, watcher, Timing(grace=0.2)):
        _, _, _, _, epoch = await watcher.next()
    assert not is_running(epoch)


async def cancel_natively(body: Callable[[], Any], entered: asyncio.Event) -> None:
    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_a_scope(body: Callable[[], Any], entered: asyncio.Event) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(body)
        await entered.wait()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("cancel", [cancel_natively, cancel_a_scope])
async def test_a_cancelled_gateway_ends_its_replicas_gracefully(
    cancel: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watcher, entered, epochs = Recorder(), asyncio.Event(), []

    async def gateway() -> None:
        async with Supervisor({"a": stand_in("ready", "wait")}, watcher):
            epochs.append((await watcher.next())[4])
            entered.set()
            await asyncio.Event().wait()

    await cancel(gateway, entered)
    assert "[a] SIGTERM came" in caplog.text
    assert not is_running(epochs[0])


async def test_a_second_cancellation_kills_at_once() -> None:
    watcher = Recorder()
    command = stand_in("deaf", "ready", "hang")
    task = asyncio.create_task(ReplicaProcess("a", command, "secret", watcher, Timing()).run())
    _, _, _, _, epoch = await watcher.next()
    task.cancel()
    assert await watcher.next() == ("gone", "a", "stopped")  # the grace of 15 s has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert not is_running(epoch)


async def test_an_error_of_the_gateway_goes_on_as_it_is() -> None:
    with pytest.raises(LookupError, match="of the body"):
        async with Supervisor({"a": stand_in("wait")}, Recorder()):
            raise LookupError("of the body")


async def test_output_that_is_no_state_is_logged_and_does_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watcher = Recorder()
    async with Supervisor({"a": stand_in("chatter", "ready", "wait")}, watcher):
        assert (await watcher.next())[0] == "ready"
    assert "[a] not understood: this is not JSON" in caplog.text
    assert "[a] not understood: " + "x" * 200 + "\n" in caplog.text
    assert "[a] a word on stderr" in caplog.text


async def test_replicas_end_when_the_gateway_is_killed() -> None:
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "gateway_stand_in.py"), *stand_in("ready", "wait")),
        stdout=subprocess.PIPE,
    )
    assert gateway.stdout is not None
    url = await gateway.stdout.readline()
    reader, writer = await connect(url.decode().strip())
    assert await reader.readline()  # the replica is there
    gateway.kill()
    await gateway.wait()
    await wait_closed(reader)
    writer.close()


def test_the_command_line_is_one_that_this_interpreter_runs() -> None:
    command = replica_command("smollm2", "--name", "small")
    assert command[:3] == (sys.executable, "-m", "gateway")
    assert command[3:] == (
        *("replica", "--model", "smollm2", "--port", "0", "--supervised", "--name", "small"),
    )


@pytest.mark.parametrize(
    ("cores", "replicas", "threads"),
    [
        (1, 1, 1),
        (2, 1, 1),
        (3, 1, 1),
        (4, 1, 2),
        (4, 2, 1),  # one core is the gateway's
        (8, 3, 2),
        (64, 1, 2),  # never more
        (8, 16, 1),  # never none
    ],
)
def test_threads_per_replica(cores: int, replicas: int, threads: int) -> None:
    assert threads_per_replica(cores, replicas) == threads


def test_a_replica_gets_no_provider_key() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "NUMBA_CPU_NAME": "generic",
        "GATEWAY_CACHE_DIR": "/cache",
        "OPENAI_API_KEY": "sk-1",
        "TOGETHER_API_KEY": "t-1",
        "HF_TOKEN": "hf",
    }
    assert inherited(environ).keys() == {"PATH", "LC_ALL", "NUMBA_CPU_NAME", "GATEWAY_CACHE_DIR"}
