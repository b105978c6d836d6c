from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from gateway.domain import Attempt, BilledBy, Ended, Outcome, Principal, TraceContext, Usage
from gateway.telemetry.log import ExchangeLog, JsonLines
from tests.support.requests import chat


def logged(caplog: pytest.LogCaptureFixture, outcome: Outcome) -> str:
    with caplog.at_level(logging.INFO, "gateway.exchange"):
        ExchangeLog().settled(outcome)
    return caplog.messages[-1]


def outcome(**known: object) -> Outcome:
    settled = Outcome("r-1", Principal("acme", "web"), started=10.0, finished=12.5)
    for name, value in known.items():
        setattr(settled, name, value)
    return settled


def test_an_exchange_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    whole = outcome(
        model="m",
        request=chat(),
        attempts=[
            Attempt("a", 10.0, error="upstream_busy"),
            Attempt(
                "b",
                10.5,
                expected_ttft_s=0.4,
                expected_cost_usd=0.002,
                expected_cached_tokens=70,
                first_event=11.0,
                billed_usd=0.0015,
                billed_by=BilledBy.TARIFF,
                cached_tokens=64,
            ),
        ],
        usage=Usage(100, 20, 64),
        ended=Ended.FINISHED,
    )
    assert logged(caplog, whole) == (
        "r-1 finished tenant=acme model=m tried=a:upstream_busy,b tokens=100(64)+20"
        " first_s=1.000 total_s=2.500 ttft_s=0.5/0.4 usd=0.0015/0.002 cached=64/70"
    )


def test_a_failure_says_which(caplog: pytest.LogCaptureFixture) -> None:
    refused = outcome(ended=Ended.FAILED, error="invalid_request_error")
    assert logged(caplog, refused) == (
        "r-1 failed tenant=acme model=- tried=- tokens=- first_s=- total_s=2.500"
        " error=invalid_request_error"
    )


def test_a_model_that_nobody_serves_is_the_callers_text_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unknown = outcome(model="m\nforged line", ended=Ended.FAILED, error="model_not_found")
    assert "forged" not in logged(caplog, unknown)


def test_json_lines_hold_the_same_facts_and_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    whole = outcome(
        model="m",
        attempts=[Attempt("b", 10.5, first_event=11.0, hedge=True, billed_usd=0.25)],
        usage=Usage(100, 20, 64),
        ended=Ended.FINISHED,
        trace=TraceContext(0xABC, 1, True),
    )
    logged(caplog, whole)
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert line["message"] == "exchange"
    assert line["trace_id"] == f"{0xABC:032x}"
    assert (line["prompt_tokens"], line["cost_usd"], line["tried"]) == (100, 0.25, ["hedge=b"])
    assert line["time"].endswith("Z")
    assert "error" not in line  # what is not known is left out


def test_json_lines_hold_whatever_else_is_logged_exceptions_too() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        record = logging.LogRecord(
            "gateway", logging.ERROR, __file__, 1, "it %s", ("failed\nbadly",), sys.exc_info()
        )
    text = JsonLines().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "it failed\nbadly"
    assert "ValueError: odd" in json.loads(text)["exception"]


@pytest.mark.parametrize(
    ("form", "terminal", "in_json"),
    [("auto", True, False), ("auto", False, True), ("text", False, False), ("json", True, True)],
)
def test_people_in_a_terminal_get_text(form: str, terminal: bool, in_json: bool) -> None:
    """In a process of its own, since logging is the process's."""
    code = (
        f"import sys, logging; sys.stderr.isatty = lambda: {terminal};"
        f"from gateway.telemetry.log import configure; configure('info', form={form!r});"
        "logging.getLogger('gateway').info('hello')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr.startswith("{") is in_json
    assert "hello" in told.stderr
