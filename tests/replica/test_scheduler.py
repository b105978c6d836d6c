from __future__ import annotations

import pytest

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.request import Finish, State
from gateway.replica.waiting import PATIENCE_S, WaitingQueue
from tests.support.clock import ManualClock
from tests.support.scheduling import Requests, World, sizes


def test_a_long_prompt_is_computed_in_chunks() -> None:
    world = World(chunk_tokens=32)
    world.add("long", range(70))
    assert [world.step() for _ in range(4)] == [{"long": n} for n in (32, 32, 6, 1)]


def test_decodes_come_first_and_prompts_get_what_is_left() -> None:
    world = World(chunk_tokens=32)
    world.add("a", [1, 2, 3])
    world.add("b", [4, 5, 6])
    world.step()
    world.add("long", range(70))
    assert world.step() == {"a": 1, "b": 1, "long": 30}
    assert world.step() == {"a": 1, "b": 1, "long": 30}
    assert world.step() == {"a": 1, "b": 1, "long": 10}


def test_a_decode_comes_before_a_more_urgent_prompt() -> None:
    world = World(chunk_tokens=32)
    world.add("long", range(90), priority=1)
    world.add("short", [1, 2, 3], priority=0)
    assert world.step() == {"short": 3, "long": 29}
    world.clock.advance(PATIENCE_S)  # now in one class, and the long one came first
    assert world.step() == {"short": 1, "long": 31}


def test_no_more_run_than_may() -> None:
    world = World(max_running=2)
    world.add("a", [1])
    world.step()
    world.add("b", [2])
    world.add("c", [3])
    assert world.step() == world.step() == {"a": 1, "b": 1}


def test_a_batch_says_where_each_token_stands() -> None:
    world = World()
    a, b = world.add("a", [7, 8]), world.add("b", range(17))
    plan = world.scheduler.plan(0)
    assert plan is not None
    batch = plan.batch()
    assert list(batch.tokens) == [7, 8, *range(17)]
    assert list(batch.positions) == [0, 1, *range(17)]
    assert list(batch.rows) == [0] * 2 + [1] * 17
    assert batch.tables.tolist() == [[*a.blocks, 0], list(b.blocks)]
    assert list(batch.logits_at) == [1, 18]


def test_a_prompt_is_admitted_only_if_all_of_it_fits() -> None:
    world = World(blocks=6, chunk_tokens=32)
    a = world.add("a", range(3 * BLOCK_SIZE))
    world.add("b", range(100, 100 + 4 * BLOCK_SIZE))
    world.step()
    assert world.scheduler.waiting == 1
    world.scheduler.remove(a)
    assert world.step() == {"b": 32}


def test_whoever_is_admitted_leaves_a_spare_block_for_each_that_runs() -> None:
    world = World(blocks=5)
    world.add("a", range(2 * BLOCK_SIZE))
    world.step()
    b = world.add("b", range(100, 100 + 2 * BLOCK_SIZE))
    world.step()
    assert b.state is State.WAITING
    c = world.add("c", [1], priority=0)
    world.step()
    assert c.state is State.RUNNING


def test_nobody_overtakes_one_who_waits_for_room() -> None:
    world = World(blocks=6)
    world.add("a", range(3 * BLOCK_SIZE))
    world.step()
    world.add("big", range(100, 100 + 4 * BLOCK_SIZE))
    world.add("small", [1])
    assert "small" not in world.step()


def test_a_hit_is_not_computed_again() -> None:
    world = World(chunk_tokens=64)
    first = world.add("first", range(40))
    world.step()
    world.scheduler.remove(first)
    second = world.add("second", range(40))
    assert world.scheduler.queued_tokens == 40 - 32
    assert world.step() == {"second": 40 - 32}
    assert second.cached_tokens == 32


def test_after_a_full_hit_the_last_token_is_computed_in_a_copy_of_its_block() -> None:
    world = World(chunk_tokens=64)
    first = world.add("first", range(32))
    world.step()
    second = world.add("second", range(32))
    plan = world.scheduler.plan(0)
    assert plan is not None
    assert sizes(plan) == {"first": 1, "second": 1}
    assert plan.copies == [(first.blocks[1], second.blocks[1])]
    world.scheduler.commit(plan, [1, 1])
    assert second.blocks[:2] == first.blocks[:2]
    assert second.cached_tokens == 31


