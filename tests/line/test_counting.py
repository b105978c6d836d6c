"""Where a context's limit is near, prompts are counted before they are sent."""

from typing import Any

import pytest

from gateway.config.bind import Secret
from gateway.config.tree import Key
from gateway.domain import InferenceRequest
from gateway.errors import UpstreamUnreachable
from gateway.providers.openai_compatible import OpenAICompatible
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

NUMBERS = " ".join(str(number % 10) for number in range(1600))
"""A token for nearly each byte, where prose has one for every four."""


async def ask(g, text: str) -> str:
    raw = await g.sdk.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": text}]
    )
    return raw.headers["x-gateway-endpoint"]


async def test_a_prompt_that_an_estimate_would_have_let_in_goes_where_it_fits():
    async with gateway(Upstream(), Upstream(), tokenizers={"m": "cl100k_base"}) as g:
        small, large = g.gateway.fleet.endpoints.values()
        small.context_length, large.context_length = 1000, 100_000
        assert await ask(g, NUMBERS) == "u1"
        assert await ask(g, "a word " * 300) == "u0"
        numbers, _ = await g.settled.wait_for(2)
    assert numbers.request.prompt_tokens > 1600
    assert numbers.considered[-1].dropped_by == "fits_context"


async def test_a_prompt_far_from_any_limit_is_not_counted():
    async with gateway(Upstream(), tokenizers={"m": "cl100k_base"}) as g:
        g.gateway.fleet.endpoints["u0"].context_length = 100_000
        await ask(g, NUMBERS)
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.request.prompt_tokens is None


async def test_an_endpoint_that_can_is_asked_for_the_count(monkeypatch: pytest.MonkeyPatch):
    async with gateway(Upstream(), Upstream(), Upstream()) as g:
        dead, small, large = g.gateway.fleet.endpoints.values()
        small.context_length, large.context_length = 1000, 100_000

        async def count(self: OpenAICompatible, request: InferenceRequest) -> int:
            if self is dead.provider:
                raise UpstreamUnreachable("gone")
            return 1000

        monkeypatch.setattr(OpenAICompatible, "count", count)
        dead.drained = True
        assert await ask(g, NUMBERS) == "u2"
        (outcome,) = await g.settled.wait_for(1)
    assert outcome.request.prompt_tokens == 1000


@pytest.mark.parametrize(
    "key",
    [{"endpoints": ("u1",)}, {"data_policy": "zero_retention"}],
    ids=["endpoints", "data_policy"],
)
async def test_only_who_may_have_a_prompt_is_asked_to_count_it(
    monkeypatch: pytest.MonkeyPatch, key: dict[str, Any]
):
    keys = (Key("narrow", Secret("key-of-narrow"), **key),)
    policies = [{"data_policy": "no_training"}, {"data_policy": "zero_retention"}]
    asked = list[OpenAICompatible]()

    async def count(self: OpenAICompatible, request: InferenceRequest) -> int:
        asked.append(self)
        return 7

    monkeypatch.setattr(OpenAICompatible, "count", count)
    options = {"endpoint": policies, "keys": keys, "api_key": "key-of-narrow"}
    async with gateway(Upstream(), Upstream(), **options) as g:
        _, fitting = g.gateway.fleet.endpoints.values()
        fitting.context_length = 1000
        told = await g.sdk.responses.input_tokens.count(model="m", input="Hi")
        await ask(g, NUMBERS)
    assert told.input_tokens == 7
    assert asked == [fitting.provider, fitting.provider]
