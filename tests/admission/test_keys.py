from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.admission.key_store import KeyFile
from gateway.admission.keys import OPEN, Key, KeyRing
from gateway.domain import Principal
from gateway.errors import InvalidKey, Unavailable
from tests.support.clock import ManualClock

RING = KeyRing(
    [
        Key("web", "acme", "sk-web-12345"),
        Key("batch", "acme", "sk-batch-123", models=frozenset({"small"})),
        Key("other", "rival", "sk-rival-123"),
    ]
)
WEB = Principal("acme", "web", None)


@pytest.mark.parametrize(
    "header",
    [
        "Bearer sk-web-12345",
        "bearer sk-web-12345",
        "BEARER   sk-web-12345 ",
    ],
)
def test_a_known_key_tells_who_asks(header: str) -> None:
    assert RING.identify(header) == WEB


def test_keys_of_one_tenant_are_told_apart() -> None:
    batch = RING.identify("Bearer sk-batch-123")
    assert (batch.tenant, batch.key_name) == ("acme", "batch")
    assert RING.identify("Bearer sk-rival-123").tenant == "rival"


def test_a_key_may_be_for_some_models_only() -> None:
    batch = RING.identify("Bearer sk-batch-123")
    assert [batch.may_use(model) for model in ("small", "large")] == [True, False]
    assert WEB.may_use("large")
    assert not Principal("acme", "none", frozenset()).may_use("small")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "you must provide an API key: 'authorization: Bearer …'"),
        ("", "you must provide an API key: 'authorization: Bearer …'"),
        ("Bearer", "the API key is not known here"),
        ("Bearer ", "the API key is not known here"),
        ("Bearer sk-web-1234", "the API key is not known here"),
        ("Bearer sk-web-12345 sk-web-12345", "the API key is not known here"),
        ("Bearer sk-web-\xff", "the API key is not known here"),
        ("Basic sk-web-12345", "the API key is not known here"),
        ("sk-web-12345", "the API key is not known here"),
        ("Bearersk-web-12345", "the API key is not known here"),
    ],
)
def test_whoever_else_is_turned_away(header: str | None, says: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        RING.identify(header)
    assert caught.value.message == says


@pytest.mark.parametrize("header", [None, "Bearer anything", "Basic x"])
def test_without_keys_everyone_is_the_same(header: str | None) -> None:
    assert KeyRing([]).identify(header) == OPEN


def test_keys_are_not_printed_nor_kept() -> None:
    assert "sk-web" not in repr(Key("web", "acme", "sk-web-12345"))
    assert "sk-web" not in repr(vars(RING))


def test_a_hash_stands_for_its_key_and_is_no_key_itself() -> None:
    digest = sha256(b"sk-hashed-1234").hexdigest()
    ring = KeyRing([Key("h", "acme", f"sha256:{digest}")])
    assert ring.identify("Bearer sk-hashed-1234").key_name == "h"
    for other in (digest, f"sha256:{digest}"):
        with pytest.raises(InvalidKey):
            ring.identify(f"Bearer {other}")


def test_a_key_is_refused_from_its_expiry_on() -> None:
    clock = ManualClock(100.0)
    ring = KeyRing([Key("h", "acme", "sk-short-lived", expires=200.0)], clock)
    assert ring.identify("Bearer sk-short-lived").key_name == "h"
    clock.advance(100)
    with pytest.raises(InvalidKey, match="expired"):
        ring.identify("Bearer sk-short-lived")


def test_who_asks_later_is_not_turned_away_while_the_made_keys_are_not_known() -> None:
    configured = Key("admin", "acme", "sk-admin-123")
    with pytest.raises(Unavailable):
        KeyRing([configured], unsure=True).named("acme", "made")
    with pytest.raises(InvalidKey, match="not valid any more"):
        KeyRing([configured]).named("acme", "made")
    assert KeyRing([configured], unsure=True).named("acme", "admin").key_name == "admin"


@pytest.mark.anyio
@pytest.mark.parametrize("stored", [[1], ["key"], [[]], {"keys": []}, None, 7])
async def test_a_store_that_holds_no_records_is_one_that_cannot_be_read(
    tmp_path: Path, stored: object
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(stored))
    with pytest.raises(OSError, match=r"keys\.json"):
        await KeyFile(file).records()
