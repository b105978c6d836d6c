"""Whether a hosted endpoint is there, before anybody has asked it for an answer."""

from __future__ import annotations

import httpx
import pytest

from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio


async def test_it_is_asked_for_its_models_once_and_with_its_key() -> None:
    upstream = Upstream()
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        await g.reached()
        assert (await client.get(f"{g.url}/ready")).status_code == 200
    assert (upstream.probes, upstream.received) == (1, [])


async def test_having_no_list_of_models_is_an_answer_too() -> None:
    async with gateway(Upstream(models_status=404)) as g:
        await g.reached()


async def test_a_refused_key_makes_nobody_ready() -> None:
    upstream = Upstream(models_status=401)
    async with gateway(upstream) as g, httpx.AsyncClient() as client:
        answer = await g.sdk.models.list()  # time goes by
        assert answer.data
        assert (await client.get(f"{g.url}/ready")).status_code == 503
