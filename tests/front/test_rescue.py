"""The one table: every error of ours as an answer, and what must stand in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway import errors
from gateway.errors import GatewayError, InvalidKey, InvalidRequest, RateLimited
from gateway.front.rescue import error_response, no_such_route, rescue
from gateway.wire.openai import Presenter
from gateway.wire.sse import EventDecoder


def every(error: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield error
    for kind in error.__subclasses__():
        yield from every(kind)


def request(method: str = "GET", path: str = "/nowhere") -> Request:
    return Request({"type": "http", "method": method, "path": path, "headers": [], "server": None})


@pytest.mark.parametrize("kind", list(every()), ids=lambda kind: kind.__name__)
def test_every_error_is_answered_in_openais_shape(kind: type[GatewayError]) -> None:
    response = error_response(kind("what was wrong", param="n"))
    assert response.status_code == kind.status
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "what was wrong", "type": kind.type, "param": "n", "code": kind.code}
    }


def test_the_tree_that_the_docstring_draws_is_the_real_one() -> None:
    """Its lines read `├── Name   status code   remark`."""
    lines = (line.lstrip("├│└─ ").split() for line in (errors.__doc__ or "").splitlines())
    drawn = {w[0]: (int(w[1]), w[2]) for w in lines if len(w) >= 3 and w[1].isdigit()}
    assert drawn == {kind.__name__: (kind.status, kind.code) for kind in every()}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (errors.ModelNotFound, "caller"),
        (errors.BudgetExhausted, "caller"),
        (errors.RateLimited, "caller"),
        (errors.NotSupported, "caller"),
        (errors.UpstreamBusy, "provider"),
        (errors.UpstreamCold, "provider"),
        (errors.NoCandidate, "ours"),
        (errors.Overloaded, "ours"),
        (errors.Unavailable, "ours"),
        (GatewayError, "ours"),
    ],
)
def test_whose_failure_it_is_its_class_says(kind: type[GatewayError], fault: str) -> None:
    assert kind.fault == fault


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (None, None),
        (0.0, "1"),  # at once would be a stampede
        (-5.0, "1"),
        (0.2, "1"),
        (1.0, "1"),
        (1.01, "2"),  # never too early
        (59.5, "60"),
        (60.0, "60"),
        (61.0, "60"),  # the SDKs would not wait any longer
        (math.inf, "60"),
        (math.nan, "1"),
    ],
)
def test_when_to_come_back_is_in_whole_seconds(seconds: float | None, header: str | None) -> None:
    response = error_response(RateLimited("slowly", retry_after_s=seconds))
    assert response.headers.get("retry-after") == header


def test_who_has_no_key_is_told_the_scheme() -> None:
    assert error_response(InvalidKey("no")).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in error_response(InvalidRequest("no")).headers


def test_in_the_middle_of_a_stream_an_error_is_an_event() -> None:
    presenter = Presenter("m", "r1")
    (data,) = EventDecoder().feed(presenter.broken(RateLimited("slowly\n\nplease")))
    assert json.loads(data) == RateLimited("slowly\n\nplease").body()


def test_words_that_are_no_utf8_can_be_said_too() -> None:
    assert json.loads(bytes(error_response(InvalidRequest("\ud800")).body))["error"]["message"]


@pytest.mark.anyio
async def test_errors_outside_an_exchange_get_the_same_answer() -> None:
    response = await rescue(request(), InvalidKey("no"))
    assert (response.status_code, bytes(response.body)) == (
        401,
        bytes(error_response(InvalidKey("no")).body),
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "method", "allow"),
    [
        (HTTPException(404), "GET", None),
        (HTTPException(405, headers={"Allow": "POST"}), "PUT", "POST"),
    ],
)
async def test_a_route_that_is_not_there_is_answered_in_the_apis_shape(
    error: HTTPException, method: str, allow: str | None
) -> None:
    response = await no_such_route(request(method, "/v1/nowhere"), error)
    body = json.loads(bytes(response.body))["error"]
    assert response.status_code == error.status_code
    assert response.headers.get("allow") == allow
    assert body["message"] == f"there is no {method} /v1/nowhere here"
    assert body["code"] == "not_found"
