"""What is doubtful is said to be so."""

from datetime import date
from pathlib import Path

import pytest

from gateway.config.bind import Date, Secret
from gateway.config.doubts import doubts
from gateway.config.tree import (
    Config,
    Endpoint,
    Key,
    ModelMap,
    ModelPrice,
    PolicyRule,
    State,
    Tenant,
)
from gateway.rules import Match

TODAY = date(2026, 11, 23)


def doubted(model: str = "m", **price) -> list[str]:
    endpoint = Endpoint(
        "http://e/v1", ModelMap(m="theirs"), prices={model: ModelPrice(1.0, 2.0, **price)}
    )
    return list(doubts(Config(endpoints={"e": endpoint}), TODAY))


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ({}, None),
        ({"as_of": Date(2026, 10, 1), "ends": Date(2026, 11, 23)}, None),
        ({"as_of": Date(2026, 8, 1)}, "last looked at on 2026-08-01"),
        ({"ends": Date(2026, 11, 22)}, "ended on 2026-11-22"),
    ],
)
def test_an_old_price_is_doubted(price: dict, said: str | None) -> None:
    assert [said in doubt for doubt in doubted(**price)] == ([] if said is None else [True])


def test_a_price_for_a_model_that_is_not_served_is_doubted() -> None:
    assert doubted("n") == ["e: it has a price for 'n', which it does not serve"]


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ValueError, match="not negative"):
        ModelPrice(1.0, -1.0)


ACME = (Key("web", Secret("12345678-abc"), tenant="acme"),)


@pytest.mark.parametrize(
    ("keys", "tenant", "state", "doubtful"),
    [
        (ACME, "acme", State(), False),
        (ACME, "acmee", State(), True),
        ((), "acme", State(), True),
        ((), "default", State(), False),
        (ACME, "acmee", State(keys_file=Path("keys.json")), False),  # a made key may be of it
    ],
)
def test_a_tenant_that_no_key_is_of_is_doubted(
    keys: tuple[Key, ...], tenant: str, state: State, doubtful: bool
) -> None:
    config = Config(
        endpoints={"e": Endpoint("http://e/v1", ModelMap(m="m"))},
        policy=(PolicyRule("fastest", Match(tenant=tenant)), PolicyRule("balanced")),
        keys=keys,
        tenants={tenant: Tenant()},
        state=state,
    )
    said = [
        f"tenants.{tenant}: no key is of this tenant",
        f"policy[0].match.tenant: no key is of the tenant {tenant!r}",
    ]
    assert list(doubts(config, TODAY)) == (said if doubtful else [])
