"""`gateway serve`, where it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.__main__ import main

ONE = "endpoints: {e: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n"
KEYED = "endpoints: {e: {base_url: 'http://e/v1', models: [m], api_key: '${NOT_SET_ANYWHERE}'}}\n"


def config(folder: Path, text: str) -> str:
    file = folder / "config.yaml"
    file.write_text(text)
    return str(file)


def test_a_port_in_use_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--config", config(tmp_path, ONE), "--port", port]) == 1
    output = capsys.readouterr()
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in output.err
    assert output.out == ""


@pytest.mark.parametrize("command", [["serve", "--config"], ["check"]])
def test_when_no_endpoint_can_be_used_both_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, config(tmp_path, KEYED)]) == 2
    assert "the environment has no NOT_SET_ANYWHERE" in capsys.readouterr().err


def test_a_broken_config_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, ONE + "server: {prot: 1}\n")
    assert main(["serve", "--config", file]) == 2
    assert "config.yaml:2: server.prot: there is no such key" in capsys.readouterr().err


def test_beyond_loopback_it_takes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", config(tmp_path, ONE), "--host", "0.0.0.0"]) == 2
    assert "without keys the gateway listens on loopback only" in capsys.readouterr().err


def test_a_model_file_that_is_not_there_is_found_out_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "replicas: {r: {model: /nowhere/model.gguf}}\n"
    assert main(["check", config(tmp_path, text)]) == 2
    assert "replicas.r.model" in capsys.readouterr().err


def test_an_unknown_level_of_logging_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--config", "x", "--log-level", "bogus"])
    assert ended.value.code == 2


def test_a_file_that_cannot_keep_responses_is_found_out_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no-folder").write_text("")
    text = f"server: {{port: 0}}\n{ONE}responses: {{file: ./no-folder/kept}}\n"
    assert main(["serve", "--config", config(tmp_path, text)]) == 1
    assert f"gateway serve: {tmp_path}/no-folder/kept: [Errno" in capsys.readouterr().err
