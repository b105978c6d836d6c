"""Who may be asked at all: tables of what is known of an endpoint and what is asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from routing_policies.base import Candidate, Price, RouteRequest
from routing_policies.catalog import Catalog, PolicyError

CATALOG = Catalog.load()


def keeps(filter_: str, request: dict[str, Any], candidate: dict[str, Any], **given: Any) -> bool:
    part = CATALOG.build("filters", filter_, given)
    kept: bool = part.keep(
        RouteRequest("m", 1000, **request), Candidate("a", frozenset("m"), **candidate)
    )
    return kept


TOOLS, BOTH = frozenset({"tools"}), frozenset({"tools", "isolates_tenants"})


@pytest.mark.parametrize(
    ("needs", "known", "also", "kept"),
    [
        ((), (), [], True),
        (TOOLS, TOOLS, [], True),
        (TOOLS, (), [], False),
        (TOOLS, None, [], True),  # not stated: it judges itself
        ((), TOOLS, ["isolates_tenants"], False),
        ((), BOTH, ["isolates_tenants"], True),
        ((), None, ["isolates_tenants"], False),
    ],
)
def test_has_capabilities(needs: Any, known: Any, also: list[str], kept: bool) -> None:
    stated = None if known is None else frozenset(known)
    request = {"needs": frozenset(needs)}
    assert keeps("has_capabilities", request, {"capabilities": stated}, also=also) is kept


@pytest.mark.parametrize(
    ("demanded", "at_least", "kept_to", "kept"),
    [
        ("unrestricted", "unrestricted", "unrestricted", True),
        ("no_training", "unrestricted", "unrestricted", False),
        ("no_training", "unrestricted", "zero_retention", True),
        ("unrestricted", "zero_retention", "no_training", False),
        ("zero_retention", "no_training", "no_training", False),
        ("zero_retention", "no_training", "zero_retention", True),
    ],
)
def test_allowed_by_data_policy(demanded: str, at_least: str, kept_to: str, kept: bool) -> None:
    request, candidate = {"data_policy": demanded}, {"data_policy": kept_to}
    assert keeps("allowed_by_data_policy", request, candidate, at_least=at_least) is kept


@pytest.mark.parametrize(
    ("regions", "region", "kept"),
    [([], None, True), (["eu"], "eu", True), (["eu", "us"], "asia", False), (["eu"], None, False)],
)
def test_regions(regions: list[str], region: str | None, kept: bool) -> None:
    assert keeps("allowed_by_data_policy", {}, {"region": region}, regions=regions) is kept


def test_a_data_policy_that_is_none_is_refused() -> None:
    with pytest.raises(PolicyError, match="one of: unrestricted, no_training, zero_retention"):
        CATALOG.build("filters", "allowed_by_data_policy", {"at_least": "nice"})


@pytest.mark.parametrize(
    ("budget", "candidate", "kept"),
    [
        (None, {"price": Price(1e6)}, True),
        (0.0, {}, True),  # what costs nothing is always within it
        (0.001, {"price": Price(1)}, True),
        (0.0009, {"price": Price(1)}, False),
        (0.0006, {"price": Price(1, cached=0.1), "cached_tokens": 500}, True),
        (0.001, {"price": Price(1), "start_usd": 0.1}, False),
        (0.001, {"price": Price(1, output=5)}, False),
    ],
)
def test_within_budget(budget: float | None, candidate: dict[str, Any], kept: bool) -> None:
    assert keeps("within_budget", {"budget_usd": budget, "output_tokens": 1}, candidate) is kept
