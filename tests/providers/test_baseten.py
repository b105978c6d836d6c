"""Baseten, as its documentation reads: both that we speak to, and what is their own."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamBusy, UpstreamError, UpstreamOverloaded, UpstreamRefused
from gateway.providers.catalog import find_dialect
from tests.support.hosted import Hosted, Reply, answer, replies, speaking
from tests.support.requests import chat

pytestmark = pytest.mark.anyio

DEDICATED = "/environments/production/sync/v1"


async def test_the_model_apis_keep_a_session_in_one_place_by_a_header() -> None:
    hosted = Hosted()
    async with speaking("baseten", hosted) as provider:
        await answer(provider, chat("hi", session_id="s"))
    (got,) = hosted.received
    assert got.headers["authorization"] == "Bearer key-one"
    assert len(got.headers["x-session-affinity"]) == 32
    assert "prompt_cache_key" not in got.body


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, UpstreamBusy), (503, UpstreamOverloaded), (529, UpstreamOverloaded)],
)
async def test_no_capacity_is_told_from_a_limit(status: int, kind: type[UpstreamError]) -> None:
    async with speaking("baseten", replies(Reply(status, {"error": "no"}))) as provider:
        with pytest.raises(UpstreamError) as caught:
            await answer(provider, chat("hi"))
    assert type(caught.value) is kind


async def test_a_deployment_has_its_own_kind_of_key_and_path() -> None:
    hosted = Hosted()
    async with speaking("baseten_dedicated", hosted, base=DEDICATED) as provider:
        await answer(provider, chat("hi"))
    (got,) = hosted.received
    assert got.headers["authorization"] == "Api-Key key-one"
    assert got.path == DEDICATED + "/chat/completions"


async def test_a_deployment_can_be_woken() -> None:
    hosted = Hosted(pages={"/environments/production/wake": Reply(202, {})})
    async with speaking("baseten_dedicated", hosted, base=DEDICATED) as provider:
        await provider.wake()
    (got,) = hosted.received
    assert (got.method, got.path) == ("POST", "/environments/production/wake")
    assert got.headers["authorization"] == "Api-Key key-one"


async def test_who_cannot_be_woken_says_so() -> None:
    async with speaking("baseten_dedicated", replies(Reply(404)), base=DEDICATED) as provider:
        with pytest.raises(UpstreamRefused):
            await provider.wake()


def test_a_deployment_is_waited_for_as_long_as_it_holds_a_request() -> None:
    assert find_dialect("baseten_dedicated").patience_s == 1200
