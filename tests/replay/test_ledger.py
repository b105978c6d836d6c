"""A ledger's export as a trace: what is shared, what is left out, and what is refused."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from gateway.replay.files import read_trace
from gateway.replay.trace import TraceError
from gateway.wire.prefix import chat_parts, prefix_keys


def record(**changed: Any) -> dict[str, Any]:
    return {
        "arrived": 1000.0,
        "tenant": "acme",
        "model": "m",
        "prompt_tokens": 1100,
        "completion_tokens": 5,
        "cached_tokens": 512,
        "prefix": [["aa", 256], ["bb", 512], ["cc", 1024], ["dd", 1100]],
    } | changed


def written(folder: Path, *records: dict[str, Any]) -> Path:
    file = folder / "ledger.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def test_exchanges_become_requests(tmp_path: Path) -> None:
    file = written(tmp_path, record(), record(arrived=1002.5, cost_usd=0.1))
    one, other = read_trace(file).requests
    assert (one.arrival_s, other.arrival_s) == (0.0, 2.5)
    assert (one.prompt_tokens, one.output_tokens, one.tenant) == (1100, 5, "acme")


def test_an_arrival_may_be_a_date_and_time(tmp_path: Path) -> None:
    dates = ("2026-11-24T10:00:00+00:00", "2026-11-24T11:00:01.5+01:00")
    trace = read_trace(written(tmp_path, *(record(arrived=date) for date in dates)))
    assert [r.arrival_s for r in trace.requests] == [0.0, 1.5]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        # Blocks of 512 end at 512, 1024 and, cut, at 1100.
        (record(), 3),
        # Behind the last boundary nobody is known to share anything.
        (record(prefix=[["aa", 256], ["bb", 512], ["cc", 1024]]), 2),
        (record(prefix=[["aa", 256], ["bb", 512], ["xx", 1024]]), 1),
        (record(prefix=[["aa", 256], ["xx", 512]]), 0),
        (record(prefix=[["aa", 256], ["bb", 512]], prompt_tokens=512), 1),
        (record(prefix=[]), 0),
        (record(tenant="other"), 0),  # whatever its ids are
    ],
)
def test_prompts_share_blocks_as_far_as_they_share_boundaries(
    tmp_path: Path, other: dict[str, Any], shared: int
) -> None:
    one, two = read_trace(written(tmp_path, record(), other)).requests
    same = [a == b for a, b in zip(one.blocks, two.blocks, strict=False)]
    assert same[:shared] == [True] * shared
    assert not any(same[shared:])
    assert len(two.blocks) == -(-two.prompt_tokens // 512)


def test_what_had_no_answer_is_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, record(), record(completion_tokens=0))
    assert len(read_trace(file).requests) == 1


def test_one_of_several_models_is_chosen(tmp_path: Path) -> None:
    file = written(tmp_path, record(), record(model="n"), record(model="n"))
    assert len(read_trace(file, model="n").requests) == 2
    with pytest.raises(TraceError, match="holds requests of m, n: choose with --model"):
        read_trace(file)
    with pytest.raises(TraceError, match="holds no requests of 'o'"):
        read_trace(file, model="o")


@pytest.mark.parametrize(
    "broken",
    [
        record(prompt_tokens=-1),
        record(prompt_tokens="many"),
        record(arrived=None),
        record(arrived="yesterday"),
        record(prefix=[["aa"]]),
        record(prefix=[["aa", 512], ["bb", 256]]),
        {"prompt_tokens": 1},
    ],
)
def test_a_broken_record_is_told_with_its_line(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match=r"ledger\.jsonl:2: needs a JSON object with arrived"):
        read_trace(written(tmp_path, record(), broken))


def exported(body: dict[str, Any]) -> dict[str, Any]:
    """The record that docs/replay.md asks for, of four bytes a token."""
    keys = prefix_keys(chat_parts("m", body), tenant_key=b"acme")
    salted = [blake2b(key.digest, key=b"salt", digest_size=8).hexdigest() for key in keys]
    return record(
        prompt_tokens=keys[-1].size // 4,
        prefix=[[name, key.size // 4] for name, key in zip(salted, keys, strict=True)],
    )


def test_the_turns_of_a_conversation_share_what_came_before(tmp_path: Path) -> None:
    first = {"role": "user", "content": "x" * 8000}
    turns = [first, {"role": "assistant", "content": "y" * 4000}, {"role": "user", "content": "?"}]
    bodies = [{"messages": turns[:1]}, {"messages": turns}]
    one, two = read_trace(written(tmp_path, *map(exported, bodies))).requests
    assert len(one.blocks) == 4
    assert two.blocks[:3] == one.blocks[:3]
    assert len(two.blocks) == 6
