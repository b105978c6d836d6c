"""Quantiles of how late answers come."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.fleet.lateness import WIDEST, Lateness, surprise
from routing_policies.base import LATENESS


def test_before_anything_was_seen_it_is_the_prior() -> None:
    assert Lateness(LATENESS).quantiles() == pytest.approx(LATENESS, abs=0.1)


def test_quantiles_come_near_to_those_of_what_is_seen() -> None:
    lateness, draw = Lateness(LATENESS), random.Random(1)
    for _ in range(2000):  # one in ten is eight times as late
        late = math.exp(2.1) if draw.random() < 0.1 else 1.0
        lateness.learn(surprise(late * draw.lognormvariate(0, 0.05), 1.0), keep=1.0)
    known = lateness.quantiles()
    assert known[3] == pytest.approx(0, abs=0.1)
    assert known[4] < 0.3  # 84 %
    assert known[5] == pytest.approx(2.1, abs=0.2)  # 98 %


def test_what_was_seen_is_forgotten() -> None:
    lateness = Lateness(LATENESS)
    for _ in range(50):
        lateness.learn(surprise(8.0, 1.0), keep=0.98)
    assert lateness.quantiles()[3] > 1.5
    for _ in range(50):
        lateness.learn(surprise(1.0, 1.0), keep=0.9)
    assert lateness.quantiles()[3] == pytest.approx(0, abs=0.1)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=50), st.floats(0.01, 3))
def test_quantiles_rise_and_are_bounded(seen: list[tuple[float, float]], step: float) -> None:
    lateness = Lateness([step * sigmas for sigmas in range(-3, 4)])
    for actual, expected in seen:
        lateness.learn(surprise(actual, expected), keep=0.98)
    known = lateness.quantiles()
    assert all(low < high for low, high in pairwise(known))
    assert all(abs(value) <= WIDEST + 0.1 for value in known)