def test_the_copied_block_may_be_the_one_that_must_make_room() -> None:
    world = World(blocks=2)
    first = world.add("first", range(32))
    world.step()
    world.scheduler.remove(first)
    second = world.add("second", range(32))
    assert world.step() == {"second": 1}
    assert second.cached_tokens == 31


def test_output_is_cached_too() -> None:
    world = World()
    first = world.add("first", range(BLOCK_SIZE - 1))
    for _ in range(3):
        world.step()
    history = list(first.tokens)
    world.scheduler.remove(first)
    second = world.add("second", [*history, 50])
    world.step()
    assert second.cached_tokens == BLOCK_SIZE


def test_equal_prompts_are_computed_once() -> None:
    world = World(chunk_tokens=32)
    world.add("first", range(64))
    second = world.add("second", [*range(64), 70])
    assert [world.step() for _ in range(3)] == [
        {"first": 32},
        {"first": 32},
        {"first": 1, "second": 1},
    ]
    assert second.cached_tokens == 64


def test_a_follower_does_not_wait_for_a_block_that_it_must_compute_anyway() -> None:
    world = World(chunk_tokens=24)
    world.add("first", range(40))
    world.add("second", range(40))
    assert world.step() == {"first": 24}
    assert world.step() == {"first": 16}
    assert world.step() == {"first": 1, "second": 8}


def test_a_follower_does_not_wait_for_a_leader_that_left() -> None:
    world = World(chunk_tokens=32)
    first = world.add("first", range(64))
    second = world.add("second", range(64))
    world.step()
    world.scheduler.remove(first)
    assert world.step() == {"second": 32}
    assert second.cached_tokens == 32


def test_when_blocks_run_out_the_least_urgent_is_preempted_and_resumes_from_its_cache() -> None:
    world = World(blocks=4)
    old = world.add("old", range(BLOCK_SIZE))
    new = world.add("new", range(100, 100 + BLOCK_SIZE))
    while new.state is not State.PREEMPTED:
        world.step()
    assert world.scheduler.preemptions == 1
    assert (old.state, len(new.blocks), new.computed) == (State.RUNNING, 0, 0)
    assert len(new.tokens) > BLOCK_SIZE  # the output so far is kept
    world.scheduler.remove(old)
    assert world.step()["new"] < len(new.tokens) - 1
    assert new.cached_tokens == 0  # of its prompt, when it was first admitted


def test_the_preempted_comes_back_before_newcomers() -> None:
    world = World(blocks=4)
    old = world.add("old", range(BLOCK_SIZE))
    new = world.add("new", range(100, 100 + BLOCK_SIZE))
    world.step()
    world.add("urgent", range(50), priority=0)
    while new.state is not State.PREEMPTED:
        world.step()
    world.scheduler.remove(old)
    assert next(iter(world.step())) == "new"


def test_a_removed_request_leaves_no_block_owned() -> None:
    world = World(blocks=4)
    requests = [world.add("a", range(20)), world.add("b", range(30, 50)), world.add("c", [1])]
    world.step()
    for request in requests:
        world.scheduler.remove(request)
        world.scheduler.check_integrity()
    assert (world.pool.owned, list(world.scheduler)) == (0, [])


def test_a_stop_token_ends_a_request_and_so_does_its_limit() -> None:
    world = World()
    world.request = Requests(world.clock, limit=3)
    world.add("stops", [1, 2])
    world.add("full", [3, 4])
    plan = world.scheduler.plan(0)
    assert plan is not None
    assert world.scheduler.commit(plan, [99, 5]) == [Finish.STOP, Finish.LENGTH]


@pytest.mark.parametrize(("max_running", "chunk_tokens"), [(0, 8), (9, 8)])
def test_decodes_alone_must_not_fill_a_step(max_running: int, chunk_tokens: int) -> None:
    with pytest.raises(ValueError, match="max_running must be from 1 to chunk_tokens"):
        World(max_running=max_running, chunk_tokens=chunk_tokens)


def in_order(queue: WaitingQueue, now: float) -> list[str]:
    return [request.submission.id for request in queue.in_order(now)]


