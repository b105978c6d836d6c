"""Tokens, words, buckets and replicas by themselves."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.emulator.limits import Account, Adaptive, Bucket
from gateway.emulator.machine import Machine
from gateway.emulator.profiles.openai import duration
from gateway.emulator.settings import Settings
from gateway.emulator.text import WORDS, plausible, word
from gateway.emulator.tokens import blocks, tokens


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@given(st.text())
def test_tokens_put_together_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text


def test_each_word_said_is_one_token() -> None:
    assert all(len(tokens(f" {each}")) == len(tokens(each.capitalize())) == 1 for each in WORDS)
    said = "".join(word(0, "hello", position) for position in range(50))
    assert len(tokens(said)) == 50


def test_blocks_are_equal_as_far_as_prompts_are() -> None:
    one, two = tokens("a b c d e f g h"), tokens("a b c d e x g h")
    assert blocks(one, 2, "")[:2] == blocks(two, 2, "")[:2]
    assert blocks(one, 2, "")[2:] != blocks(two, 2, "")[2:]
    assert not set(blocks(one, 2, "")) & set(blocks(one, 2, "tenant"))
    assert len(blocks(tokens("a b c"), 2, "")) == 1


def test_a_plausible_value_fits_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "x": {"enum": ["red", "blue"]},
            "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
            "maybe": {"type": ["null", "string"]},
        },
    }
    assert plausible(schema) == {"n": 7, "x": "red", "list": [True, True], "maybe": None}


def test_a_bucket_refills_steadily() -> None:
    bucket = Bucket(60, 60, 0.0)
    bucket.spend(60, 0.0)
    assert bucket.wait_s(1, 0.0) == 1
    assert bucket.wait_s(1, 0.5) == 0.5
    assert bucket.reset_s(30.0) == 30
    assert bucket.remaining(1000.0) == 60
    assert Bucket(0, 60, 0.0).wait_s(1e9, 0.0) == 0


def test_an_adaptive_limit_lets_steady_growth_through_and_stops_a_ramp() -> None:
    bucket = Adaptive(100, 60, 0.0)
    assert bucket.wait_s(1, 0.0) == 0
    bucket.spend(100, 0.0)
    assert bucket.wait_s(100, 1.0) > 50
    bucket.spend(0, 61.0)
    assert bucket.limit == 200
    bucket.spend(0, 130.0)
    assert bucket.limit == 100


def test_an_account_names_what_is_used_up() -> None:
    now = [0.0]
    settings = Settings(requests_per_minute=2, tokens_per_minute=100, concurrency=1)
    account = Account(settings, lambda: now[0], adaptive=False)
    with account.running():
        assert account.full(1).what == "concurrency"
    account.spend_tokens(150)
    assert (account.full(1).what, account.full(1).wait_s) == ("tokens", pytest.approx(30.6))
    account.spend_request()
    account.spend_request()
    assert account.full(0).what == "requests"
    now[0] = 60.0
    assert account.full(1) is None


def test_a_machine_stops_when_idle_and_starts_again() -> None:
    now = [0.0]
    machine = Machine(Settings(cold_start_s=10, idle_s=60), 0, 1.0, lambda: now[0])
    assert (machine.start(), machine.start()) == (10, 10)
    now[0] = 4.0
    assert machine.start() == 6
    now[0] = 10.0
    assert machine.start() == 0
    now[0] = 71.0
    assert machine.start() == 10
    assert Machine(Settings(), 0, 1.0, lambda: 0.0).start() == 0


@pytest.mark.anyio
async def test_who_comes_late_waits_for_a_slot() -> None:
    machine = Machine(Settings(slots=1), 0, 1.0, asyncio.get_running_loop().time)
    async with machine.place([], 10, None):
        late = asyncio.create_task(anext(aiter_place(machine)))
        await asyncio.sleep(0.01)
        assert (machine.waiting, machine.load) == (1, 2)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert machine.load == 1
    assert machine.load == 0


async def aiter_place(machine: Machine):
    async with machine.place([], 10, None) as place:
        yield place


@pytest.mark.anyio
async def test_a_cache_that_is_full_forgets_the_oldest() -> None:
    machine = Machine(Settings(cache_tokens=64, block_tokens=16), 0, 1.0, lambda: 0.0)
    cached = []
    for ids in ([1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [1, 2, 3, 4, 5, 6]):
        async with machine.place(ids, 16 * len(ids) + 1, None) as place:
            cached.append(place.cached_tokens)
    assert cached == [0, 0, 32, 0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.012, "12ms"), (1.5, "1.5s"), (179.56, "2m59.56s"), (60, "1m0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
