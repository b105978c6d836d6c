"""Who may have an endpoint's places when they are few."""

from __future__ import annotations

import pytest

from gateway.fleet.places import LATELY_S, Places


def places(now: float = 0.0, **held: int) -> Places:
    filled = Places()
    for tenant, count in held.items():
        for _ in range(count):
            filled.began(tenant, now)
    return filled


def may_take(filled: Places, tenant: str, limit: int = 16, now: float = 0.0) -> bool:
    room = limit - sum(use.now for use in filled.users.values())
    return room > filled.kept_from(tenant, limit, now)


def test_a_tenant_alone_has_every_place() -> None:
    assert may_take(places(noisy=15), "noisy")


def test_once_there_are_others_the_last_place_in_sixteen_is_for_who_comes_from_nowhere() -> None:
    filled = places(noisy=15)
    filled.weights = {"quiet": 1.0}
    assert not may_take(filled, "noisy")
    assert may_take(filled, "quiet")
    assert may_take(places(noisy=30), "noisy", limit=33)


def test_of_a_few_places_none_is_kept_free() -> None:
    filled = places(noisy=3)
    filled.weights = {"quiet": 1.0}
    assert may_take(filled, "noisy", limit=4)


def test_what_a_tenant_had_lately_stays_free_for_it_within_its_share() -> None:
    filled = places(quiet=4)
    for _ in range(4):
        filled.ended("quiet")
    for taken in range(12):
        assert may_take(filled, "noisy"), taken
        filled.began("noisy", 1.0)
    assert not may_take(filled, "noisy")
    for _ in range(4):
        assert may_take(filled, "quiet")
        filled.began("quiet", 2.0)
    assert not may_take(filled, "quiet")


def test_what_it_had_is_forgotten_when_it_stays_away() -> None:
    filled = places(quiet=4)
    for _ in range(4):
        filled.ended("quiet")
    for stretch in range(1, 4):
        filled.began("noisy", stretch * LATELY_S)
    for _ in range(12):
        filled.began("noisy", 3 * LATELY_S)
    assert not may_take(filled, "noisy"), "but for the place that is kept for anybody"
    assert may_take(filled, "noisy", limit=17)


def test_it_is_forgotten_too_where_nobody_may_begin_anything_meanwhile() -> None:
    filled = places(quiet=1, noisy=3)
    filled.ended("quiet")
    assert not may_take(filled, "noisy", limit=4, now=LATELY_S / 2)
    assert may_take(filled, "noisy", limit=4, now=2 * LATELY_S)


@pytest.mark.parametrize(("weight", "share"), [(1.0, 8), (3.0, 12)])
def test_two_greedy_tenants_end_at_their_shares(weight: float, share: int) -> None:
    filled = places(a=15)
    filled.weights = {"b": weight}
    filled.began("b", 0.0)
    for _ in range(40):
        filled.ended("a")  # whose places come free one by one
        filled.began("b" if may_take(filled, "b") else "a", 0.0)
        if filled.users["b"].now >= share and not may_take(filled, "b"):
            break
    assert filled.users["b"].now == pytest.approx(share, abs=1)


def test_more_tenants_than_places_leave_none_unused() -> None:
    filled = places(**{f"t{i}": 1 for i in range(15)})
    assert may_take(filled, "another")
    assert not may_take(filled, "t1")


def test_other_gateways_places_count_as_a_tenants_own() -> None:
    filled = places(noisy=4)
    filled.heard({"noisy": 8, "quiet": 3})
    assert filled.kept_from("noisy", 16, 0.0) == 1
    filled.heard({"noisy": 8})
    assert filled.kept_from("noisy", 16, 0.0) == 3, "what the quiet one had there"
