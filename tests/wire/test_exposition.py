"""Gauges from Prometheus's text format."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from gateway.wire.exposition import parse_samples

PAGE = b"""# HELP a:b what it is
# TYPE a:b gauge
a:b{model="x",note="a \\"quoted\\" } brace"} 1.5
a:b{model="y"} 2 1700000000
plain 3e2
not_a_number NaN
endless +Inf
no_value
9starts_with_a_digit 1
"""


def test_each_metric_has_its_values() -> None:
    assert parse_samples(PAGE) == {"a:b": (1.5, 2.0), "plain": (300.0,)}


@given(st.binary() | st.lists(st.sampled_from([b"a", b"{", b"}", b" ", b"1", b"\n"])).map(b"".join))
def test_whatever_it_holds_is_read(page: bytes) -> None:
    parse_samples(page)
