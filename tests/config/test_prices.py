"""Prices that are doubtful are said to be so."""

from datetime import date

import pytest

from gateway.config.bind import Date
from gateway.config.prices import price_doubts
from gateway.config.tree import Endpoint, ModelMap, ModelPrice

TODAY = date(2026, 11, 23)


def doubts(**price) -> list[str]:
    endpoint = Endpoint(
        "http://e/v1", ModelMap(m="theirs"), prices={"m": ModelPrice(1.0, 2.0, **price)}
    )
    return list(price_doubts(endpoint, TODAY))


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
    assert [said in doubt for doubt in doubts(**price)] == ([] if said is None else [True])


def test_a_price_for_a_model_that_is_not_served_is_doubted() -> None:
    endpoint = Endpoint("http://e/v1", ModelMap(m="m"), prices={"n": ModelPrice(1.0, 2.0)})
    assert "does not serve" in next(price_doubts(endpoint, TODAY))


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ValueError, match="not negative"):
        ModelPrice(1.0, -1.0)
