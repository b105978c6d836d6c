"""`gateway replay` from its arguments to its output."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gateway.__main__ import main
from gateway.replay import plot
from tests.replay.drive import DATA

TRACE = str(DATA / "mooncake_synthetic_head.jsonl")
SHORT = ("--trace", TRACE, "--limit", "60")


def replay(*args: str) -> int:
    return main(("replay", *args))


def test_json_maps_each_policy_to_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(*SHORT, "--policies", "cache_aware,peer_p2c", "--seeds", "2", "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert list(told) == ["cache_aware", "peer_p2c"]
    assert list(told["cache_aware"]) == [
        *("goodput", "ttft_p50", "ttft_p95", "ttft_p99"),
        *("e2e_mean", "cost", "hit", "spread"),
    ]
    assert err == ""  # progress is for terminals


def test_without_json_there_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(*SHORT, "--policies", "cache_aware", "--gateways", "2", "--counters", "1") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "goodput"
    assert row.split()[0] == "cache_aware"
    assert len(row.split()) == 9


@pytest.mark.parametrize("load", ["agents", "hot"])
def test_made_up_loads_need_no_file(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--trace", load, "--limit", "40", "--families", "2", "--policies", "cache_aware")
    assert replay(*args, "--replicas", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cache_aware"]["goodput"] > 0


def test_a_folder_of_policies_and_a_file_of_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("minimize: {dollars: 1}\npick: lowest\n")
    machines = tmp_path / "machines.yaml"
    machines.write_text("replicas: 0\nhosted: {away: {ttft_s: 0.1, input_usd: 5}}\n")
    args = ("--policies", "mine", "--policies-dir", str(tmp_path), "--machines", str(machines))
    assert replay(*SHORT, *args, "--json") == 0
    assert json.loads(capsys.readouterr().out)["mine"]["cost"] > 0


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert replay(*SHORT, "--policies", "cache_aware,peer_p2c", "--html", str(file)) == 0
    text = file.read_text()
    root = ElementTree.fromstring(text)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}svg"))) == 2
    assert "<script" not in text
    assert "src=" not in text
    assert "href=" not in text


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--trace", "nowhere.jsonl", "--policies", "cache_aware"), "nowhere.jsonl"),
        ((*SHORT, "--policies", "best"), "no policy is called 'best'; there are: "),
        (("--trace", "nowhere.jsonl"), "--policies names none; there are: balanced, cache_aware, "),
        (
            (*SHORT, "--policies", "cache_aware", "--html", "nowhere/a.html"),
            "nowhere is not a folder",
        ),
        ((*SHORT, "--policies", "cache_aware", "--replicas", "0"), "at least one replica"),
        ((*SHORT, "--policies", "cache_aware", "--block-size", "16"), "is the block size 16?"),
        ((*SHORT, "--policies", "cache_aware", "--machines", "nowhere"), "nowhere"),
        ((*SHORT, "--policies", "cache_aware", "--policies-dir", "nowhere"), "is not a folder"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    args: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(*args) == 2
    assert told in capsys.readouterr().err


def test_a_page_that_cannot_be_written_costs_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(*SHORT, "--policies", "cache_aware", "--html", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert "cache_aware" in out
    assert "Is a directory" in err


def test_a_mistake_in_the_machines_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "machines.yaml"
    file.write_text("replicas: 2\nreplica: {step: 1}\n")
    assert replay(*SHORT, "--policies", "cache_aware", "--machines", str(file)) == 2
    assert "machines.yaml:2: replica.step" in capsys.readouterr().err


def test_a_png_without_matplotlib_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    assert replay(*SHORT, "--policies", "cache_aware", "--plot", "out.png") == 2
    assert "pip install matplotlib, or use --html" in capsys.readouterr().err


PEERS = (
    *("peer-sglang", "peer-llmd", "peer-dynamo", "peer-aibrix"),
    *("peer-mooncake", "peer-lmetric", "peer-p2c", "peer-inverse-square"),
)


def test_every_peer_replays_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--policies", ",".join(PEERS), "--replicas", "8", "--gateways", "1", "--load", "1.25")
    assert replay(*SHORT, "--block-size", "512", *args, "--seed", "0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert tuple(told) == PEERS
    assert all(0 <= told[peer]["goodput"] <= 1 for peer in PEERS)
