"""`gateway emulate`, as a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.__main__ import main
from gateway.config import load
from gateway.emulator.profiles import profiles


@contextmanager
def emulating(*arguments: str) -> Iterator[tuple[dict[str, dict[str, object]], list[int]]]:
    """Its endpoints as it prints them; the exit code is in the list afterwards."""
    command = [sys.executable, "-m", "gateway", "emulate", "--port", "0", *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    code: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        count = sum(argument in profiles() for argument in arguments)
        printed = ""
        while printed.count("models:") < count:
            line = process.stdout.readline()
            assert line, "it ended"
            printed += line
        yield yaml.safe_load(printed)["endpoints"], code
        process.send_signal(signal.SIGTERM)
        code.append(process.wait(10))


def test_several_profiles_have_a_port_each_and_a_script(tmp_path: Path) -> None:
    script = tmp_path / "outage.yaml"
    script.write_text("rules: [{profile: together, fault: {status: 503}}]")
    arguments = ("fireworks", "together", "--script", str(script), "--speed", "1000")
    with emulating(*arguments) as (endpoints, code):
        got = {}
        for name, endpoint in endpoints.items():
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {endpoint['api_key']}"}
            url = f"{endpoint['base_url']}/chat/completions"
            got[name] = httpx.post(url, json=body, headers=headers).status_code
    assert got == {"fireworks": 200, "together": 503}
    assert code == [0]


def test_what_it_prints_is_a_config_that_a_gateway_takes(tmp_path: Path) -> None:
    with emulating("openai") as (endpoints, _):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"endpoints": endpoints}))
        loaded, _ = load(config)
    assert loaded.endpoints["openai"].base_url == endpoints["openai"]["base_url"]
    assert set(loaded.endpoints["openai"].models) == {"rehearsed"}


def test_the_list_has_profiles_behaviours_and_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in profiles())
    assert "| `refuse` |" in shown
    assert "DEPLOYMENT_SCALING_UP" in shown


def test_what_cannot_be_served_is_said_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "outage.yaml"
    script.write_text("rules: [{fault: {rest: first}}]")
    for arguments, says in (
        ([], "name at least one profile"),
        (["nobody"], "no profile is called 'nobody'"),
        (["openai", "groq", "--port", "65535"], "2 ports from 65535 on go beyond 65535"),
        (["openai", "--script", str(script)], "outage.yaml:1: rules[0].fault.rest"),
        (["openai", "--script", str(tmp_path / "none")], "No such file"),
    ):
        assert main(["emulate", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
