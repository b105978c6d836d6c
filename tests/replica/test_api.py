from __future__ import annotations

import json

import pytest

from gateway.domain import Operation
from gateway.errors import Forbidden, InvalidRequest
from gateway.replica.api import Ask, parse

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: object) -> Ask:
    return parse(Operation.CHAT, chat_body(fields), trusted=False)


def gateway_chat(**fields: object) -> Ask:
    return parse(Operation.CHAT, chat_body(fields), trusted=True)


def chat_body(fields: dict[str, object]) -> bytes:
    return json.dumps({"model": "m", "messages": HELLO} | fields).encode()


def completion(**fields: object) -> Ask:
    body = {"model": "m", "prompt": "hello"} | fields
    return parse(Operation.COMPLETION, json.dumps(body).encode(), trusted=False)


def test_a_chat_has_openais_defaults() -> None:
    ask = chat()
    assert ask.messages == ({"role": "user", "content": "hello"},)
    assert (ask.temperature, ask.top_p, ask.seed, ask.stop) == (1.0, 1.0, None, ())
    assert ask.max_tokens is None
    assert not ask.stream
    assert not ask.include_usage
    assert (ask.cache_salt, ask.priority) == (b"", 1)


def test_a_completion_is_sixteen_tokens_unless_told() -> None:
    assert completion().max_tokens == 16
    assert completion(max_tokens=3).max_tokens == 3


def test_honoured_fields_are_read() -> None:
    ask = chat(
        temperature=0,
        top_p=0.5,
        seed=-7,
        stop="x",
        max_completion_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert (ask.temperature, ask.top_p, ask.seed, ask.stop) == (0.0, 0.5, -7, ("x",))
    assert (ask.max_tokens, ask.stream, ask.include_usage) == (9, True, True)


def test_null_counts_as_left_out() -> None:
    assert chat(temperature=None, stop=None, tools=None, stream_options=None) == chat()


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "u-1", "metadata": {"a": "b"}},
        {
            "n": 1,
            "store": False,
            "logprobs": False,
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
        },
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
    ],
)
def test_fields_that_ask_for_nothing_are_accepted(harmless: dict[str, object]) -> None:
    assert chat(**harmless) == chat()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("n", 2),
        ("n", True),
        ("presence_penalty", 0.5),
        ("logit_bias", {"1": 5}),
        ("audio", {"voice": "x"}),
        ("functions", [{"name": "f"}]),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} is not supported here") as caught:
        chat(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2)])
def test_completions_have_refusals_of_their_own(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} is not supported here"):
        completion(**{name: value})
    with pytest.raises(InvalidRequest, match=f"unknown field '{name}'"):
        chat(**{name: value})


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidRequest, match="unknown field 'top_k'; known: model, messages"
    ) as caught:
        chat(top_k=1)
    assert "cache_salt" not in caught.value.message
    with pytest.raises(InvalidRequest, match="cache_salt"):
        gateway_chat(top_k=1)


@pytest.mark.parametrize("field", [{"cache_salt": "t"}, {"priority": 0}, {"session_id": "s"}])
def test_gateway_fields_count_with_the_secret_only(field: dict[str, object]) -> None:
    with pytest.raises(Forbidden):
        chat(**field)
    name, value = next(iter(field.items()))
    read = getattr(gateway_chat(**field), name)
    assert read == (value.encode() if name == "cache_salt" and isinstance(value, str) else value)


def test_an_empty_salt_would_be_the_public_chain_and_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cache_salt must have 1 to 256"):
        gateway_chat(cache_salt="")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 1}, "model"),
        ({"model": None}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"temperature": NaN}', b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body"):
        parse(Operation.CHAT, body, trusted=False)


def test_text_parts_become_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0]["content"] == "a\nb"


def test_an_assistants_message_comes_back_as_the_sdk_dumped_it() -> None:
    dumped: object = {"role": "assistant", "content": "hi", "refusal": None, "annotations": []}
    assert chat(messages=[*HELLO, dumped]).messages[1] == {"role": "assistant", "content": "hi"}


def test_a_developer_speaks_as_the_system() -> None:
    ask = chat(messages=[{"role": "developer", "content": "be brief"}, *HELLO])
    assert ask.messages[0]["role"] == "system"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2))],
)
def test_a_prompt_is_text_or_token_ids(prompt: object, read: object) -> None:
    assert completion(prompt=prompt).prompt == read


@pytest.mark.parametrize("prompt", ["", [], ["a", "b"], [[1], [2]], [1, "a"], [True], None, {}])
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt"):
        completion(prompt=prompt)


def test_a_parsed_request_shows_nothing_of_the_prompt() -> None:
    messages = [{"role": "user", "content": "private"}]
    ask = gateway_chat(messages=messages, cache_salt="tenant")
    assert "private" not in repr(ask)
    assert "tenant" not in repr(ask)
