"""Traces: what the readers take, what they refuse, and what is done to arrivals."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.replay.files import read_trace
from gateway.replay.trace import Trace, TraceError, TraceRequest
from tests.replay.drive import sample


def test_mooncakes_lines_become_requests_with_their_blocks(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"timestamp": 27000, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}\n'
        '{"timestamp": 30500, "input_length": 512, "output_length": 1, "hash_ids": [0]}\n'
    )
    trace = read_trace(file)
    assert trace.requests == [TraceRequest(0.0, 600, 5, (0, 7)), TraceRequest(3.5, 512, 1, (0,))]
    assert trace.block_size == 512


@pytest.mark.parametrize(
    "text",
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n",
        "timestamp_s,client_id,input_tokens,output_tokens\n0.5,-1,374,44\n4.5,-1,396,109\n",
    ],
    ids=["azure", "servegen"],
)
def test_lengths_in_a_csv_become_requests_that_share_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    assert read_trace(file).requests == [TraceRequest(0.0, 374, 44), TraceRequest(4.0, 396, 109)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.jsonl", "nonsense\n", r"t\.jsonl:1: needs a JSON object with timestamp"),
        ("t.jsonl", '{"timestamp": 0, "input_length": 4}\n', "needs a JSON object"),
        (
            "t.jsonl",
            '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0]}\n',
            "1 hash_ids do not name the blocks of 600 tokens; is the block size 512?",
        ),
        (
            "t.jsonl",
            '{"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": []}\n',
            "at least one token",
        ),
        ("t.csv", "a,b\n", r"t\.csv:1: no column for arrival: one of timestamp"),
        ("t.csv", "timestamp,input_tokens,output_tokens\nsoon,1,1\n", r"t\.csv:2: .*soon"),
        ("t.csv", "timestamp,input_tokens,output_tokens\n", "holds no requests"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TraceError, match=told):
        read_trace(tmp_path / name)


def test_the_block_size_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 33, "output_length": 1, "hash_ids": [4, 5]}')
    assert read_trace(file, block_size=32).requests[0].blocks == (4, 5)


def test_jitter_spreads_equal_stamps_up_to_the_next_and_no_further() -> None:
    stamps = [0.0, 0.0, 0.0, 3.0, 6.0, 6.0]
    trace = Trace("t", [TraceRequest(s, 10 + i, 1) for i, s in enumerate(stamps)], 512)
    spread = {r.prompt_tokens - 10: r.arrival_s for r in trace.jittered(random.Random(1)).requests}
    assert all(0 <= spread[i] < 3 for i in (0, 1, 2))
    assert len({spread[i] for i in (0, 1, 2)}) == 3
    assert (spread[3], spread[4], spread[5]) == (3.0, 6.0, 6.0)  # alone, or nothing follows


def test_load_multiplies_the_rate_of_arrivals() -> None:
    trace = Trace("t", [TraceRequest(0.0, 1, 1), TraceRequest(6.0, 1, 1)], 512)
    assert [r.arrival_s for r in trace.at_load(1.5).requests] == [0.0, 4.0]


def test_the_ideal_hit_counts_every_block_that_came_before() -> None:
    blocks = [(0, 1), (0, 1, 2), (0, 9, 2)]  # cached: 0, 2 blocks, 1 block
    trace = Trace("t", [TraceRequest(0.0, 10 * len(b), 1, b) for b in blocks], 10)
    assert trace.ideal_hit() == pytest.approx((20 + 10) / 80)


def test_all_of_mooncakes_conversations_begin_with_one_block() -> None:
    assert len({request.blocks[0] for request in sample("conversation").requests}) == 1
