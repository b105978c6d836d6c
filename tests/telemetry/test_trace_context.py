"""W3C Trace Context, as its own examples and its own mistakes have it."""

import random

import pytest

from gateway.telemetry.trace_context import (
    Parent,
    Sampling,
    parse_traceparent,
    sampling_of,
    wanted,
)

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_header_says_trace_span_and_whether_it_is_sampled():
    assert parse_traceparent(HEADER) == Parent(TRACE, SPAN, True)
    assert parse_traceparent(HEADER[:-1] + "0") == Parent(TRACE, SPAN, False)


def test_a_later_versions_header_may_say_more():
    assert parse_traceparent("01" + HEADER[2:] + "-more") == Parent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        HEADER.upper(),
        "ff" + HEADER[2:],
        HEADER + "-more",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        HEADER[:-3],
    ],
)
def test_what_is_not_well_formed_is_as_if_it_were_not_there(header):
    assert parse_traceparent(header) is None


def test_a_trusted_callers_trace_is_joined_and_its_decision_kept():
    headers = {"traceparent": HEADER[:-1] + "0", "tracestate": "v=1"}
    trace = Sampling(1.0).begin(headers, random.Random(1))
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE, SPAN, False)
    assert trace.headers(0)["traceparent"] == (f"00-{TRACE:032x}-{trace.attempt_id(0):016x}-00")
    assert trace.headers(0)["tracestate"] == "v=1"


def test_a_caller_who_is_not_trusted_gets_a_trace_of_its_own_with_a_link():
    sampling = Sampling(0.0, trust_callers=False)
    trace = sampling.begin({"traceparent": HEADER, "tracestate": "v=1"}, random.Random(1))
    assert trace.trace_id != TRACE
    assert trace.parent_id is None
    assert trace.linked == (TRACE, SPAN)
    assert not trace.sampled  # it cannot make us sample
    assert "tracestate" not in trace.headers(0)


def test_a_share_of_the_traces_is_sampled():
    draws = random.Random(1)
    sampled = sum(Sampling(0.01).begin({}, draws).sampled for _ in range(20_000))
    assert 150 < sampled < 250
    assert all(Sampling(1.0).begin({}, draws).sampled for _ in range(100))
    assert not any(Sampling(0.0).begin({}, draws).sampled for _ in range(100))


def test_every_attempt_has_a_span_of_its_own():
    trace = Sampling().begin({}, random.Random(1))
    ids = {trace.attempt_id(index) for index in range(-2, 50)} | {trace.span_id}
    assert len(ids) == 52  # -1 is the exchange's own


@pytest.mark.parametrize(
    ("environ", "share", "parent_decides"),
    [
        ({}, 1.0, True),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0.0, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "many"}, 1.0, False),
    ],
)
def test_the_standard_variables_say_how_much(environ, share, parent_decides):
    assert sampling_of(environ) == Sampling(share, parent_decides)


@pytest.mark.parametrize(
    ("endpoint", "environ", "traced"),
    [
        (None, {}, False),
        ("http://jaeger:4318", {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://jaeger:4318"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://jaeger:4318/v1/traces"}, True),
        ("http://jaeger:4318", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://jaeger:4318", {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_nothing_is_traced_until_somebody_says_where_to(endpoint, environ, traced):
    assert wanted(endpoint, environ) is traced
