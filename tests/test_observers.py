"""Observers that are told a moment later."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.keys import OPEN
from gateway.domain import Outcome
from gateway.observers import TOGETHER, WITHIN_S, Later

pytestmark = pytest.mark.anyio


class Told:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def settled(self, outcome: Outcome) -> None:
        self.ids.append(outcome.request_id)


class Defective:
    def settled(self, outcome: Outcome) -> None:
        raise RuntimeError


def over(later: Later, *ids: str) -> None:
    for id_ in ids:
        later.settled(Outcome(id_, OPEN, 0.0))


async def test_one_exchange_is_told_of_a_moment_later() -> None:
    told = Told()
    over(Later([told]), "a")
    assert told.ids == []
    await asyncio.sleep(2 * WITHIN_S)
    assert told.ids == ["a"]


async def test_many_are_told_of_at_once_and_in_order() -> None:
    told, ids = Told(), [str(i) for i in range(TOGETHER)]
    over(Later([told]), *ids)
    assert told.ids == ids
    await asyncio.sleep(2 * WITHIN_S)
    assert told.ids == ids


async def test_whoever_reads_has_them_told_before() -> None:
    told = Told()
    later = Later([told])
    over(later, "a", "b")
    later.catch_up()
    assert told.ids == ["a", "b"]
    later.catch_up()
    assert told.ids == ["a", "b"]


async def test_when_closed_nothing_waits() -> None:
    told = Told()
    later = Later([told])
    over(later, "a")
    later.close()
    over(later, "b")
    assert told.ids == ["a", "b"]


async def test_an_observers_defect_costs_no_other_any_record() -> None:
    told = Told()
    later = Later([Defective(), told])
    over(later, "a", "b")
    later.catch_up()
    assert told.ids == ["a", "b"]
