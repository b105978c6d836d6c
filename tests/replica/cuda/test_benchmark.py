"""benchmarks/gpu.py in its small form: on a GPU it is to run the first time."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.prove
def test_every_line_of_the_benchmark_runs_and_its_checks_hold() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    for check in (
        "greedy as transformers, together",
        "the same with the prefix cached",
        "the same with preemption",
        "somebody was preempted",
        "bfloat16 within 0.01 nats a token",
    ):
        assert f"ok     {check}" in told
    for line in ("tiny, decode 1", "tiny, decode 4", "tiny, prefill 40", "tiny shape, decode 4"):
        assert f"\n{line} " in told
    assert "FAILED" not in told
