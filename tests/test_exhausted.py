"""What the client hears when nobody answered."""

from __future__ import annotations

import pytest

from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    NoCandidate,
    UpstreamBusy,
    UpstreamCold,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamOverloaded,
    UpstreamTimeout,
    UpstreamUnpaid,
)
from gateway.exhausted import exhausted
from gateway.front.rescue import error_response


def said(*errors: GatewayError) -> GatewayError:
    return exhausted("m", {f"e{i}": error for i, error in enumerate(errors)})


BUSY, BUSY_LONG = UpstreamBusy("x", retry_after_s=4), UpstreamBusy("x", retry_after_s=300)
COLD, FULL, LATE = UpstreamCold("x", retry_after_s=9), UpstreamOverloaded("x"), UpstreamTimeout("x")
KEY, UNPAID = UpstreamKeyRefused("x"), UpstreamUnpaid("x")


@pytest.mark.parametrize(
    ("errors", "kind", "retry_after", "should_retry"),
    [
        ([BUSY, BUSY_LONG, LATE], UpstreamBusy, "4", None),
        ([BUSY_LONG], UpstreamBusy, "60", None),
        ([UpstreamBusy("x")], UpstreamBusy, "1", None),
        ([LATE, COLD], UpstreamCold, "9", None),
        ([FULL, COLD], UpstreamOverloaded, "9", None),
        ([KEY, LATE], UpstreamTimeout, None, None),
        ([KEY, UNPAID], UpstreamKeyRefused, None, "false"),
        ([], NoCandidate, "1", None),
    ],
)
def test_one_error_says_what_to_do(
    errors: list[UpstreamError],
    kind: type[GatewayError],
    retry_after: str | None,
    should_retry: str | None,
) -> None:
    error = said(*errors)
    assert type(error) is kind
    headers = error_response(error).headers
    assert headers.get("retry-after") == retry_after
    assert headers.get("x-should-retry") == should_retry


def test_it_names_what_each_said_by_its_class() -> None:
    message = said(UpstreamBusy("at its limit"), UpstreamTimeout("10.0.0.9 sk-1")).message
    assert message == "at its limit (e0: rate_limit_exceeded, e1: upstream_timeout)"


def test_a_prompt_that_is_too_long_counts_when_nobody_said_anything_else() -> None:
    too_long = ContextLengthExceeded("too long by 3")
    assert said(too_long) is too_long
    assert type(said(too_long, LATE)) is UpstreamTimeout
