"""The ledger as others read it; `gateway replay` reads what is exported for it."""

import csv
import dataclasses
import io
import json

from gateway.__main__ import main
from gateway.domain import Attempt, Ended, PrefixKey, Usage
from gateway.ledger.export import csv_rows, jsonl, replayable
from gateway.ledger.ledger import prepare
from gateway.ledger.record import Record
from gateway.ledger.store import append, opened
from gateway.replay.files import read_trace
from tests.ledger.test_record import settled
from tests.support.requests import chat


def record(at: float, prefix: tuple[PrefixKey, ...], tokens: int) -> Record:
    size = prefix[-1].size if prefix else 100
    request = dataclasses.replace(chat(), prefix=prefix, prompt_size=size)
    made = settled(
        Ended.FINISHED,
        Attempt("a", 10.0, first_event=11.0),
        usage=Usage(tokens, 5),
        request=request,
    )
    return made._replace(at=at)


def keys(*names: str) -> tuple[PrefixKey, ...]:
    return tuple(
        PrefixKey(name.encode().ljust(16, b"-"), 2048 * (index + 1))
        for index, name in enumerate(names)
    )


def test_prompts_that_begin_alike_share_their_first_blocks(tmp_path):
    file = tmp_path / "trace.jsonl"
    records = [
        record(100.0, keys("system", "one"), 1024),
        record(101.5, keys("system", "two"), 1024),
        record(102.0, keys("other", "other one"), 1024),
    ]
    with file.open("w") as out:
        replayable(records, out)
    first, second, third = read_trace(file).requests
    assert [r.arrival_s for r in (first, second, third)] == [0, 1.5, 2.0]
    assert first.blocks[0] == second.blocks[0]
    assert len({first.blocks[1], second.blocks[1], third.blocks[1]}) == 3
    assert third.blocks[0] != first.blocks[0]


def test_blocks_are_as_many_as_the_prompt_has_and_never_the_same_twice(tmp_path):
    file = tmp_path / "trace.jsonl"
    with file.open("w") as out:
        replayable([record(1.0, keys("a", "b", "c"), n) for n in (1, 511, 512, 513, 5000)], out)
    for request in read_trace(file).requests:  # which raises if it is not so
        assert len(set(request.blocks)) == -(-request.prompt_tokens // 512)


def test_ids_are_those_of_one_export_and_not_what_the_index_holds():
    exports = [io.StringIO(), io.StringIO()]
    for out in exports:
        replayable([record(1.0, keys("system", "one"), 1000)], out)
    one, other = (json.loads(out.getvalue()) for out in exports)
    assert [tokens for _, tokens in one["prefix"]] == [500, 1000]
    assert not {name for name, _ in one["prefix"]} & {name for name, _ in other["prefix"]}
    assert b"system".hex() not in exports[0].getvalue()
    assert (one["arrived"], one["tenant"], one["model"]) == (1.0, "acme", "m")
    assert (one["first_token_s"], one["last_token_s"]) == (1.0, 2.5)


def test_the_command_exports_what_the_command_replays(tmp_path, capsys):
    file, trace = tmp_path / "ledger.sqlite", tmp_path / "trace.jsonl"
    prepare(file)
    with opened(file, write=True) as connection:
        append(connection, [record(100.0 + n, keys("system", str(n)), 1024) for n in range(30)])
    assert main(("ledger", str(file), "--export", "replay")) == 0
    trace.write_text(capsys.readouterr().out)
    asked = ("--policies", "balanced", "--replicas", "2", "--seeds", "1", "--json")
    assert main(("replay", "--trace", str(trace), *asked)) == 0
    (told,) = json.loads(capsys.readouterr().out).values()
    assert 0.3 < told["hit"] < 0.6  # the first half of each prompt is the same


def test_exchanges_without_an_answer_are_left_out():
    out = io.StringIO()
    replayable([settled(Ended.FAILED, status=503), settled(Ended.HUNG_UP, events=3)], out)
    assert out.getvalue() == ""


def test_json_lines_hold_everything_attempts_too():
    out = io.StringIO()
    jsonl([record(1.0, keys("a"), 10)], out)
    line = json.loads(out.getvalue())
    assert line["attempts"][0]["endpoint"] == "a"
    assert line["tenant"] == "acme"
    assert (line["prompt_tokens"], line["completion_tokens"]) == (10, 5)


def test_a_spreadsheet_finds_no_formula_that_a_caller_wrote():
    out = io.StringIO()
    csv_rows([record(1.0, (), 10)._replace(request_id="=1+1")], out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue()))
    assert row["request_id"] == "'=1+1"
    assert row["charged_usd"] == "0.0"
