"""The ledger behind real traffic: everything is in it, and it agrees with the endpoints."""

import json
import resource
import signal
import time
from pathlib import Path

import httpx
import openai
import pytest

from gateway.__main__ import main
from gateway.admission.limits import Limits, Windows
from gateway.config.tree import Key, Ledger, ModelPrice, Secret, Tenant
from gateway.domain import Attempt, Ended, Outcome, Principal
from gateway.ledger.ledger import Ledger as LedgerWriter
from gateway.ledger.ledger import prepare
from gateway.ledger.record import Record
from gateway.ledger.store import LedgerError, append, opened, read
from tests.support.gateways import gateway
from tests.support.processes import serve
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PRICES = {"prices": {"m": ModelPrice(input=10, cached=1, output=100)}}
ONE = (8 * 10 + 3 * 1 + 3 * 100) / 1e6  # dollars of an answer of the upstream's


def records(file: Path) -> list[Record]:
    with opened(file) as connection:
        return list(read(connection))


@pytest.mark.anyio
async def test_an_exchange_is_written_with_its_tokens_dollars_and_attempts(tmp_path):
    file = tmp_path / "ledger.sqlite"
    broken, good = Upstream(status=500), Upstream()
    async with gateway(broken, good, endpoint=PRICES, ledger=Ledger(file)) as g:
        await g.sdk.chat.completions.create(**ASK)
    (record,) = records(file)
    assert (record.tenant, record.model, record.endpoint) == ("default", "m", "u1")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (11, 3, 3)
    assert record.charged_usd == record.cost_usd == pytest.approx(ONE)
    assert [(a.endpoint, a.error, a.billed_by) for a in record.attempts] == [
        ("u0", "upstream_refused", None),
        ("u1", None, "tariff"),
    ]
    assert record.policy == "cache_aware"
    assert 0 < record.first_event_s <= record.total_s


@pytest.mark.anyio
async def test_who_hangs_up_is_charged_for_the_prompt_and_what_had_come(tmp_path):
    file = tmp_path / "ledger.sqlite"
    async with gateway(Upstream(hold_at=2), endpoint=PRICES, ledger=Ledger(file)) as g:
        answer = await g.sdk.chat.completions.create(**ASK, stream=True)
        events = aiter(answer)
        await anext(events)
        await anext(events)
        await answer.close()
        await g.settled.wait_for(1)
    (record,) = records(file)
    assert record.ended == "hung_up"
    assert (record.completion_tokens, record.estimated) == (2, True)
    expected = (record.prompt_tokens * 10 + 2 * 100) / 1e6
    assert record.charged_usd == pytest.approx(expected)
    assert record.attempts[0].billed_by == "estimate"


@pytest.mark.anyio
async def test_an_answer_that_the_end_of_the_process_cuts_off_is_in_it_as_our_fault(tmp_path):
    file = tmp_path / "ledger.sqlite"
    upstream = Upstream(hold_at=1)
    async with httpx.AsyncClient() as client:
        async with gateway(upstream, endpoint=PRICES, ledger=Ledger(file), drain_s=0.1) as g:
            body = {**ASK, "stream": True}
            request = client.build_request("POST", f"{g.url}/v1/chat/completions", json=body)
            answer = await client.send(request, stream=True)
            lines = answer.aiter_lines()
            assert "Hel" in await anext(lines)
        rest = [line async for line in lines]
    assert "unavailable" in "".join(rest)
    (record,) = records(file)
    assert (record.ended, record.error, record.fault) == ("failed", "unavailable", "ours")
    assert record.charged_usd == 0 < record.cost_usd


