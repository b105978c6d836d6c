"""The replay puts the peers' rules in the order that an independent study found them in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.replay.files import read_trace
from gateway.replay.gateways import Setup
from gateway.replay.machines import Machines
from gateway.replay.metrics import summarise
from gateway.replay.simulation import Simulation
from tests.replay.rows import COLUMNS, ROWS, out_of_order, policy

TRACES = Path(__file__).parents[2] / "benchmarks" / "traces"


@pytest.mark.parametrize(
    ("column", "limit"),
    [
        ("conversation x 1.5", 2_000),
        *(pytest.param(column, None, marks=pytest.mark.prove) for column in COLUMNS),
    ],
)
def test_rules_stand_in_the_order_of_the_rows(column: str, limit: int | None) -> None:
    kind, load = COLUMNS[column]
    trace = read_trace(TRACES / f"mooncake_{kind}_trace.jsonl.xz").limited(limit)
    trace = trace.jittered(random.Random(0)).at_load(load)
    goodput = {
        row: summarise(Simulation(trace, policy(row), Machines(), Setup(), 0).run(), 8).goodput
        for row in ROWS
    }
    assert list(out_of_order(column, goodput)) == []
