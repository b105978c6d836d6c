"""A client's bytes, read once: what is understood, what is refused and with which words."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from gateway.domain import Operation
from gateway.errors import InvalidRequest
from gateway.wire.fields import FIELDS, OWNED, Owned
from gateway.wire.openai import MAX_MESSAGES, encode_request
from gateway.wire.strict_json import MAX_NESTING, MAX_PARTS, MAX_VALUES
from tests.support.requests import chat, completion, parsed, turns

CHAT: dict[str, Any] = {"model": "m", "messages": turns("hi")}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}
EMBEDDINGS: dict[str, Any] = {"model": "m", "input": "hi"}
MINIMAL = {
    Operation.CHAT: CHAT,
    Operation.COMPLETION: COMPLETION,
    Operation.EMBEDDINGS: EMBEDDINGS,
}


def refused(
    body: dict[str, Any] | bytes, operation: Operation = Operation.CHAT
) -> tuple[str, str | None]:
    """The message and the param that the caller is answered with."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(body, operation)
    return caught.value.message, caught.value.param


def test_a_chat_request_is_read() -> None:
    request = chat("hi", stream=True, stream_options={"include_usage": True}, max_tokens=7, seed=1)
    assert (request.operation, request.model) == (Operation.CHAT, "m")
    assert (request.stream, request.include_usage, request.max_tokens) == (True, True, 7)
    assert request.forwarded["seed"] == 1
    assert request.forwarded["messages"] == turns("hi")
    assert "model" not in request.forwarded
    assert request.prompt_size == request.prefix[-1].size


def test_a_completion_request_is_read() -> None:
    request = completion("Once", max_tokens=7)
    assert (request.operation, request.stream, request.max_tokens) == (
        Operation.COMPLETION,
        False,
        7,
    )
    assert request.forwarded == {"prompt": "Once", "max_tokens": 7}


