"""Batches: through the line as their tenant's requests, and every line answered once."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import openai
import pytest

from gateway.admission.keys import Key as AdmittedKey
from gateway.admission.keys import KeyRing
from gateway.admission.limits import Limits, Windows
from gateway.config.bind import Secret
from gateway.config.tree import Key, Tenant
from gateway.domain import Outcome
from gateway.emulator.emulated import emulated
from gateway.files.lines import Line, check, lines
from gateway.files.nouns import Batch, File, Status
from gateway.files.pace import Pace
from gateway.files.runner import Runner, moved
from gateway.files.store import Folder
from tests.files.world import CHAT, ask, becomes, begun, content, ended, filing, jsonl, upload
from tests.support.gateways import Running
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

KEYS = (
    Key("acme", Secret("key-of-acme"), tenant="acme"),
    Key("narrow", Secret("key-of-narrow"), tenant="acme", models=()),
    Key("rival", Secret("key-of-rival"), tenant="rival"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_every_line_has_its_answer_in_the_order_of_the_lines(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        made = await begun(g.sdk, [ask(n) for n in range(20)], metadata={"job": "nightly"})
        batch = await ended(g.sdk, made.id)
        answers = await content(g.sdk, batch.output_file_id)
        output = await g.sdk.files.retrieve(batch.output_file_id or "")
        outcomes = await g.settled.wait_for(20)
    assert (made.status, made.object, made.metadata) == ("validating", "batch", {"job": "nightly"})
    assert made.expires_at == made.created_at + 86_400
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 20, 0)
    assert [answer["custom_id"] for answer in answers] == [f"c{n}" for n in range(20)]
    assert len({answer["id"] for answer in answers}) == 20
    response = answers[0]["response"]
    assert (response["status_code"], answers[0]["error"]) == (200, None)
    assert response["body"]["choices"][0]["message"]["content"] == "Hello there"
    assert response["body"]["model"] == "m"
    assert response["request_id"] in {outcome.request_id for outcome in outcomes}
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert {o.request.request_class for o in outcomes if o.request} == {"batch"}
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.completed_at or 0)


async def test_what_fails_for_good_is_in_the_errors_file(tmp_path: Path) -> None:
    lines = [ask(0), ask(1, model="unknown"), ask(2, temperature="hot"), ask(3)]
    async with filing(tmp_path, Upstream()) as g:
        batch = await ended(g.sdk, (await begun(g.sdk, lines)).id)
        good = await content(g.sdk, batch.output_file_id)
        bad = await content(g.sdk, batch.error_file_id)
    assert batch.status == "completed"
    assert [answer["custom_id"] for answer in good] == ["c0", "c3"]
    assert [(a["custom_id"], a["response"]["status_code"]) for a in bad] == [
        ("c1", 404),
        ("c2", 400),
    ]
    assert bad[0]["response"]["body"]["error"]["code"] == "model_not_found"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (2, 2)


async def test_lines_that_are_no_requests_fail_the_batch_before_any_is_asked(
    tmp_path: Path,
) -> None:
    upstream = Upstream()
    lines: list[object] = [
        ask(0),
        b"{no json",
        {**ask(2), "custom_id": ""},
        {**ask(3), "method": "GET"},
        ask(4, "/v1/completions"),
        {**ask(5), "body": "x"},
        ask(6, stream=True),
        ask(0),
    ]
    async with filing(tmp_path, upstream) as g:
        batch = await ended(g.sdk, (await begun(g.sdk, lines)).id)
    assert (batch.status, batch.output_file_id, upstream.received) == ("failed", None, [])
    assert batch.errors is not None
    told = [(error.line, error.code, error.param) for error in batch.errors.data or []]
    assert told == [
        (2, "invalid_json_line", None),
        (3, "missing_custom_id", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "mismatched_endpoint", "url"),
        (6, "invalid_body", "body"),
        (7, "invalid_body", "body.stream"),
        (8, "duplicate_custom_id", "custom_id"),
    ]


async def test_an_empty_file_fails_the_batch(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        batch = await ended(g.sdk, (await begun(g.sdk, [b"", b"  "])).id)
    assert batch.errors is not None
    assert [(e.line, e.code) for e in batch.errors.data or []] == [(None, "empty_file")]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "m", "input": ["a", "b"]}),
        ("/v1/completions", {"model": "m", "prompt": "Once"}),
        ("/v1/responses", {"model": "m", "input": "Once"}),
    ],
)
async def test_other_endpoints_than_chat(
    tmp_path: Path, endpoint: str, body: dict[str, Any]
) -> None:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    async with (
        emulated("vllm") as there,
        filing(tmp_path, there.url, endpoint={"dialect": "vllm"}) as g,
    ):
        batch = await ended(g.sdk, (await begun(g.sdk, [line], endpoint)).id)
        (answer,) = await content(g.sdk, batch.output_file_id)
    assert answer["response"]["status_code"] == 200
    assert (batch.endpoint, batch.status) == (endpoint, "completed")


async def test_progress_can_be_watched_and_only_so_many_run_at_a_time(tmp_path: Path) -> None:
    upstream = Upstream(hold_at=0)
    async with filing(tmp_path, upstream, files={"batch_concurrency": 3}) as g:
        runner = g.gateway.filing.runner
        assert runner is not None
        runner.pace = lambda: quick(3)
        other = await begun(g.sdk, [ask(n) for n in range(9)])
        made = await begun(g.sdk, [ask(n) for n in range(9)])
        await becomes(lambda: upstream.running == 3)
        async with asyncio.timeout(30):
            while (seen := await g.sdk.batches.retrieve(made.id)).status != "in_progress":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
        assert upstream.running == 3
        upstream.release.set()
        batch = await ended(g.sdk, made.id)
        await ended(g.sdk, other.id)
    assert seen.request_counts is not None
    assert (seen.request_counts.total, seen.request_counts.completed) == (9, 0)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 9


async def test_lines_are_read_off_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts again reads all that are answered before the first that is not."""
    readers = set[threading.Thread]()

    def noted(content: BinaryIO, endpoint: str) -> Iterator[Line]:
        for line in lines(content, endpoint):
            readers.add(threading.current_thread())
            yield line

    monkeypatch.setattr("gateway.files.runner.lines", noted)
    async with filing(tmp_path, Upstream()) as g:
        await ended(g.sdk, (await begun(g.sdk, [ask(n) for n in range(9)])).id)
    assert readers
    assert threading.current_thread() not in readers


