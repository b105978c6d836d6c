"""Three times more than there is room for, a third in each class: on a virtual clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from gateway.admission.queue import QueueLimits
from gateway.domain import CLASSES, Principal
from gateway.errors import Overloaded
from tests.support.fake_providers import ANSWER, PACE_S, Client, World
from tests.test_dispatch import run

PLACES, FIRST_S = 16, 0.4
CAPACITY = PLACES / (FIRST_S + PACE_S * len(ANSWER))
WARM_S, MEASURED_S = 10.0, 60.0


def test_it_is_served_at_capacity_and_the_urgent_first() -> None:
    async def story(clock: Callable[[], float]) -> tuple[Counter[str], list[Client]]:
        world = World(clock, 1)
        world.fleet.endpoints["e0"].max_in_flight = PLACES
        world.fakes["e0"].first_s = FIRST_S
        world.principal = Principal("acme", "key", request_class="interactive")
        world.dispatcher.queue.limits = QueueLimits(
            300, {"interactive": 5.0, "standard": 10.0, "batch": 20.0}
        )
        began, answered, refused = clock(), Counter[str](), list[Client]()

        async def ask(name: str) -> None:
            client = await world.ask(headers={"x-gateway-class": name})
            if client.error is not None:
                refused.append(client)
            elif WARM_S <= clock() - began < WARM_S + MEASURED_S:
                answered[name] += 1

        tasks = []
        for index in range(int(3 * CAPACITY * (WARM_S + MEASURED_S))):
            tasks.append(asyncio.ensure_future(ask(CLASSES[index % 3])))
            await asyncio.sleep(1 / (3 * CAPACITY))
        await asyncio.gather(*tasks)
        assert len(world.dispatcher.queue) == 0
        return answered, refused

    answered, refused = run(story)
    served = {name: answered[name] / (CAPACITY * MEASURED_S) for name in CLASSES}
    assert sum(served.values()) >= 0.9
    assert served["interactive"] >= 0.9, "it asks for the whole capacity"
    assert served["batch"] <= served["standard"] <= 0.1
    assert all(isinstance(client.error, Overloaded) for client in refused)
    assert all((client.error.retry_after_s or 0) > 0 for client in refused if client.error)
