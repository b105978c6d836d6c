"""Every knob, seen from the other end of a socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from dataclasses import fields

import httpx
import pytest

from gateway.emulator.faults import Fault
from tests.emulator.callers import CHAT, Caller, asking, events, text_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def read(caller: Caller, fault: str, *, stream: bool = True) -> tuple[bytes, str]:
    """What of a body comes, and how it ends: tidy, cut, silent."""
    body = {**CHAT, "stream": stream}
    url = caller.endpoint.url + "/chat/completions"
    received = b""
    try:
        async with (
            asyncio.timeout(1.5 if "silence" in fault else 20),
            caller.client.stream(
                "POST", url, json=body, headers={"x-emulate-fault": fault}
            ) as response,
        ):
            async for data in response.aiter_raw():
                received += data
    except TimeoutError:
        return received, "silent"
    except httpx.TransportError:
        return received, "cut"
    return received, "tidy"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        ("{reset: headers}", "cut"),
        ("{reset: first}", "cut"),
        ("{silence: headers}", "silent"),
        ("{silence: first}", "silent"),
    ],
)
async def test_an_answer_that_never_begins(fault: str, ends: str, stream: bool) -> None:
    async with asking("openai") as caller:
        assert await read(caller, fault, stream=stream) == (b"", ends)


@pytest.mark.parametrize(
    ("fault", "ends"), [("{reset: 3}", "cut"), ("{silence: 3}", "silent"), ("{close: 3}", "tidy")]
)
async def test_a_stream_that_breaks_off_after_three_tokens(fault: str, ends: str) -> None:
    async with asking("openai") as caller:
        received, end = await read(caller, fault)
        charges = caller.endpoint.bill.charges
        await until(lambda: charges)
    assert end == ends
    assert len([c for e in events(received.decode()) for c in e["choices"]]) == 1 + 3
    assert b'finish_reason":"' not in received
    assert b"[DONE]" not in received
    assert (charges[0].completion_tokens, charges[0].complete) == (3, False)


@pytest.mark.parametrize(
    ("fault", "ends"), [("{reset: 3}", "cut"), ("{silence: 3}", "silent"), ("{close: 3}", "cut")]
)
async def test_one_body_that_breaks_off_in_its_middle(fault: str, ends: str) -> None:
    async with asking("openai") as caller:
        received, end = await read(caller, fault, stream=False)
    assert end == ends
    assert received
    with pytest.raises(json.JSONDecodeError):
        json.loads(received)


async def test_half_an_event_and_a_tidy_end() -> None:
    async with asking("openai") as caller:
        received, end = await read(caller, "{truncate: 2}")
        body, body_end = await read(caller, "{truncate: 2}", stream=False)
    assert (end, body_end) == ("tidy", "tidy")
    with pytest.raises(json.JSONDecodeError):
        json.loads(received.rpartition(b"data: ")[2])
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


async def test_broken_and_empty_events_within_an_answer_that_goes_on() -> None:
    async with asking("openai") as caller:
        whole = await caller.stream()
        broken = await caller.stream("{malformed: 2, empty: 4}")
    data = [line.removeprefix("data: ") for line in broken.splitlines() if line]
    assert len(data) == len([line for line in whole.splitlines() if line]) + 2
    assert data.count("") == 1 or data.count("data:") == 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(data[3])


async def test_an_error_event_in_the_providers_shape_is_the_end() -> None:
    async with asking("cerebras") as caller:
        received, end = await read(caller, "{error: 2}")
        body, _ = await read(caller, "{error: first}", stream=False)
    *_, last = events(received.decode())
    assert end == "tidy"
    assert (last["status_code"], set(last["error"])) == (
        500,
        {"id", "message", "type", "param", "code"},
    )
    assert "error" in json.loads(body)
    assert b"[DONE]" not in received


async def test_a_port_that_refuses_comes_back() -> None:
    async with asking("openai") as caller:
        with pytest.raises(httpx.TransportError):
            await caller.ask(fault="{refuse: 2s}")
        with pytest.raises(httpx.ConnectError):
            await caller.ask()
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    assert (await caller.ask()).status_code == 200
                    break
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("body", "shown"), [("html", "<html>"), ("empty", ""), ("in_200", '{"error":')]
)
async def test_bodies_that_are_not_the_statuss_own(body: str, shown: str) -> None:
    async with asking("openai") as caller:
        answer = await caller.ask(fault=f"{{status: 502, body: {body}, headers: {{x-by: cdn}}}}")
    assert answer.status_code == (200 if body == "in_200" else 502)
    assert answer.text.startswith(shown)
    assert (answer.text == "") is (body == "empty")


async def test_a_refusals_code_and_message_can_be_given() -> None:
    async with asking("groq") as caller:
        answer = await caller.ask(fault="{status: 400, code: tool_use_failed, message: no call}")
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("tool_use_failed", "no call")
    assert "failed_generation" in error


@pytest.mark.parametrize("knob", ["delay: 150ms", "first_token: 150ms", "pace: 20ms"])
async def test_delays_are_real_seconds(knob: str) -> None:
    async with asking("openai") as caller:
        clock = asyncio.get_running_loop().time
        before = clock()
        await caller.stream(f"{{{knob}}}")
        assert clock() - before >= 0.1


async def test_framing_that_is_unusual_and_allowed_changes_nothing_of_what_is_said() -> None:
    async with asking("openai") as caller:
        plain = await caller.stream()
        for fault in ("{split: frame}", "{split: character}", "{join: true}", "{gzip: true}"):
            assert said(await caller.stream(fault)) == said(plain)
        crlf = await caller.stream("{crlf: true, no_space: true}")
    assert "\r\n\r\n" in crlf
    assert said(crlf.replace("\r\n", "\n").replace("data:", "data: ")) == said(plain)


def said(stream: str) -> str:
    return text_of(events(stream))


async def segments(caller: Caller, fault: str) -> list[bytes]:
    """A stream as it comes off the socket, read by read."""
    host, port = caller.endpoint.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**CHAT, "stream": True}).encode()
    path = caller.endpoint.profile.prefix + "/chat/completions"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\nx-emulate-fault: {fault}"
    writer.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    received = []
    while not received or not received[-1].endswith(b"0\r\n\r\n"):
        received.append(await reader.read(65_536))
    writer.close()
    return received


async def test_a_character_is_cut_between_two_segments() -> None:
    async with asking("openai", speed=100.0) as caller:
        received = await segments(caller, "{split: character, pace: 10ms}")
    broken = 0
    for segment in received:
        try:
            segment.decode()
        except UnicodeDecodeError:
            broken += 1
    assert broken >= 2


async def test_two_events_come_in_one_segment() -> None:
    async with asking("openai", speed=100.0) as caller:
        received = await segments(caller, "{join: true, pace: 10ms}")
    assert sum(segment.count(b"data: ") == 2 for segment in received) >= 5


async def test_a_compressed_answer_is_compressed() -> None:
    async with asking("openai") as caller:
        raw, _ = await read(caller, "{gzip: true}", stream=False)
    assert json.loads(gzip.decompress(raw))["object"] == "chat.completion"


async def test_bytes_after_done() -> None:
    async with asking("openai") as caller:
        text = await caller.stream("{trailing: 150ms}")
    after = text.partition("data: [DONE]\n\n")[2]
    assert after
    assert not after.strip()


async def test_what_an_ending_can_lack_or_have_twice() -> None:
    asked = {"stream_options": {"include_usage": True}}
    async with asking("openai") as caller:
        no_done = await caller.stream("{no_done: true}")
        no_reason = await caller.stream("{no_finish_reason: true}")
        no_usage = await caller.stream("{no_usage: true}", **asked)
        twice = await caller.stream("{duplicate_usage: true}", **asked)
    async with asking("fireworks") as caller:
        twice_there = await caller.stream("{duplicate_usage: true}")
    assert "[DONE]" not in no_done
    assert all(c["finish_reason"] is None for e in events(no_reason) for c in e["choices"])
    assert not any(event["usage"] for event in events(no_usage))
    assert sum(event["usage"] is not None for event in events(twice)) == 2
    assert sum("usage" in event for event in events(twice_there)) == 2


async def test_a_fault_that_is_none_is_refused_by_name() -> None:
    async with asking("openai") as caller:
        for fault, says in (
            ("{rest: first}", "did you mean 'reset'?"),
            ("{close: headers}", "close: must be first, or a number"),
            ("{status: 20}", "status must be from 300 to 599"),
            ("{body: html}", "body needs a status"),
            ("{split: x}", "split: must be one of frame, character"),
            ("{", "is not YAML"),
        ):
            answer = await caller.ask(fault=fault)
            assert answer.status_code == 400
            assert says in answer.json()["message"]
        assert not caller.endpoint.requests


def test_every_knob_says_what_it_does() -> None:
    assert all(knob.metadata["does"] for knob in fields(Fault))
