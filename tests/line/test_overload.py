"""Three times more than there is room for, for a minute."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.admission import noisy_neighbour, overload


@pytest.mark.prove
def test_overload_is_served_at_capacity_urgent_first_and_in_bounded_memory() -> None:
    seen = asyncio.run(overload(60))
    assert seen["goodput of capacity"] >= 0.9
    assert seen["interactive answered"] >= 0.9
    assert seen["batch answered"] <= seen["standard answered"] <= seen["interactive answered"]
    assert seen["refusals with retry-after"] == 1
    assert seen["grown MB"] < 50


@pytest.mark.prove
def test_a_greedy_tenant_costs_the_other_no_request() -> None:
    seen = asyncio.run(noisy_neighbour(30))
    assert seen["refused of the quiet"] == 0
    assert seen["refused of the noisy"] > seen["answered of the noisy"]