def test_a_line_that_is_too_long_is_one_line_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.files.lines.MAX_LINE", 200)
    total, problems = check(io.BytesIO(b"x" * 1000 + b"\n" + jsonl([ask(0)])), CHAT)
    assert total == 2
    assert [(problem.code, problem.line) for problem in problems] == [("line_too_long", 1)]


def test_an_answer_that_comes_after_the_end_is_not_kept(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    batch = Batch("batch_1", "acme", "acme", CHAT, "file-1", "1h", 0, 3600)
    store.create(batch)
    store.answer(batch.id, 1, False, b"{}")
    before = store.tally(batch.id)
    store.finish(moved(batch, Status.CANCELLED, 1.0), ())
    store.answer(batch.id, 2, False, b"{}")
    after = store.tally(batch.id)
    store.close()
    assert (before, after) == ((1, 0), (0, 0))


@pytest.mark.parametrize(
    ("left", "now", "kept"),
    [
        ((), 3600.0, False),
        ((), 3599.0, True),  # whoever waits for it until its window is over hears of it
        (("file-in",), 3600.0, True),
        (("file-out",), 3600.0, True),
        (("file-bad",), 3600.0, True),
    ],
)
def test_a_batch_is_forgotten_with_the_last_of_its_files(
    tmp_path: Path, left: tuple[str, ...], now: float, kept: bool
) -> None:
    store = Folder(tmp_path)
    batch = Batch("batch_1", "acme", "acme", CHAT, "file-in", "1h", 0, 3600)
    store.create(batch)
    files = ("file-in", "file-out", "file-bad")
    made = [(File(id, "acme", id, "batch", 1, 0), io.BytesIO(b"x")) for id in files]
    done = moved(batch, Status.COMPLETED, 1.0)
    store.finish(dataclasses.replace(done, output_file="file-out", error_file="file-bad"), made)
    for id in files:
        if id not in left:
            store.delete("acme", id)
    store.sweep(now)
    found = store.batch("acme", "batch_1")
    store.close()
    assert (found is not None) is kept


def test_a_batch_that_is_not_finished_is_not_forgotten(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.create(Batch("batch_1", "acme", "acme", CHAT, "file-gone", "1h", 0, 3600))
    store.sweep(7200.0)
    found = store.batch("acme", "batch_1")
    store.close()
    assert found is not None


def quick(most: int) -> Pace:
    pace = Pace(most, time.monotonic)
    pace.limit = most
    return pace


async def test_a_cancelled_batch_hangs_up_and_keeps_what_it_has(tmp_path: Path) -> None:
    quick, slow = Upstream(), Upstream(hold_at=0)
    async with filing(tmp_path, quick, slow, endpoint=[{}, {}], policy="round_robin") as g:
        g.gateway.fleet.endpoints["u1"].drained = True
        made = await begun(g.sdk, [ask(n) for n in range(3)])
        await g.settled.wait_for(3)
        done = await ended(g.sdk, made.id)
        g.gateway.fleet.endpoints["u1"].drained, g.gateway.fleet.endpoints["u0"].drained = (
            False,
            True,
        )
        second = await begun(g.sdk, [ask(n) for n in range(5)])
        await asyncio.wait_for(slow.asked.wait(), 5)
        cancelling = await g.sdk.batches.cancel(second.id)
        batch = await ended(g.sdk, second.id)
        await asyncio.wait_for(slow.hung_up.wait(), 10)
        with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
            await g.sdk.batches.cancel(done.id)
        again = await g.sdk.batches.cancel(second.id)
    assert cancelling.status == "cancelling"
    assert (batch.status, batch.output_file_id, again.status) == ("cancelled", None, "cancelled")
    assert (batch.cancelling_at or 0) <= (batch.cancelled_at or 0)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (5, 0)


async def test_what_the_window_leaves_unanswered_expires(tmp_path: Path) -> None:
    upstream = Upstream(hold_at=0)
    async with filing(tmp_path, upstream) as g:
        runner = g.gateway.filing.runner
        assert runner is not None
        made = await begun(g.sdk, [ask(n) for n in range(3)], completion_window="1h")
        await asyncio.wait_for(upstream.asked.wait(), 5)
        runner.wall = lambda: time.time() + 3600
        batch = await ended(g.sdk, made.id)
        bad = await content(g.sdk, batch.error_file_id)
    assert (batch.status, batch.output_file_id) == ("expired", None)
    assert [(a["custom_id"], a["response"]) for a in bad] == [(f"c{n}", None) for n in range(3)]
    assert {answer["error"]["code"] for answer in bad} == {"batch_expired"}
    assert batch.request_counts is not None
    assert batch.request_counts.failed == 3


async def test_where_there_is_no_room_a_batch_waits_and_loses_nothing(tmp_path: Path) -> None:
    upstream = Upstream(status=503, headers={"retry-after": "0"}, recovers_after=6)
    async with filing(tmp_path, upstream) as g:
        made = await begun(g.sdk, [ask(n) for n in range(6)])
        batch = await ended(g.sdk, made.id)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (6, 0)
    assert len(upstream.received) > 6


async def test_a_tenants_limit_is_kept_and_slows_its_batch(tmp_path: Path) -> None:
    tenants = {"default": Tenant(Limits(requests=Windows(second=1)))}
    async with filing(tmp_path, Upstream(), tenants=tenants) as g:
        made = await begun(g.sdk, [ask(n) for n in range(4)])
        batch = await ended(g.sdk, made.id)
        refused = [o for o in g.settled.outcomes if o.error == "rate_limit_exceeded"]
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (4, 0)
    assert refused


async def test_a_tenants_limit_slows_no_other_tenants_batch(tmp_path: Path) -> None:
    tenants = {"acme": Tenant(Limits(requests=Windows(day=1)))}
    async with filing(tmp_path, Upstream(), keys=KEYS, tenants=tenants, api_key="key-of-acme") as g:
        rival = g.sdk.with_options(api_key="key-of-rival")
        limited = await begun(g.sdk, [ask(n) for n in range(4)])
        refused = await rate_limited(g)
        made = await begun(rival, [ask(n) for n in range(4)])
        batch = await ended(rival, made.id)
        still = await g.sdk.batches.retrieve(limited.id)
    assert refused.principal.tenant == "acme"
    assert (batch.status, still.status) == ("completed", "in_progress")
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 4


async def rate_limited(g: Running) -> Outcome:
    found: list[Outcome] = []

    def some() -> bool:
        found[:] = [o for o in g.settled.outcomes if o.error == "rate_limit_exceeded"]
        return bool(found)

    await becomes(some)
    return found[0]


async def test_a_batch_has_its_keys_rights_and_its_tenants_files(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream(), keys=KEYS, api_key="key-of-acme") as g:
        narrow = g.sdk.with_options(api_key="key-of-narrow")
        rival = g.sdk.with_options(api_key="key-of-rival")
        file = await upload(g.sdk, jsonl([ask(0)]))
        made = await narrow.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await ended(g.sdk, made.id)
        (bad,) = await content(g.sdk, batch.error_file_id)
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            await rival.batches.create(
                input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
            )
        for call in (rival.batches.retrieve, rival.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="there is no batch"):
                await call(made.id)
        assert [b.id async for b in await rival.batches.list()] == []
        assert [b.id async for b in await g.sdk.batches.list()] == [made.id]
        outcome = g.settled.outcomes[-1]
    assert bad["response"]["status_code"] == 404  # the key may use no model
    assert (outcome.principal.tenant, outcome.principal.key_name) == ("acme", "narrow")


async def test_a_key_that_is_revoked_asks_nothing_more(tmp_path: Path) -> None:
    upstream = Upstream()
    async with filing(tmp_path, upstream, keys=KEYS, api_key="key-of-acme") as g:
        file = await upload(g.sdk, jsonl([ask(0)]))
        g.gateway.door.ring = KeyRing([AdmittedKey("rival", "rival", "key-of-rival")])
        runner = g.gateway.filing.runner
        assert runner is not None
        now = int(time.time())
        runner.store.create(
            Batch("batch_1", "acme", "acme", "/v1/chat/completions", file, "1h", now, now + 3600)
        )
        await becomes(lambda: _batch(runner).status == "completed")
        found = _batch(runner)
    assert (found.failed, upstream.received) == (1, [])


async def test_lines_wait_while_it_is_not_known_whether_their_made_key_is_valid(
    tmp_path: Path,
) -> None:
    upstream = Upstream()
    configured, made = (AdmittedKey(name, name, f"key-of-{name}") for name in ("rival", "acme"))
    async with filing(tmp_path, upstream, keys=KEYS, api_key="key-of-acme") as g:
        file = await upload(g.sdk, jsonl([ask(0)]))
        g.gateway.door.ring = KeyRing([configured], unsure=True)
        runner = g.gateway.filing.runner
        assert runner is not None
        now = int(time.time())
        runner.store.create(
            Batch("batch_1", "acme", "acme", "/v1/chat/completions", file, "1h", now, now + 3600)
        )
        await becomes(lambda: _batch(runner).status == "in_progress")
        await asyncio.sleep(0.2)
        g.gateway.door.ring = KeyRing([configured, made])
        await becomes(lambda: _batch(runner).status == "completed")
        found = _batch(runner)
    assert (found.completed, found.failed) == (1, 0)


def _batch(runner: Runner) -> Batch:
    found = runner.store.batch("acme", "batch_1")
    assert found is not None
    return found


async def test_the_input_of_a_running_batch_cannot_be_deleted(tmp_path: Path) -> None:
    upstream = Upstream(hold_at=0)
    async with filing(tmp_path, upstream) as g:
        made = await begun(g.sdk, [ask(0)])
        with pytest.raises(openai.BadRequestError, match="has not ended"):
            await g.sdk.files.delete(made.input_file_id)
        upstream.release.set()
        await ended(g.sdk, made.id)
        await g.sdk.files.delete(made.input_file_id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "15d"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"extra_body": {"priority": 1}}, "priority"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    async with filing(tmp_path, Upstream()) as g:
        file = await upload(g.sdk, jsonl([ask(0)]))
        asked: dict[str, Any] = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **fields,
        }
        with pytest.raises(openai.APIStatusError) as caught:
            await g.sdk.batches.create(**asked)
    assert caught.value.param == param
    assert caught.value.status_code in (400, 404)


async def test_what_only_an_escape_can_carry_is_shown_again(tmp_path: Path) -> None:
    half = "half of a pair: \ud83d"
    line = jsonl([{**ask(0), "custom_id": half}])
    async with filing(tmp_path, Upstream()) as g, httpx.AsyncClient(base_url=g.url) as client:
        fields = {
            "input_file_id": await upload(g.sdk, line),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        asked = json.dumps({**fields, "metadata": {"note": half}})
        made = await client.post("/v1/batches", content=asked)
        await ended(g.sdk, made.json()["id"])
        listed = (await client.get("/v1/batches")).json()
        output = await client.get(f"/v1/files/{listed['data'][0]['output_file_id']}/content")
        unknown = await client.post("/v1/batches", content=json.dumps({**fields, **UNKNOWN}))
    assert (made.status_code, listed["data"][0]["metadata"]) == (200, {"note": half})
    assert json.loads(output.text)["custom_id"] == half
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "file_id")


UNKNOWN = {"input_file_id": "file-\ud83d"}


async def test_only_a_file_for_batches_can_be_one(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        file = await upload(g.sdk, jsonl([ask(0)]), "user_data")
        with pytest.raises(openai.BadRequestError, match="not 'batch'"):
            await g.sdk.batches.create(
                input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
            )


async def test_an_outputs_files_expire_when_that_was_asked_for(tmp_path: Path) -> None:
    lasting = {"anchor": "created_at", "seconds": 3600}
    async with filing(tmp_path, Upstream()) as g:
        made = await begun(g.sdk, [ask(0)], output_expires_after=lasting)
        batch = await ended(g.sdk, made.id)
        output = await g.sdk.files.retrieve(batch.output_file_id or "")
    assert output.expires_at == output.created_at + 3600


async def test_batches_are_listed_page_by_page(tmp_path: Path) -> None:
    async with filing(tmp_path, Upstream()) as g:
        ids = [(await begun(g.sdk, [ask(0)])).id for _ in range(3)]
        listed = [batch.id async for batch in await g.sdk.batches.list(limit=2)]
        for id in ids:
            await ended(g.sdk, id)
    assert listed == ids[::-1]
