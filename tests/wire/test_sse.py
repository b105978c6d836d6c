"""Each stream is read whole, byte by byte, and in pieces of any size: the events are the same."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.wire.sse import DONE, MAX_EVENT, EventDecoder, EventTooLarge, encode_event

CASES = {
    # Line ends.
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CR LF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "all three": (b"data: a\r\n\ndata: b\r\r\ndata: c\n\r", [b"a", b"b", b"c"]),
    "LF CR is two ends": (b"data: a\n\rdata: b\n\r", [b"a", b"b"]),
    "empty lines between": (b"\n\n\r\n\rdata: a\n\n\n\n\n", [b"a"]),
    # Fields.
    "no space": (b"data:a\n\n", [b"a"]),
    "one space goes, two do not": (b"data:  a \n\n", [b" a "]),
    "colons": (b'data: {"a": 1}\n\n', [b'{"a": 1}']),
    "several data lines": (b"data: {\ndata: }\n\n", [b"{\n}"]),
    "an empty line of data": (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
    "event, id and retry": (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
    "a ping with data": (b"event: ping\ndata: {}\n\ndata: a\n\n", [b"a"]),
    "the ping's name goes with it": (b"data: {}\nevent:ping\r\n\r\ndata: a\n\n", [b"a"]),
    "a name given twice: the last": (b"event: ping\nevent: error\ndata: a\n\n", [b"a"]),
    "an event with a name only": (b"event: ping\n\ndata: a\n\n", [b"a"]),
    "a field that nobody knows": (b"date: x\ndata : y\nDATA: z\ndata: a\n\n", [b"a"]),
    # Nothing to hand on.
    "comments": (b": keep-alive\n\n:\ndata: a\n: between\ndata: b\n\n", [b"a\nb"]),
    "empty data": (b"data\n\ndata:\n\ndata: \n\ndata:\ndata:\n\ndata: a\n\n", [b"a"]),
    "nothing": (b"", []),
    # The beginning and the end.
    "BOM": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "one BOM only": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
    "BOM in the middle": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    "no empty line at the end": (b"data: a\n\ndata: b\n", [b"a"]),
    "no final newline": (b"data: a\n\ndata: b", [b"a"]),
    # Bytes, whatever they are.
    "UTF-8": ("data: é\u2028\x85\n\n".encode(), ["é\u2028\x85".encode()]),
    "no UTF-8": (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    "as OpenAI ends": (b'data: {"x":1}\n\ndata: [DONE]\n\n', [b'{"x":1}', DONE]),
}


def decoded(*pieces: bytes) -> list[bytes]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("case", CASES)
def test_a_stream_gives_its_events(case: str) -> None:
    stream, events = CASES[case]
    assert decoded(stream) == events


@pytest.mark.parametrize("case", CASES)
def test_byte_by_byte_it_gives_the_same(case: str) -> None:
    stream, events = CASES[case]
    assert decoded(*(stream[i : i + 1] for i in range(len(stream)))) == events


@given(
    st.lists(st.sampled_from(list(CASES)), max_size=4), st.lists(st.integers(0, 200), max_size=12)
)
def test_in_pieces_it_gives_the_same(cases: list[str], cuts: list[int]) -> None:
    stream = b"".join(CASES[case][0] for case in cases)
    at = [0, *sorted(cuts), len(stream)]
    assert decoded(*(stream[a:b] for a, b in pairwise(at))) == decoded(stream)


TOKENS = [b"data", b"event", b"ping", b":", b" ", b"\r", b"\n", b"a", b"\xef\xbb\xbf", b""]


@given(st.lists(st.sampled_from(TOKENS)))
def test_any_bytes_in_any_pieces_give_the_same(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert decoded(*pieces) == decoded(stream)
    assert decoded(*(stream[i : i + 1] for i in range(len(stream)))) == decoded(stream)


def test_an_event_is_given_with_the_byte_that_ends_it() -> None:
    """No waiting for whether a CR is half of a CR LF: the next event may be seconds away."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\r\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\r\n\r") == [b"b"]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: c\n\n") == [b"c"]


@given(st.lists(st.binary(min_size=1).map(bytes.hex).map(str.encode)))
def test_what_is_encoded_is_decoded(events: list[bytes]) -> None:
    assert decoded(*map(encode_event, events)) == events


HALF = MAX_EVENT // 2


@pytest.mark.parametrize(
    ("pieces", "fits"),
    [
        ([b"data: ", b"x" * (MAX_EVENT - 100), b"\n\n"], True),
        ([b"data: " + b"x" * (MAX_EVENT - 100) + b"\n\n"], True),
        ([b"data: ", b"x" * MAX_EVENT], False),  # does not end
        ([b"data: " + b"x" * MAX_EVENT + b"\n\n"], False),  # ends, but too late
        ([b"data: " + b"x" * HALF + b"\ndata: " + b"x" * HALF + b"\n\n"], False),
        ([b"data: " + b"x" * HALF + b"\n", b"data: " + b"x" * HALF], False),
        ([b"data: " + b"x" * HALF + b"\n\n", b"data: " + b"x" * HALF + b"\n\n"], True),
        ([b"data: " + b"x" * 4096 + b"\n"] * (MAX_EVENT // 4096), False),  # line after line
        ([b": " + b"x" * MAX_EVENT + b"\n"], False),  # a comment without end, too
    ],
)
def test_an_event_that_does_not_end_is_refused(pieces: list[bytes], fits: bool) -> None:
    if fits:
        assert decoded(*pieces)
    else:
        with pytest.raises(EventTooLarge, match=f"larger than {MAX_EVENT} bytes"):
            decoded(*pieces)


def plainly(stream: bytes) -> list[bytes]:
    """The standard's rules on a stream that is there as a whole."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removeprefix(b"\xef\xbb\xbf")
    events, data, name = [], [], b""
    for line in text.split(b"\n")[:-1]:
        field, _, value = line.partition(b":")
        if not line:
            if b"\n".join(data).strip() and name != b"ping":
                events.append(b"\n".join(data))
            data, name = [], b""
        elif field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event" and b":" in line:
            name = value.removeprefix(b" ")
    return events


LINES = [b"data: a", b"data:{}", b"event: ping", b"event:x", b": c", b"data", b"id: 1", b"", b""]


@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n", b"\r"]))),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_in_any_pieces_it_gives_what_the_standard_says(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(line + end for line, end in lines)
    at = [0, *sorted(cuts), len(stream)]
    assert decoded(*(stream[a:b] for a, b in pairwise(at))) == plainly(stream)
