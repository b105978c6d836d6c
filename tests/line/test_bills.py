"""What the ledger says an attempt was billed is what its endpoint charges, to the token."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.config.tree import Ledger, ModelPrice
from gateway.emulator.emulated import emulated
from gateway.emulator.endpoint import Endpoint
from gateway.ledger.record import Billed, Record
from gateway.ledger.report import bills, sums
from gateway.ledger.store import opened, read
from tests.support.gateways import Running, gateway
from tests.support.requests import turns

pytestmark = pytest.mark.anyio

EXCHANGES = 1_100
ENGINES = {"dialect": "vllm", "prices": {"m": ModelPrice(input=10, cached=1, output=100)}}
RATES = {"input_usd": 10.0, "cached_usd": 1.0, "output_usd": 100.0}
FAULTS = """
rules:
  - {probability: 0.06, fault: {status: 503}}
  - {probability: 0.06, fault: {reset: headers}}
  - {probability: 0.15, stream: true, fault: {reset: 9}}
  - {probability: 0.06, stream: true, fault: {close: 5}}
  - {probability: 0.05, stream: true, fault: {malformed: 7}}
  - {probability: 0.05, stream: true, fault: {no_usage: true}}
  - {probability: 0.05, stream: true, fault: {duplicate_usage: true}}
  - {probability: 0.05, stream: true, fault: {error: 4}}
  - {probability: 0.05, stream: false, fault: {truncate: 1}}
"""

Tokens = tuple[int, int, int]
Line = tuple[str, int, int, int]  # the request that it is for, and its tokens


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_over_a_thousand_mixed_exchanges_what_was_told_is_what_is_charged(
    tmp_path: Path,
) -> None:
    """Engines that go on with each other's answers, whose bills nothing of ours writes."""
    file, draw = tmp_path / "ledger.sqlite", random.Random(1)
    async with (
        emulated("vllm", seed=1, speed=50, script=FAULTS, **RATES) as first,
        emulated("vllm", seed=2, speed=50, script=FAULTS, **RATES) as second,
        gateway(
            first.url, second.url, policy="round_robin", endpoint=ENGINES, ledger=Ledger(file)
        ) as g,
    ):
        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            async with gate:
                await ask(g, draw, number)

        await asyncio.gather(*map(one, range(EXCHANGES)))
        await g.settled.wait_for(EXCHANGES)
    with opened(file) as connection:
        records, found = list(read(connection)), bills(connection)
        (total,) = sums(connection, ()).values()
    assert total.exchanges == EXCHANGES
    assert total.hung_up > 50
    assert total.failed > 10
    assert sum(attempt.resumed for record in records for attempt in record.attempts) > 50
    for name, there in {"u0": first, "u1": second}.items():
        told, untold = Counter[Line](), Counter[str]()
        for record, attempt in attempts_on(name, records):
            if attempt.billed_by == "tariff":
                told[record.request_id, *tokens(attempt)] += 1
            else:
                untold[record.request_id] += 1
        charges = charged(there)
        assert told.total() > 300
        assert told <= charges, "a row that nobody charges for, or of other tokens"
        rest = charges - told
        assert Counter(line[0] for line in rest.elements()) <= untold, "a charge without its row"
        row = found[name, "tariff"]
        assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == sums_of(told)
        assert row.usd == pytest.approx(dollars(told))
        estimated = found[name, "estimate"].usd
        assert 0.6 < estimated / dollars(rest) < 1.1  # docs/seeing.md says how near it comes


def attempts_on(name: str, records: list[Record]) -> Iterator[tuple[Record, Billed]]:
    for record in records:
        for attempt in record.attempts:
            if attempt.endpoint == name:
                yield record, attempt


def tokens(attempt: Billed) -> Tokens:
    assert attempt.prompt_tokens is not None
    assert attempt.completion_tokens is not None
    return attempt.prompt_tokens, attempt.cached_tokens or 0, attempt.completion_tokens


def charged(there: Endpoint) -> Counter[Line]:
    asked = {
        request.number: request.headers["x-request-id"]
        for request in there.requests
        if request.method == "POST"
    }
    return Counter(
        (asked[c.request], c.prompt_tokens, c.cached_tokens, c.completion_tokens)
        for c in there.bill.charges
    )


def sums_of(lines: Counter[Line]) -> Tokens:
    columns = list(zip(*lines.elements(), strict=True))
    prompt, cached, completion = (sum(map(int, column)) for column in columns[1:])
    return prompt, cached, completion


def dollars(lines: Counter[Line]) -> float:
    prompt, cached, completion = sums_of(lines)
    return ((prompt - cached) * 10 + cached + completion * 100) / 1e6


async def ask(g: Running, draw: random.Random, number: int) -> None:
    """Conversations of four turns, so that caches have something to tell."""
    talk, turn = divmod(number, 4)
    said = turns(*(f"{text} of talk {talk}: " + "word " * 30 for text in "abcdefg"[: 2 * turn + 1]))
    asked = {"model": "m", "messages": said, "max_tokens": 16, "n": 1 + (number % 10 == 0)}
    fate = draw.random()
    with contextlib.suppress(openai.APIError):
        if fate < 0.3:
            await g.sdk.chat.completions.create(**asked)
            return
        answer = await g.sdk.chat.completions.create(**asked, stream=True)
        left = draw.randrange(2, 12) if fate < 0.45 else None
        async for _ in answer:
            left = None if left is None else left - 1
            if left == 0:
                await answer.close()
                return
