"""Calibration finds the engine behind a measured run, here one of known constants."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.replay.calibrate import Measured, calibrate, error_of, modelled, read_measured
from gateway.replay.replica import ReplicaSpec
from gateway.replay.trace import TraceError, TraceRequest

ENGINE = ReplicaSpec(step_s=0.008, tokens_per_s=30_000, sequence_s=2e-4)


def run(spec: ReplicaSpec, count: int) -> list[Measured]:
    """Arrivals in bursts and pauses, so that answers are measured alone and together."""
    draws, now = random.Random(0), 0.0
    requests = []
    for number in range(count):
        now += draws.expovariate(20.0) if number % 20 else 4.0
        requests.append(TraceRequest(now, draws.randint(50, 6000), draws.randint(20, 200)))
    unknown = [Measured(request, 1.0, 1.0) for request in requests]
    return [
        Measured(request, first, last)
        for request, (first, last) in zip(requests, modelled(spec, unknown), strict=True)
    ]


def written(file: Path, measured: list[Measured]) -> Path:
    records = [
        {
            "arrived": 100 + m.request.arrival_s,
            "model": "m",
            "prompt_tokens": m.request.prompt_tokens,
            "completion_tokens": m.request.output_tokens,
            "first_token_s": m.first_s,
            "last_token_s": m.last_s,
        }
        for m in measured
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_the_engine_is_found_again() -> None:
    measured = run(ENGINE, 120)
    found = calibrate(measured, ReplicaSpec())
    assert error_of(ReplicaSpec(), measured) > 0.25
    assert found.error < 0.05
    for modelled_s, measured_s in (found.ttft_p50, found.ttft_p90):
        assert modelled_s == pytest.approx(measured_s, rel=0.1)


def test_what_it_prints_is_a_file_of_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "run.jsonl", run(ENGINE, 20))
    assert main(("replay", "--calibrate", str(file))) == 0
    machines = tmp_path / "machines.yaml"
    machines.write_text(capsys.readouterr().out)
    args = ("--trace", "agents", "--limit", "5", "--policies", "balanced", "--json")
    assert main(("replay", *args, "--machines", str(machines))) == 0
    assert json.loads(capsys.readouterr().out)["balanced"]["goodput"] > 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ('"first_token_s": 0', "first_token_s is not a number of seconds above 0"),
        ('"other": 0', "no record has first_token_s"),
    ],
)
def test_a_run_without_times_is_refused(tmp_path: Path, changed: str, told: str) -> None:
    file = tmp_path / "run.jsonl"
    record = '{"arrived": 1, "model": "m", "prompt_tokens": 5, "completion_tokens": 5, '
    file.write_text(record + changed + "}\n")
    with pytest.raises(TraceError, match=told):
        read_measured(file)
