from __future__ import annotations

import json

import pytest

from gateway.domain import Operation
from gateway.errors import Forbidden, InvalidRequest
from gateway.replica.api import Ask, parse
from gateway.replica.prompt import Chat
from gateway.replica.sampling import Sampling

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


def messages_of(ask: Ask) -> list[dict[str, str]]:
    assert isinstance(ask.prompt, Chat)
    return [dict(message) for message in ask.prompt.messages]


def test_a_chat_has_openais_defaults() -> None:
    ask = chat()
    assert ask.prompt == Chat(({"role": "user", "content": "hello"},), True, False)
    assert (ask.sampling, ask.stop, ask.n) == (Sampling(), (), 1)
    assert not ask.stream
    assert not ask.include_usage
    assert (ask.cache_salt, ask.priority) == (b"", 1)


def test_a_completion_is_sixteen_tokens_unless_told() -> None:
    assert completion().sampling.max_tokens == 16
    assert completion(max_tokens=3).sampling.max_tokens == 3


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
    assert ask.sampling == Sampling(temperature=0, top_p=0.5, seed=-7, max_tokens=9)
    assert (ask.stop, ask.stream, ask.include_usage) == (("x",), True, True)


def test_vllms_sampling_fields_are_read() -> None:
    ask = chat(
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-2,
        frequency_penalty=0.5,
        logit_bias={"7": -100, "8": 0.5},
        min_tokens=2,
        stop_token_ids=[5, 6],
        ignore_eos=True,
        include_stop_str_in_output=True,
        n=3,
    )
    assert ask.sampling == Sampling(
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-2,
        frequency_penalty=0.5,
        logit_bias={7: -100, 8: 0.5},
        min_tokens=2,
        stop_tokens=frozenset({5, 6}),
    )
    assert (ask.ignore_eos, ask.include_stop, ask.n) == (True, True, 3)
    assert chat(top_k=-1).sampling.top_k == 0


def test_log_probabilities_are_asked_for_in_each_operations_way() -> None:
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).sampling.logprobs == 20
    assert chat(logprobs=False, top_logprobs=0).sampling.logprobs is None
    assert completion(logprobs=0).sampling.logprobs == 0
    assert completion(logprobs=5).sampling.logprobs == 5


def test_an_answer_begins_anew_unless_the_last_message_is_to_be_continued() -> None:
    begun = [*HELLO, {"role": "assistant", "content": "he"}]
    ask = chat(messages=begun, continue_final_message=True)
    assert isinstance(ask.prompt, Chat)
    assert (ask.prompt.begins_answer, ask.prompt.continues) == (False, True)
    ask = chat(add_generation_prompt=False)
    assert isinstance(ask.prompt, Chat)
    assert (ask.prompt.begins_answer, ask.prompt.continues) == (False, False)
    with pytest.raises(
        InvalidRequest, match=r"^continue_final_message needs a last message of the"
    ):
        chat(continue_final_message=True)
    with pytest.raises(InvalidRequest, match=r"^add_generation_prompt must be false"):
        chat(messages=begun, continue_final_message=True, add_generation_prompt=True)


def test_best_of_may_say_what_n_says() -> None:
    assert completion(n=2, best_of=2).n == 2
    with pytest.raises(InvalidRequest, match=r"^best_of is not supported here with this value"):
        completion(n=1, best_of=2)


def test_an_echo_has_no_log_probabilities() -> None:
    assert completion(echo=True).echo
    with pytest.raises(InvalidRequest, match=r"^logprobs of a prompt are not supported here"):
        completion(echo=True, logprobs=1)


def test_only_one_choice_can_be_continued() -> None:
    assert gateway_chat(continue_token_ids=[]).continued == ()
    assert gateway_chat().continued is None
    with pytest.raises(InvalidRequest, match=r"^continue_token_ids continues one choice"):
        gateway_chat(continue_token_ids=[1], n=2)


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
        ("audio", {"voice": "x"}),
        ("functions", [{"name": "f"}]),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} is not supported here") as caught:
        chat(**{name: value})
    assert caught.value.param == name


def test_completions_have_refusals_of_their_own() -> None:
    with pytest.raises(InvalidRequest, match=r"^suffix is not supported here"):
        completion(suffix="x")
    for name in ("suffix", "echo", "best_of"):
        with pytest.raises(InvalidRequest, match=f"unknown field '{name}'"):
            chat(**{name: 1})


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidRequest, match="unknown field 'top_q'; known: model, messages"
    ) as caught:
        chat(top_q=1)
    assert "cache_salt" not in caught.value.message
    with pytest.raises(InvalidRequest, match="cache_salt"):
        gateway_chat(top_q=1)


@pytest.mark.parametrize(
    "field",
    [
        {"cache_salt": "t"},
        {"priority": 0},
        {"session_id": "s"},
        {"continue_token_ids": [1, 2]},
        {"return_token_ids": True},
    ],
)
def test_gateway_fields_count_with_the_secret_only(field: dict[str, object]) -> None:
    with pytest.raises(Forbidden):
        chat(**field)
    name, value = next(iter(field.items()))
    ask = gateway_chat(**field)
    read = {"cache_salt": ask.cache_salt.decode(), "continue_token_ids": list(ask.continued or ())}
    assert (read[name] if name in read else getattr(ask, name)) == value


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
        ({"stop_token_ids": [1, -2]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": list(range(129))}, "stop_token_ids"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
            "messages[0].tool_calls[0]",
        ),
        ({"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": 1}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "x", "mood": "m"}]}, "messages[0].mood"),
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
    ask = chat(messages=[{"role": "user", "content": parts}])
    assert messages_of(ask)[0]["content"] == "a\nb"


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_template_may_tell_who_of_a_role_speaks(role: str) -> None:
    ask = chat(messages=[{"role": role, "content": "hi", "name": "ann"}])
    assert messages_of(ask)[0] == {"role": role, "content": "hi", "name": "ann"}


def test_an_assistants_message_comes_back_as_the_sdk_dumped_it() -> None:
    dumped: object = {"role": "assistant", "content": "hi", "refusal": None, "annotations": []}
    ask = chat(messages=[*HELLO, dumped])
    assert messages_of(ask)[1] == {"role": "assistant", "content": "hi"}


def test_a_developer_speaks_as_the_system() -> None:
    ask = chat(messages=[{"role": "developer", "content": "be brief"}, *HELLO])
    assert messages_of(ask)[0]["role"] == "system"


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