@pytest.mark.anyio
async def test_a_providers_limit_is_the_providers_fault_also_while_it_rests(tmp_path):
    """Its own limit is a caller's, though both hear 429."""
    file = tmp_path / "ledger.sqlite"
    limited = Upstream(status=429, headers={"retry-after": "60"})
    tenants = {"few": Tenant(limits=Limits(requests=Windows(day=2)))}
    keys = (Key("web", Secret("12345678-web"), tenant="few"),)
    options = {"keys": keys, "tenants": tenants, "api_key": "12345678-web"}
    async with gateway(limited, ledger=Ledger(file), **options) as g:
        for _ in range(3):
            with pytest.raises(openai.RateLimitError):
                await g.sdk.chat.completions.create(**ASK)
    found = [(len(r.attempts), r.error, r.fault) for r in records(file)]
    assert found == [
        (1, "rate_limit_exceeded", "provider"),
        (0, "rate_limit_exceeded", "provider"),
        (0, "rate_limit_exceeded", "caller"),
    ]


def outcome() -> Outcome:
    return Outcome("r", Principal("t", "k"), 1.0, ended=Ended.FINISHED, finished=2.0)


def test_what_does_not_fit_is_counted_and_what_was_taken_is_written(tmp_path):
    file = tmp_path / "ledger.sqlite"
    prepare(file)
    ledger = LedgerWriter(file, clock=lambda: 2.0, wall=lambda: 100.0, capacity=10, period_s=60)
    for _ in range(25):  # nobody writes yet
        ledger.settled(outcome())
    ledger.start()
    ledger.close()
    assert (ledger.written, ledger.dropped) == (10, 15)
    assert [record.at for record in records(file)] == [99.0] * 10


def test_several_may_write_one_file_at_once(tmp_path):
    file = tmp_path / "ledger.sqlite"
    writers = [LedgerWriter(file, clock=lambda: 2.0, period_s=0.001) for _ in range(4)]
    for writer in writers:
        writer.start()
    for _ in range(50):
        for writer in writers:
            writer.settled(outcome())
    for writer in writers:
        writer.close()
    assert [writer.dropped for writer in writers] == [0] * 4
    assert len(records(file)) == 200


@pytest.mark.anyio
async def test_a_file_that_another_holds_locked_costs_requests_nothing_and_loses_nothing(tmp_path):
    file = tmp_path / "ledger.sqlite"
    prepare(file)
    async with gateway(Upstream(), endpoint=PRICES, ledger=Ledger(file)) as g:
        with opened(file, write=True) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(20):
                await g.sdk.chat.completions.create(**ASK)
            await g.settled.wait_for(20)
            assert len(records(file)) == 0
            other.execute("ROLLBACK")
    assert len(records(file)) == 20


def test_a_full_disk_is_said_once_and_loses_nothing_once_there_is_room(tmp_path):
    """A limit on the size of files, which is to SQLite what a full disk is."""
    config, file = tmp_path / "config.yaml", tmp_path / "ledger.sqlite"
    config.write_text(
        "endpoints: {gone: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n"
        "ledger: {file: ./ledger.sqlite}\n"
    )
    with serve(config, "--port", "0") as serving:
        url = serving.wait_for(r"listening on (http://\S+:\d+)", 30)[1]
        pid = serving.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, most))
        for _ in range(5):
            assert httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=30).status_code == 502
        serving.wait_for("ledger rows cannot be written", 30)
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=30).status_code == 502
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        serving.wait_for("ledger rows are written again; 0 were dropped", 30)
        serving.stop(signal.SIGTERM)
    assert len(records(file)) == 6
    assert sum("cannot be written" in line for line in serving.lines) == 1


def test_what_is_older_than_it_is_to_be_kept_is_deleted_with_its_attempts(tmp_path):
    file = tmp_path / "ledger.sqlite"
    prepare(file)
    tried = outcome()
    tried.attempts = [Attempt("a", 1.0)]
    with opened(file, write=True) as connection:
        append(connection, [Record.of(tried, at=float(at)) for at in range(1000)])
    LedgerWriter(file, clock=lambda: 2.0, wall=lambda: 1000.0).prune()
    assert len(records(file)) == 1000
    LedgerWriter(file, clock=lambda: 2.0, wall=lambda: 1000.0, keep_s=300.0).prune()
    assert [record.at for record in records(file)] == [float(at) for at in range(700, 1000)]
    with opened(file) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (300,)


