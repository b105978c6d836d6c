"""The replica as its parent sees it: a process, its lines, its signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from gateway.replica.backends.cpu.backend import best_kernels
from gateway.replica.backends.reference import ReferenceBackend
from gateway.replica.main import ReplicaSettings, Status, load, load_backend, run
from gateway.replica.weights import Weights
from tests.support.serving import NO_TLS
from tests.support.tiny_model import TinyModel

HELLO: Any = [{"role": "user", "content": "hello"}]
SECRET = "s3cret"
WAIT_S = 30.0
CONTEXT = 4096


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(context_length=CONTEXT).write(tmp_path_factory.mktemp("model") / "Tiny.gguf")


class Process:
    """A supervised replica. `state` reads its next line that is not about loading."""

    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "gateway", "replica", "--supervised", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"GATEWAY_REPLICA_SECRET": SECRET},
        )

    def state(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            state: dict[str, Any] = json.loads(line)
            if state["state"] != "loading":
                return state
        raise AssertionError("the replica's standard output ended")

    def hang_up(self) -> None:
        """As a parent that is gone."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()


@contextmanager
def replica(model: Path, *options: str) -> Iterator[tuple[Process, str]]:
    arguments = ("--model", str(model), "--port", "0", "--backend", "reference", *options)
    process = Process(*arguments)
    with process.popen:
        try:
            state = process.state()
            assert state["state"] == "ready"
            yield process, f"http://{state['host']}:{state['port']}"
        finally:
            process.popen.kill()


def answering(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=WAIT_S)


def endless(sdk: openai.OpenAI) -> openai.Stream[ChatCompletionChunk]:
    """An answer that takes seconds: all of the context."""
    return sdk.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, extra_body={"ignore_eos": True}
    )


def test_a_supervised_replica_answers_and_ends_with_its_parent(model: Path) -> None:
    with replica(model) as (process, url), answering(url) as sdk:
        asked: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 8}
        first = sdk.chat.completions.create(**asked)
        again = sdk.chat.completions.create(**asked)
        salted = sdk.chat.completions.create(
            **asked,
            extra_body={"cache_salt": "tenant"},
            extra_headers={"x-replica-secret": SECRET},
        )
        with pytest.raises(openai.PermissionDeniedError):
            sdk.chat.completions.create(**asked, extra_body={"cache_salt": "tenant"})
        stats = httpx.get(f"{url}/stats").json()
        process.hang_up()
        assert process.popen.wait(WAIT_S) == 0
    assert first.choices[0].message.content == again.choices[0].message.content
    cached = [
        answer.usage.prompt_tokens_details.cached_tokens
        for answer in (first, again, salted)
        if answer.usage and answer.usage.prompt_tokens_details
    ]
    assert cached == [0, 16, 0]  # one block; and no tenant sees another's
    assert stats["running"] == 0
    assert stats["models"] == ["tiny"]
    assert salted.model_extra is not None
    assert salted.model_extra["replica"]["epoch"] == stats["epoch"]


def test_the_real_model_answers() -> None:
    with replica(Path("smollm2")) as (_, url), answering(url) as sdk:
        question: Any = [{"role": "user", "content": "What is the capital of France?"}]
        answer = sdk.chat.completions.create(model="smollm2", messages=question, temperature=0)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"


def test_a_client_that_hangs_up_frees_its_blocks(model: Path) -> None:
    with replica(model) as (_, url), answering(url) as sdk:
        stream = endless(sdk)
        next(iter(stream))
        stream.close()
        blocks = {"owned": 1, "cached": 0}
        with httpx.Client(verify=NO_TLS, timeout=WAIT_S) as web:
            while blocks["owned"]:
                blocks = web.get(f"{url}/stats").json()["blocks"]
    assert blocks["cached"] < CONTEXT // 16 // 2  # long before the answer would have ended


def test_what_runs_when_the_signal_comes_is_finished_first(model: Path) -> None:
    with replica(model) as (process, url), answering(url) as sdk:
        stream = sdk.chat.completions.create(
            model="tiny",
            messages=HELLO,
            stream=True,
            max_tokens=400,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        process.popen.send_signal(signal.SIGTERM)
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        assert process.popen.wait(WAIT_S) == 0


def test_what_runs_longer_than_the_drain_is_told_so(model: Path) -> None:
    with replica(model, "--drain", "0") as (process, url), answering(url) as sdk:
        stream = endless(sdk)
        next(iter(stream))
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="stopped before the answer was complete"):
            list(stream)
        assert process.popen.wait(WAIT_S) == 0


def test_a_second_signal_ends_it_at_once(model: Path) -> None:
    with replica(model, "--drain", "600") as (process, url), answering(url) as sdk:
        stream = endless(sdk)
        next(iter(stream))
        process.popen.send_signal(signal.SIGTERM)
        with httpx.Client(verify=NO_TLS, timeout=WAIT_S) as web:
            while web.get(f"{url}/health").status_code == 200:
                pass
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(WAIT_S) == -signal.SIGTERM


def test_a_replica_that_cannot_start_says_why(tmp_path: Path) -> None:
    process = Process("--model", str(tmp_path / "none.gguf"), "--port", "0")
    with process.popen:
        state = process.state()
        assert process.popen.wait(WAIT_S) == 1
    assert state["state"] == "failed"
    assert "none.gguf" in state["error"]


def test_a_port_in_use_is_said(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ReplicaSettings(
            str(model), port=taken.getsockname()[1], backend="reference", kv_tokens=64
        )
        assert run(settings) == 1
    assert "Address already in use" in caplog.text


def test_a_shorter_context_is_kept_and_a_longer_one_refused(model: Path) -> None:
    engine, _ = load(ReplicaSettings(str(model), backend="reference", context=64), Status(None))
    assert engine.stats().context_length == 64
    with pytest.raises(ValueError, match=f"--context must be from 1 to the model's {CONTEXT}"):
        load(ReplicaSettings(str(model), context=CONTEXT + 1), Status(None))


def test_the_cache_has_the_size_that_was_asked_for(model: Path) -> None:
    settings = ReplicaSettings(str(model), backend="reference", kv_tokens=160, names=("a", "b"))
    engine, served = load(settings, Status(None))
    assert engine.stats().total_blocks == 10
    assert served.models == ("a", "b")


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (2, 2), (5, 2)])
def test_at_most_two_workers_plan_steps(model: Path, threads: int, workers: int) -> None:
    before = threading.active_count()
    settings = ReplicaSettings(str(model), backend="reference", threads=threads)
    engine, _ = load(settings, Status(None))
    engine.start()
    assert threading.active_count() - before == workers
    engine.stop()


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(ReplicaSettings("m", secret="s3cret"))


def test_whatever_keeps_it_from_starting_is_told_to_its_parent(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr("gateway.replica.main.load", fail)
    monkeypatch.setattr("gateway.replica.main._end_with_parent", lambda: None)
    assert run(ReplicaSettings(str(model), supervised=True)) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"state": "failed", "error": "unexpected RuntimeError: nobody expected this"}


def test_on_a_processor_without_kernels_auto_takes_the_reference_and_cpu_says_why(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_an_old_processor(here: object) -> str:
        return best_kernels({"f16c": False, "fma": False})

    monkeypatch.setattr("gateway.replica.backends.cpu.backend.best_kernels", on_an_old_processor)
    weights = Weights.open(model)
    backend = load_backend(weights, ReplicaSettings(str(model)), Status(None))
    assert isinstance(backend, ReferenceBackend)
    with pytest.raises(ValueError, match="no F16C and FMA"):
        load_backend(weights, ReplicaSettings(str(model), backend="cpu"), Status(None))