def test_tenants_take_turns_inside_a_class() -> None:
    clock = ManualClock()
    request, queue = Requests(clock), WaitingQueue()
    for name in "a1", "a2", "a3", "b1", "b2", "c1":
        queue.add(request(name, [1], salt=name[:1].encode()))
    assert in_order(queue, clock.now) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    served = queue.get("a1")
    assert served is not None
    queue.serve(served)
    assert in_order(queue, clock.now) == ["b1", "c1", "a2", "b2", "a3"]


def test_a_tenant_that_comes_back_goes_to_the_end() -> None:
    clock = ManualClock()
    request, queue = Requests(clock), WaitingQueue()
    a1, b1 = request("a1", [1], salt=b"a"), request("b1", [1], salt=b"b")
    queue.add(a1)
    queue.add(b1)
    queue.remove(a1)
    queue.add(request("a2", [1], salt=b"a"))
    assert in_order(queue, clock.now) == ["b1", "a2"]


def test_urgent_classes_come_first_until_patience_ends() -> None:
    clock = ManualClock()
    request, queue = Requests(clock), WaitingQueue()
    queue.add(request("batch", [1], priority=2))
    clock.advance(1.5 * PATIENCE_S)
    queue.add(request("normal", [1], priority=1))
    queue.add(request("urgent", [1], priority=0))
    assert in_order(queue, clock.now) == ["urgent", "batch", "normal"]
    clock.advance(0.5 * PATIENCE_S)
    assert in_order(queue, clock.now) == ["batch", "urgent", "normal"]


def test_a_stream_of_urgent_requests_starves_nobody() -> None:
    world = World(blocks=8, max_running=2, chunk_tokens=16)
    patient = world.add("patient", range(16), priority=3)
    for number in range(200):
        urgent = [world.add(f"u{number}.{i}", [number, i], priority=0) for i in range(2)]
        world.step()
        if patient.state is State.RUNNING:
            return
        world.clock.advance(1)
        for request in urgent:
            world.scheduler.remove(request)
    pytest.fail("never ran")


def test_prompts_that_begin_alike_count_once_in_the_queue() -> None:
    world = World(chunk_tokens=32)
    for index in range(8):
        world.add(f"choice {index}", range(70))  # 4 blocks and 6 tokens
    assert world.scheduler.queued_tokens == 64 + 8 * 6
    world.add("longer", [*range(70), *range(100, 126)])  # 6 blocks
    assert world.scheduler.queued_tokens == 64 + 8 * 6 + 32
    world.add("another tenant's", range(70), salt=b"b")
    assert world.scheduler.queued_tokens == 64 + 8 * 6 + 32 + 70
    before = world.scheduler.queued_tokens
    assert world.step() == {"choice 0": 32}
    assert world.scheduler.queued_tokens == before - 32


def test_full_hits_count_the_one_token_that_is_computed_in_any_case() -> None:
    world = World(chunk_tokens=64)
    first = world.add("first", range(32))
    world.step()
    world.scheduler.remove(first)
    for name in "abc":
        world.add(name, range(32))
    assert world.scheduler.queued_tokens == 3


def test_tenants_take_turns_chunk_by_chunk() -> None:
    world = World(chunk_tokens=32)
    world.add("a1", range(200), salt=b"a")
    world.add("a2", range(200, 400), salt=b"a")
    assert world.step() == {"a1": 32}
    world.add("b1", range(400, 500), salt=b"b")
    world.add("c1", range(500, 510), salt=b"c")
    assert [world.step() for _ in range(4)] == [
        {"a1": 32},
        {"b1": 32},
        {"c1": 10, "a1": 22},
        {"c1": 1, "b1": 31},
    ]


def test_an_urgent_newcomer_comes_before_a_running_prompt_of_a_lower_class() -> None:
    world = World(chunk_tokens=32)
    world.add("long", range(200), priority=2)
    world.step()
    world.add("urgent", range(300, 350), priority=0)
    assert [world.step() for _ in range(2)] == [{"urgent": 32}, {"urgent": 18, "long": 14}]


def test_a_prompt_goes_on_while_a_newcomer_waits_for_room() -> None:
    world = World(blocks=6, chunk_tokens=16)
    world.add("a", range(4 * BLOCK_SIZE), salt=b"a")
    world.step()
    world.add("b", range(100, 100 + 3 * BLOCK_SIZE), salt=b"b")
    assert world.step() == world.step() == {"a": 16}