@pytest.mark.parametrize("operation", Operation)
def test_null_is_the_same_as_absent(operation: Operation) -> None:
    nulls = {name: None for name, types in FIELDS[operation].items() if type(None) in types}
    with_nulls = parsed(MINIMAL[operation] | nulls, operation)
    plain = parsed(MINIMAL[operation], operation)
    assert with_nulls.prefix == plain.prefix
    assert with_nulls.cache_salt == plain.cache_salt
    assert (with_nulls.stream, with_nulls.include_usage) == (False, False)
    assert with_nulls.max_tokens is None
    assert with_nulls.session_id is None


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),  # the newer name counts
        ({"max_completion_tokens": None, "max_tokens": 9}, 9),
        ({"max_tokens": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_the_limit_of_tokens(limits: dict[str, int | None], most: int | None) -> None:
    assert parsed(CHAT | limits).max_tokens == most


def test_a_completion_may_ask_for_no_token() -> None:
    request = completion(max_tokens=0, echo=True, logprobs=1)
    assert request.max_tokens == 0
    assert request.forwarded["max_tokens"] == 0


# What is no request at all.


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "the body is not valid JSON at character 0"),
        (b"{", "the body is not valid JSON at character 1"),
        ('{"model": "\u00e9" "}'.encode(), "the body is not valid JSON at character 14"),
        (b'{"model": "m"} {}', "the body is not valid JSON at character 15"),
        (b'{"model": "\xff"}', "the body is not valid UTF-8"),
        (b'{"model": "\xed\xa0\x80"}', "the body is not valid UTF-8"),  # half a pair, as bytes
        ('{"model": "m"}'.encode("utf-16"), "the body is not valid UTF-8"),
        (b'{"a": "\n"}', "the body is not valid JSON at character 7"),
        (b'{"temperature": NaN}', "the body is not valid JSON: it has NaN"),
        (b'{"temperature": -Infinity}', "the body is not valid JSON: it has -Infinity"),
        (b'{"temperature": 1e999}', "the body has a number that is too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "the body has a number that is too large"),
        (b'{"temperature": 1' + b"0" * 400 + b"}", "the body has a number that is too large"),
        (b'{"x": [{"y": [0, -1' + b"0" * 400 + b"]}]}", "the body has a number that is too large"),
        (b"[]", "the body must be a JSON object"),
        (b'"hi"', "the body must be a JSON object"),
        (b"null", "the body must be a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes, says: str) -> None:
    assert refused(raw) == (says, None)


@pytest.mark.parametrize("depth", [MAX_NESTING, 500, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_nesting_bomb_is_refused(depth: int, opens: bytes, closes: bytes) -> None:
    bomb = b'{"model": "m", "x": ' + opens * depth + b"1" + closes * depth + b"}"
    assert refused(bomb) == (f"the body nests deeper than {MAX_NESTING} levels", None)


def test_nesting_up_to_the_limit_is_fine() -> None:
    depth = MAX_NESTING - 1  # the body itself is a level
    value: Any = 1
    for _ in range(depth):
        value = [value]
    assert parsed(CHAT | {"x": value}).forwarded["x"] == value


MANY = f"the body has more than {MAX_PARTS} strings, arrays and objects, or more than {MAX_VALUES}"


@pytest.mark.parametrize(
    ("each", "times"),
    [
        (b"1", MAX_VALUES),
        (b"null", MAX_VALUES),
        (b"{}", MAX_PARTS),
        (b"[1]", MAX_PARTS),
        (b'"a"', MAX_PARTS),
        (b'"\\""', MAX_PARTS),
        (b'"\\\\"', MAX_PARTS),
        (b'{"type":"text","text":"a"}', MAX_PARTS // 5),
    ],
)
@pytest.mark.parametrize("text", [b"a", b'[{,\\\\\\"' * 100_000])
def test_a_body_of_too_many_things_is_refused(each: bytes, times: int, text: bytes) -> None:
    ask = b'{"model":"m","prompt":"%b","x":[%b]}'
    message, param = refused(ask % (text, b",".join([each] * times)), Operation.COMPLETION)
    assert (message.startswith(MANY), param) == (True, None)
    few = parsed(ask % (text, b",".join([each] * 1000)), Operation.COMPLETION)
    assert len(few.forwarded["x"]) == 1000


@pytest.mark.parametrize("piece", ["[", "{[,:]}", '"', "\\", '\\"', '{"a": [1, "b\\n"]},\n', "é,"])
def test_a_long_text_may_be_full_of_brackets(piece: str) -> None:
    prompt = piece * (20_000_000 // len(json.dumps(piece)))
    assert parsed(COMPLETION | {"prompt": prompt}, Operation.COMPLETION).forwarded == {
        "prompt": prompt
    }


def test_a_prompt_may_be_a_million_token_ids() -> None:
    ids = [128_000] * 1_000_000
    assert parsed(COMPLETION | {"prompt": ids}, Operation.COMPLETION).prompt_tokens == len(ids)
    inputs = [ids[:512]] * 2048
    assert parsed(EMBEDDINGS | {"input": inputs}, Operation.EMBEDDINGS).prompt_tokens == 2**20


def test_of_a_key_that_stands_twice_the_last_counts_and_only_that_goes_on() -> None:
    raw = b'{"model": "a", "model": "b", "seed": 1, "seed": 2, "prompt": "x"}'
    request = parsed(raw, Operation.COMPLETION)
    assert request.model == "b"
    sent = encode_request("theirs", request, {})
    assert json.loads(sent) == {"model": "theirs", "seed": 2, "prompt": "x"}
    assert sent.count(b"seed") == sent.count(b"model") == 1


# What must be there.


@pytest.mark.parametrize(
    ("operation", "name", "empty"),
    [
        (Operation.CHAT, "model", ""),
        (Operation.CHAT, "messages", []),
        (Operation.COMPLETION, "model", ""),
        (Operation.COMPLETION, "prompt", ""),
        (Operation.COMPLETION, "prompt", []),
        (Operation.EMBEDDINGS, "input", ""),
        (Operation.EMBEDDINGS, "input", []),
    ],
)
def test_what_is_required_is_missed_by_name(operation: Operation, name: str, empty: object) -> None:
    body = MINIMAL[operation]
    without = {key: value for key, value in body.items() if key != name}
    assert refused(without, operation) == (f"you must provide {name!r}", name)
    assert refused(body | {name: empty}, operation) == (f"{name!r} must not be empty", name)


@pytest.mark.parametrize(
    ("message", "where", "says"),
    [
        ("hi", "messages[1]", "must be an object"),
        (None, "messages[1]", "must be an object"),
        ({}, "messages[1].role", "must be a string"),
        ({"role": 1, "content": "hi"}, "messages[1].role", "must be a string"),
        ({"role": "user", "content": 1}, "messages[1].content", "must be a string or an array"),
        ({"role": "user", "content": {}}, "messages[1].content", "must be a string or an array"),
    ],
)
def test_a_message_at_fault_is_named_by_its_place(message: object, where: str, says: str) -> None:
    words, param = refused(CHAT | {"messages": [*turns("hi"), message]})
    assert param == where
    assert words.startswith(f"{where} {says}")


def test_messages_without_content_are_fine() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert parsed(CHAT | {"messages": [*turns("hi"), calls, {"role": "x"}]})


# The type of each field.

OF_TYPE: dict[type, list[Any]] = {
    str: ["text", ""],
    int: [3, -(10**30)],
    float: [0.5],
    bool: [True, False],
    list: [[], ["x"]],
    dict: [{}, {"a": 1}],
    type(None): [None],
}
REQUIRED = ("model", "messages", "prompt", "input")
BOUNDED = ("max_tokens", "max_completion_tokens", "n", "best_of", "dimensions", "encoding_format")
TYPED = [
    (operation, name, kind, value)
    for operation, table in FIELDS.items()
    for name in table
    for kind, values in OF_TYPE.items()
    for value in values
]


@pytest.mark.parametrize(
    ("operation", "name", "value"),
    [
        (operation, name, value)
        for operation, name, kind, value in TYPED
        if kind in FIELDS[operation][name]
        and name not in REQUIRED
        and not (name in BOUNDED and value is not None)
    ],
)
def test_a_field_of_the_right_type_is_forwarded_as_it_came(
    operation: Operation, name: str, value: object
) -> None:
    request = parsed(MINIMAL[operation] | {name: value}, operation)
    assert name in OWNED or request.forwarded[name] == value


@pytest.mark.parametrize(
    ("operation", "name", "value"),
    [
        (operation, name, value)
        for operation, name, kind, value in TYPED
        if kind not in FIELDS[operation][name]  # so True is no integer here
    ],
)
def test_a_field_of_another_type_is_refused_by_name(
    operation: Operation, name: str, value: object
) -> None:
    message, param = refused(MINIMAL[operation] | {name: value}, operation)
    assert param == name
    assert message.startswith(f"{name!r} must be ")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": True}, "'n' must be an integer or null, not a boolean"),
        ({"n": 1.0}, "'n' must be an integer or null, not a number"),
        ({"temperature": "hot"}, "'temperature' must be a number or null, not a string"),
        ({"stop": {}}, "'stop' must be a string or an array or null, not an object"),
        ({"model": None}, "'model' must be a string, not null"),
        ({"max_tokens": 0}, "'max_tokens' must be at least 1"),
        ({"max_completion_tokens": -1}, "'max_completion_tokens' must be at least 1"),
        ({"max_completion_tokens": 2**31}, "'max_completion_tokens' must be at most 2147483647"),
        ({"n": 0}, "'n' must be at least 1"),
        ({"n": 129}, "'n' must be at most 128"),
        (
            {"stream_options": {"include_usage": 1}},
            "'stream_options.include_usage' must be a boolean",
        ),
    ],
)
def test_the_words_of_a_refusal(fields: dict[str, object], says: str) -> None:
    assert refused(CHAT | fields)[0] == says


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": -1}, "'max_tokens' must be at least 0"),
        ({"max_tokens": 2**31}, "'max_tokens' must be at most 2147483647"),
        ({"n": 10**30}, "'n' must be at most 128"),
        ({"n": -1}, "'n' must be at least 1"),
        ({"best_of": 129}, "'best_of' must be at most 128"),
    ],
)
def test_a_completion_has_bounds_of_its_own(fields: dict[str, object], says: str) -> None:
    assert refused(COMPLETION | fields, Operation.COMPLETION) == (says, next(iter(fields)))


def test_a_field_that_we_do_not_know_is_for_the_endpoint_to_judge() -> None:
    unknown = {"guided_regex": "a+", "x": [1, {"y": None}], "max_completion_tokens": "many"}
    assert parsed(COMPLETION | unknown, Operation.COMPLETION).forwarded == {
        "prompt": "hi",
        **unknown,
    }


# The fields that the gateway owns.


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("name", [name for name, how in OWNED.items() if how is Owned.REFUSED])
def test_what_the_gateway_decides_is_refused_from_callers(operation: Operation, name: str) -> None:
    message, param = refused(MINIMAL[operation] | {name: "x"}, operation)
    assert message == f"{name!r} is set by the gateway, not by its callers"
    assert param == name
    assert name not in parsed(MINIMAL[operation] | {name: None}, operation).forwarded


@pytest.mark.parametrize("name", [name for name, how in OWNED.items() if how is Owned.OVERWRITTEN])
def test_what_the_gateway_overwrites_never_goes_on_as_it_came(name: str) -> None:
    request = chat(**{name: "mine-1"})
    assert name not in request.forwarded
    assert "mine-1" not in repr(request)


def test_a_salt_divides_a_tenant_and_never_joins_two() -> None:
    salts = {
        chat(tenant=tenant, **fields).cache_salt
        for tenant in ("acme", "rival")
        for fields in ({}, {"cache_salt": ""}, {"cache_salt": "x"}, {"cache_salt": "null"})
    }
    assert len(salts) == 8
    assert chat(cache_salt="x").cache_salt == chat("else", cache_salt="x").cache_salt


def test_a_session_is_named_within_its_tenant() -> None:
    acme, rival = (chat(session_id="s", tenant=tenant).session_id for tenant in ("acme", "rival"))
    assert acme != rival
    assert acme == chat("else", session_id="s").session_id != chat(session_id="t").session_id


# Whatever comes.

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())  # halves of surrogate pairs included
    | st.sampled_from(["m", "hi", "user"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content"]), inner)
    ),
    max_leaves=8,
)
names = st.sampled_from(sorted({*OWNED, *(name for known in FIELDS.values() for name in known)}))
operations = st.sampled_from(Operation)


@given(st.dictionaries(names | st.text(), json_values), operations)
@example({"session_id": "\ud800"}, Operation.CHAT)
@example({"max_completion_tokens": "many"}, Operation.COMPLETION)
@example({"max_completion_tokens": {}}, Operation.COMPLETION)
@example({"stream_options": True}, Operation.EMBEDDINGS)
def test_any_fields_are_read_or_refused(fields: dict[str, Any], operation: Operation) -> None:
    for body in (fields, MINIMAL[operation] | fields):
        with suppress(InvalidRequest):
            request = parsed(body, operation)
            sent = json.loads(encode_request("theirs", request, {}), parse_constant=pytest.fail)
            assert sent.keys() - {"stream_options"} == {"model", *request.forwarded} - {
                "stream_options"
            }


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), operations)
def test_any_bytes_are_read_or_refused(raw: bytes, operation: Operation) -> None:
    with suppress(InvalidRequest):
        parsed(raw, operation)


def test_a_conversation_has_an_end() -> None:
    many = [{"role": "u"}] * (MAX_MESSAGES + 1)
    with pytest.raises(InvalidRequest, match="at most 10000 items"):
        parsed({"model": "m", "messages": many})
