"""Prefix keys: two requests of one tenant share a key exactly as far as they are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.domain import InferenceRequest, PrefixKey
from gateway.wire.prefix import (
    COARSEST_GRAIN,
    GRAINS,
    KEY_BYTES,
    MESSAGE_KEYS,
    canonical,
    chat_parts,
    prefix_keys,
)
from tests.support.requests import chat, completion, parsed, turns

TENANT = b"one tenant's key"

texts = st.text(max_size=700)
conversations = st.lists(texts, min_size=1, max_size=6)
(FINE_UP_TO, FINE_GRAIN), (COARSE_UP_TO, COARSE_GRAIN) = GRAINS
parts = st.lists(st.binary(min_size=1, max_size=3 * FINE_UP_TO), min_size=1, max_size=5)


def canonical_bytes(said: list[str]) -> bytes:
    return b"".join(chat_parts("m", {"messages": turns(*said)}))


def len_common(one: bytes, other: bytes) -> int:
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def shared(one: InferenceRequest, other: InferenceRequest) -> int:
    """How many keys they have in common, which must be the shortest of both."""
    common = set(one.prefix) & set(other.prefix)
    assert common == set(one.prefix[: len(common)]) == set(other.prefix[: len(common)])
    return len(common)


@given(conversations, st.lists(texts, max_size=4))
def test_a_longer_conversation_keeps_all_keys_of_the_shorter(
    early: list[str], late: list[str]
) -> None:
    before, after = chat(*early), chat(*early, *late)
    assert after.prefix[: len(before.prefix)] == before.prefix


@given(conversations, texts, st.data())
def test_a_changed_message_changes_every_key_beyond_the_change(
    said: list[str], text: str, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(said) - 1))
    changed = [*said[:index], text, *said[index + 1 :]]
    same = len_common(canonical_bytes(said), canonical_bytes(changed))
    keys = chat(*said).prefix
    assert shared(chat(*said), chat(*changed)) == sum(key.size <= same for key in keys)


@given(conversations)
def test_another_tenant_shares_no_key(said: list[str]) -> None:
    assert shared(chat(*said, tenant="acme"), chat(*said, tenant="rival")) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
def test_what_stands_before_the_first_message_is_part_of_every_key(other: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
    assert shared(parsed(body), parsed(body | other)) == 0


@pytest.mark.parametrize(
    "same",
    [
        {"temperature": 0.5, "max_tokens": 3, "stream": True},  # no part of the prompt
        {"tools": None},
        {"user": "u-1", "session_id": "s-1"},
    ],
)
def test_what_does_not_change_the_prompt_changes_no_key(same: dict[str, Any]) -> None:
    assert chat("hi", **same).prefix == chat("hi").prefix


def test_the_order_of_keys_and_white_space_do_not_matter() -> None:
    tidy = (
        b'{"model":"m","messages":[{"role":"user","content":"h\\u00e9"}],"tools":[{"a":1,"b":2}]}'
    )
    loose = """
        {"tools": [{"b": 2, "a": 1}],
         "messages": [{"content": "h\u00e9", "role": "user"}], "model": "m"}
    """.encode()
    assert parsed(tidy).prefix == parsed(loose).prefix


def test_a_longer_prompt_of_a_completion_keeps_the_keys_inside_it() -> None:
    short, longer = completion("x" * 1000), completion("x" * 1500)
    assert shared(short, longer) == len(short.prefix) - 1  # its end is the end of nothing else
    assert shared(completion("x" * 1000), completion("y" * 1000)) == 0


def test_token_prompts_have_keys_too() -> None:
    tokens = list(range(500))
    assert shared(completion(tokens), completion([*tokens, 1])) >= 5


@given(parts)
def test_keys_stand_at_every_parts_end_and_at_the_grain(pieces: list[bytes]) -> None:
    sizes = [key.size for key in prefix_keys(pieces, TENANT)]
    total = sum(map(len, pieces))
    ends = {sum(map(len, pieces[: i + 1])) for i in range(len(pieces))}
    fine = set(range(FINE_GRAIN, min(total, FINE_UP_TO + 1), FINE_GRAIN))
    coarse = set(range(FINE_UP_TO + COARSE_GRAIN, total, COARSE_GRAIN))
    assert sizes == sorted(ends | fine | coarse)


@given(parts, st.integers(1, 4))
def test_keys_depend_on_the_bytes_before_them_and_not_on_what_follows(
    pieces: list[bytes], count: int
) -> None:
    few = prefix_keys(pieces[:count], TENANT)
    assert prefix_keys(pieces, TENANT)[: len(few)] == few


@given(parts)
def test_keys_do_not_depend_on_how_the_parts_were_cut(pieces: list[bytes]) -> None:
    """The placement index compares beginnings of different requests: only bytes may count."""

    def by_size(keys: Sequence[PrefixKey]) -> dict[int, bytes]:
        return {key.size: key.digest for key in keys}

    cut, whole = (
        by_size(prefix_keys(pieces, TENANT)),
        by_size(prefix_keys([b"".join(pieces)], TENANT)),
    )
    assert whole.items() <= cut.items()


def test_a_key_is_a_short_digest() -> None:
    assert {len(key.digest) for key in chat("x" * 5000).prefix} == {KEY_BYTES}


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (1_000, 5),
        (100_000, 80),
        (32_000_000, 16_000),  # the largest body: its hashes are a quarter of a megabyte
    ],
)
def test_the_number_of_keys_is_bounded_by_the_prompts_size(size: int, most: int) -> None:
    assert len(prefix_keys([b"x" * size], TENANT)) <= most


@given(st.text(st.characters()))
def test_canonical_bytes_are_json_of_any_text(text: str) -> None:
    assert json.loads(canonical({"b": text, "a": [1, None]}).decode("utf-8", "surrogatepass")) == {
        "a": [1, None],
        "b": text,
    }
    assert canonical({"b": text, "a": 1}) == canonical({"a": 1, "b": text})


def test_a_picture_in_the_request_counts_as_its_digest_and_still_tells_prompts_apart():
    def parts(data: str) -> list[bytes]:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}
        content = [{"type": "text", "text": "what is this?"}, image]
        return chat_parts("m", {"messages": [{"role": "user", "content": content}]})

    one, other = parts("A" * 1_000_000), parts("B" * 1_000_000)
    assert len(one[0]) < 300
    assert one != other


def test_one_request_adds_a_bounded_number_of_keys() -> None:
    """Else one caller's request could push every other tenant's placements out of the index."""
    many_messages = [b"x" * 13] * 300_000
    one_message = [b"x" * (32 * 1024 * 1024)]
    for pieces in (many_messages, one_message):
        assert len(prefix_keys(pieces, TENANT)) < 1500
    assert len(prefix_keys([b"x"] * 1000, TENANT)) <= MESSAGE_KEYS + 1000 // FINE_GRAIN + 1


def test_beyond_the_last_grain_keys_stand_far_apart() -> None:
    sizes = [key.size for key in prefix_keys([b"x" * (COARSE_UP_TO * 2)], TENANT)]
    far = [size for size in sizes if size > COARSE_UP_TO]
    assert far == list(range(COARSE_UP_TO + COARSEST_GRAIN, COARSE_UP_TO * 2 + 1, COARSEST_GRAIN))
