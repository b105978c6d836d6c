"""Every metric: its name, what it counts, its labels and buckets.

Names and buckets under `gen_ai_` are OpenTelemetry's (v1.41.1), as Prometheus writes them; the
buckets of the first token go on to 60 s, since 10 s is not long for a large model. `gateway_` is
ours. Labels are endpoints, models, policies and codes: never a user, a session or a request.
"""

from __future__ import annotations

from typing import NamedTuple

DURATION_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0),
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**exponent) for exponent in range(14))
RATIO = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)

MODEL = ("gen_ai_operation_name", "gen_ai_request_model")
PLACE = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class HistogramOf(NamedTuple):
    name: str
    text: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]


class CounterOf(NamedTuple):
    text: str
    labels: tuple[str, ...]


class GaugeOf(NamedTuple):
    text: str
    label: str | None
    several: str = "livesum"  # prometheus_client's word for what several workers come to


REQUEST_DURATION = HistogramOf(
    "gen_ai_server_request_duration_seconds",
    "From a request's first line to its answer's last byte",
    (*MODEL, "error_type"),
    DURATION_S,
)
FIRST_TOKEN = HistogramOf(
    "gen_ai_server_time_to_first_token_seconds",
    "From a request's first line to its answer's first event, failed attempts included",
    MODEL,
    FIRST_TOKEN_S,
)
PER_TOKEN = HistogramOf(
    "gen_ai_server_time_per_output_token_seconds",
    "For each token after the first",
    MODEL,
    PER_TOKEN_S,
)
TOKEN_USAGE = HistogramOf(
    "gen_ai_client_token_usage",
    "Tokens of an answer, as its endpoint counted them",
    (*PLACE, "gen_ai_token_type"),
    TOKENS,
)
OPERATION_DURATION = HistogramOf(
    "gen_ai_client_operation_duration_seconds",
    "Of one attempt at an endpoint",
    (*PLACE, "error_type"),
    DURATION_S,
)
FIRST_CHUNK = HistogramOf(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "Of one attempt at an endpoint that streamed",
    PLACE,
    DURATION_S,
)
ACTUAL_TO_EXPECTED = HistogramOf(
    "gateway_first_token_actual_to_expected",
    "First token's seconds over those that the policy had expected",
    ("endpoint",),
    RATIO,
)
HISTOGRAMS = (
    REQUEST_DURATION,
    FIRST_TOKEN,
    PER_TOKEN,
    TOKEN_USAGE,
    OPERATION_DURATION,
    FIRST_CHUNK,
    ACTUAL_TO_EXPECTED,
)

COUNTERS = {
    "exchanges": CounterOf("By how they ended", ("model", "ended", "fault")),
    "decisions": CounterOf("By why the winner won", ("policy", "reason")),
    "rejections": CounterOf("Candidates that a filter dropped", ("endpoint", "filter")),
    "attempts": CounterOf("Tries", ("endpoint", "error_type")),
    "fallbacks": CounterOf("Attempts after another had failed", ("endpoint", "after")),
    "hedges": CounterOf("Attempts while another was waited for", ("endpoint", "won")),
    "resumes": CounterOf("Attempts that took up a broken answer", ("endpoint", "error_type")),
    "shed": CounterOf("Refused before any endpoint was asked", ("error_type",)),
    "refused": CounterOf("Refused at the door: no exchange began", ("error_type",)),
    "response_cache": CounterOf(
        "Requests whose answer may be one given before", ("model", "found")
    ),
    "cost_dollars": CounterOf("What attempts cost us", ("endpoint", "model", "billed_by")),
    "expected_cost_dollars": CounterOf("What policies expected of them", ("endpoint", "model")),
    "cached_tokens": CounterOf("Prompt tokens found in caches", ("endpoint", "model")),
    "expected_cached_tokens": CounterOf("What policies expected of them", ("endpoint", "model")),
}
"""`gateway_`NAME`_total`."""

GAUGES = {
    "endpoint_up": GaugeOf("Whether requests are sent there", "endpoint", "livemin"),
    "endpoint_ejected": GaugeOf(
        "Whether it kept failing, and is left alone", "endpoint", "livemax"
    ),
    "endpoint_half_open": GaugeOf(
        "Whether it was left alone, and the next request finds out", "endpoint", "livemax"
    ),
    "endpoint_drained": GaugeOf("Whether it gets nothing new, by hand", "endpoint", "livemax"),
    "endpoint_in_flight": GaugeOf("Requests sent there and not answered in full", "endpoint"),
    "endpoint_queued_tokens": GaugeOf(
        "Uncached prompt tokens sent there, first event awaited", "endpoint"
    ),
    "queued": GaugeOf("Requests that wait for room at an endpoint", None),
    "budget_multiplier": GaugeOf(
        "How much dearer its budget makes a dollar (lambda)", "policy", "livemax"
    ),
    "config_generation": GaugeOf("One more with every config put in force", None, "livemin"),
    "config_reload_ok": GaugeOf("Whether the last reload went well", None, "livemin"),
    "spans_dropped": GaugeOf("Spans that no collector took, since the start", None, "sum"),
    "ledger_dropped": GaugeOf("Exchanges that the ledger lacks, since the start", None, "sum"),
}
"""`gateway_`NAME, read of the process whenever somebody looks."""

LEFT = "tenant_budget_left_dollars"
BALANCES = {
    "tenant_budget_dollars": "What a tenant may spend in a day or a month",
    LEFT: "What is left of it",
}
"""`gateway_`NAME, by tenant and window: for names of the config that have a budget."""