def test_the_oldest_make_way_when_the_ledger_may_not_grow(tmp_path):
    file = tmp_path / "ledger.sqlite"
    prepare(file)
    ledger = LedgerWriter(file, clock=lambda: 2.0, size=100_000)
    for batch in range(10):
        with opened(file, write=True) as connection:
            made = [Record.of(outcome(), at=float(batch * 500 + n)) for n in range(500)]
            append(connection, made)
        ledger.prune()
    kept = [record.at for record in records(file)]
    assert kept[-1] == 4999.0
    assert kept == [kept[0] + n for n in range(len(kept))]
    assert 300 < len(kept) < 2000
    assert file.stat().st_size < 300_000, "what was deleted makes room"


def test_a_gateway_deletes_what_is_too_old_when_it_starts(tmp_path):
    config, file = tmp_path / "config.yaml", tmp_path / "ledger.sqlite"
    config.write_text(
        "endpoints: {gone: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n"
        "ledger: {file: ./ledger.sqlite, keep: 30d}\n"
    )
    prepare(file)
    now = time.time()
    with opened(file, write=True) as connection:
        append(connection, [Record.of(outcome(), at=now - days * 86_400) for days in (31, 29)])
    with serve(config, "--port", "0") as serving:
        serving.wait_for(r"listening on (http://\S+:\d+)", 30)
        for _ in range(100):
            if len(records(file)) == 1:
                break
            time.sleep(0.1)
        serving.stop(signal.SIGTERM)
    assert [round((now - record.at) / 86_400) for record in records(file)] == [29]


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, and no database at all " * 100)
    before = file.read_bytes()
    with pytest.raises(LedgerError, match=r"notes\.txt"):
        prepare(file)
    assert file.read_bytes() == before


def test_nothing_is_lost_when_the_gateway_is_told_to_stop(tmp_path):
    """A process, with an answer under way."""
    config, file = tmp_path / "config.yaml", tmp_path / "ledger.sqlite"
    config.write_text(
        "endpoints: {gone: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n"
        "ledger: {file: ./ledger.sqlite}\n"
    )
    with serve(config, "--port", "0") as serving:
        url = serving.wait_for(r"listening on (http://\S+:\d+)", 30)[1]
        for _ in range(20):
            assert httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=30).status_code == 502
        serving.stop(signal.SIGTERM)
    assert len(records(file)) == 20
    assert {record.fault for record in records(file)} == {"provider"}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "ledger.sqlite"
    prepare(file)
    with opened(file, write=True) as connection:
        for tenant, day in (("acme", 0), ("acme", 1), ("zebra", 1)):
            made = Record.of(outcome(), at=1_700_000_000.0 + day * 86_400)
            append(connection, [made._replace(tenant=tenant)])
    return file


def test_the_command_sums_by_what_one_asks_for(file, capsys):
    assert main(["ledger", str(file), "--by", "tenant", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["exchanges"]) for row in rows] == [("acme", 2), ("zebra", 1)]
    assert main(["ledger", str(file), "--by", "day,tenant"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["day", "tenant", "exchanges"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["2023-11-14", "acme", "1"],
        ["2023-11-15", "acme", "1"],
        ["2023-11-15", "zebra", "1"],
    ]


def test_the_command_can_be_asked_for_a_time(file, capsys):
    assert main(["ledger", str(file), "--by", "tenant", "--since", "2023-11-15", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_the_command_exports(file, capsys):
    assert main(["ledger", str(file), "--export", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["ledger", str(file), "--export", "jsonl"]) == 0
    assert [json.loads(x)["tenant"] for x in capsys.readouterr().out.splitlines()] == [
        "acme",
        "acme",
        "zebra",
    ]


def test_the_command_says_what_is_wrong(tmp_path, file, capsys):
    assert main(["ledger", str(tmp_path / "none.sqlite")]) == 2
    assert "none.sqlite" in capsys.readouterr().err
    assert main(["ledger", str(file), "--by", "colour"]) == 2
    assert "not 'colour'" in capsys.readouterr().err
