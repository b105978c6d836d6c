from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gateway.cli import check

GOOD = """
replicas: {tiny: {model: smollm2, count: 2}}
endpoints:
  away: {base_url: "https://away/v1", models: [m], api_key: "${AWAY_KEY}"}
  near: {base_url: "http://near/v1", models: [m]}
keys: [{name: web, key: 12345678-abc}]
"""


def run(file: Path, text: str) -> int:
    file.write_text(text)
    return check.run(argparse.Namespace(file=file))


def test_a_good_config_is_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWAY_KEY", "sk-away")
    file = tmp_path / "config.yaml"
    assert run(file, GOOD) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{file} is good: policy cache_aware, 1 keys",
        "replicas: tiny-0, tiny-1",
        "endpoints: away, near",
    ]
    assert err == ""
    assert "sk-away" not in out


def test_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWAY_KEY", raising=False)
    assert run(tmp_path / "config.yaml", GOOD) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "endpoints: near",
        "left out: away (no AWAY_KEY)",
    ]


def test_without_any_replica_or_endpoint_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "config.yaml", "replicas: {tiny: {model: smollm2}}") == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["replicas: tiny-0", "endpoints: none"]


def test_a_mistake_is_told_on_standard_error_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    assert run(file, "server:\n  prot: 1\n") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{file}:2: server.prot: there is no such key; did you mean 'port'?")


def test_an_encoding_that_has_to_be_fetched_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    assert run(tmp_path / "config.yaml", GOOD + "tokenizers: {m: o200k_base}\n") == 2
    said = capsys.readouterr().err
    assert "tokenizers.m: " in said
    assert "gateway model pull o200k_base" in said
