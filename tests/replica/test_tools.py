"""Tools, forms and thoughts, from the SDK's request to its answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammars
from gateway.replica.guide import guide
from gateway.replica.request import Counts, Finish, Output, Submission
from gateway.replica.server import Replica, create_app
from gateway.replica.speech import Thinking
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.tool_formats import HERMES, LLAMA3, MISTRAL, ToolFormat
from gateway.replica.tools import Tool, ToolChoice, Tools
from tests.support.fake_backend import FakeBackend
from tests.support.tiny_text import CHATML, tiny_metadata

pytestmark = pytest.mark.anyio

TOKENIZER = Tokenizer(tiny_metadata())
GRAMMARS = Grammars(TOKENIZER)
SECRET = "s3cret"

WITH_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<tool_call>{% endif %}"
    + CHATML
)
LLAMAS = WITH_TOOLS.replace("<tool_call>", "<|python_tag|>")
MISTRALS = WITH_TOOLS.replace("<tool_call>", "[TOOL_CALLS]")
THINKING = (
    CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
HELLO: Any = [{"role": "user", "content": "hello"}]
ADD_SCHEMA: Any = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["m", "km"]},
    },
    "required": ["a", "unit"],
    "additionalProperties": False,
}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": ADD_SCHEMA}}
NOW: Any = {"type": "function", "function": {"name": "now"}}
STRICT: Any = {"type": "function", "function": {**ADD["function"], "strict": True}}
NAMED: Any = {"type": "function", "function": {"name": "add"}}


class Speaker:
    """In place of an engine: says this text to whoever asks, in small pieces."""

    accepting = True

    def __init__(self, text: str, finish: Finish = Finish.STOP) -> None:
        self.text = text
        self.finish = finish
        self.submissions: list[Submission] = []

    def submit(self, *submissions: Submission) -> None:
        for submission in submissions:
            self.submissions.append(submission)
            tokens = TOKENIZER.encode(self.text)
            for token in tokens:
                submission.on_token(Output(token))
            submission.on_finish(self.finish, Counts(len(submission.prompt), 0, len(tokens)))

    def abort(self, request_id: str) -> None:
        pass

    def stats(self) -> Any:
        return Engine(FakeBackend(vocabulary=TOKENIZER.vocabulary)).stats()


@asynccontextmanager
async def sdk(engine: Any, template: str = WITH_TOOLS) -> AsyncIterator[openai.AsyncOpenAI]:
    replica = Replica(
        engine, TOKENIZER, ChatTemplate(template, TOKENIZER), GRAMMARS, ("m",), 1, SECRET
    )
    transport = httpx.ASGITransport(create_app(replica))
    async with (
        httpx.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(
            base_url="http://replica/v1", api_key="-", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


@asynccontextmanager
async def noise(template: str = WITH_TOOLS) -> AsyncIterator[Callable[..., Any]]:
    """A replica whose model is noise: gives its `create`."""
    engine = Engine(FakeBackend(vocabulary=TOKENIZER.vocabulary, blocks=512, context_length=4096))
    engine.start()
    try:
        async with sdk(engine, template) as client:

            async def create(**fields: Any) -> Any:
                asked = {"model": "m", "messages": HELLO, "seed": 1, "max_tokens": 400}
                return await client.chat.completions.create(**{**asked, **fields})

            yield create
    finally:
        engine.stop()


CALL = 'Well. <tool_call>\n{"name": "add", "arguments": {"a": 1, "unit": "km"}}\n</tool_call>'


async def test_a_call_in_a_whole_answer() -> None:
    async with sdk(Speaker(CALL)) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO, tools=[ADD, NOW])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Well."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "add")
    assert json.loads(call.function.arguments) == {"a": 1, "unit": "km"}
    assert call.id.startswith("call_")


async def test_a_call_in_a_stream_has_its_name_first_and_then_pieces() -> None:
    async with sdk(Speaker(CALL)) as client:
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, tools=[ADD], stream=True
        )
        chunks = [chunk.choices[0] async for chunk in stream]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert {delta.index for delta in deltas} == {0}
    assert (deltas[0].function.name, deltas[0].type) == ("add", "function")
    assert deltas[0].id is not None
    assert all(d.id is None and d.function.name is None for d in deltas[1:])
    assert len(deltas) > 5
    said = "".join(delta.function.arguments for delta in deltas)
    assert json.loads(said) == {"a": 1, "unit": "km"}
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Well."


async def test_the_sdks_own_reader_of_streams_puts_a_call_together() -> None:
    async with (
        sdk(Speaker(CALL)) as client,
        client.chat.completions.stream(model="m", messages=HELLO, tools=[ADD]) as stream,
    ):
        answer = await stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 1, "unit": "km"}


async def test_what_is_cut_says_so_and_what_is_malformed_is_text() -> None:
    async with sdk(Speaker(CALL[:40], Finish.LENGTH)) as client:
        cut = await client.chat.completions.create(model="m", messages=HELLO, tools=[ADD])
    assert cut.choices[0].finish_reason == "length"
    malformed = "<tool_call>{'name': add}</tool_call>"
    async with sdk(Speaker(malformed)) as client:
        text = await client.chat.completions.create(model="m", messages=HELLO, tools=[ADD])
    assert text.choices[0].finish_reason == "stop"
    assert text.choices[0].message.content == malformed
    assert text.choices[0].message.tool_calls is None


@pytest.mark.parametrize("template", [WITH_TOOLS, LLAMAS, MISTRALS])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [{"max_tokens": 12}, {"stop": ["ame"]}])
async def test_of_a_required_call_that_was_cut_no_markup_is_seen(
    template: str, stream: bool, end: dict[str, Any]
) -> None:
    async with noise(template) as create:
        answer = await create(tools=[ADD], tool_choice="required", stream=stream, **end)
        chunks = [chunk async for chunk in answer] if stream else [answer]
    choices = [chunk.choices[0] for chunk in chunks]
    said = [choice.delta if stream else choice.message for choice in choices]
    assert not any(one.content or one.tool_calls for one in said)
    assert choices[-1].finish_reason == ("length" if "max_tokens" in end else "stop")


async def test_a_call_whose_last_brace_might_begin_a_stop_string_is_a_call() -> None:
    said = '<tool_call>\n{"arguments": {"a": 1, "unit": "km"}, "name": "add"}'
    async with sdk(Speaker(said)) as client:
        answer = await client.chat.completions.create(
            model="m", messages=HELLO, tools=[ADD], stop="}!"
        )
    (choice,) = answer.choices
    assert choice.message.tool_calls[0].function.name == "add"
    assert choice.finish_reason == "tool_calls"


async def test_with_no_choice_of_tools_a_call_is_text() -> None:
    engine = Speaker(CALL)
    async with sdk(engine) as client:
        ask = client.chat.completions.create
        answer = await ask(model="m", messages=HELLO, tools=[ADD], tool_choice="none")
        await ask(model="m", messages=HELLO)
    assert answer.choices[0].message.content == CALL
    without, plain = engine.submissions
    assert without.prompt == plain.prompt


@pytest.mark.parametrize("template", [WITH_TOOLS, LLAMAS, MISTRALS, CHATML])
async def test_a_required_call_is_valid_whatever_the_model(template: str) -> None:
    async with noise(template) as create:
        for seed in range(5):
            answer = await create(
                tools=[ADD, NOW], tool_choice="required", seed=seed, parallel_tool_calls=False
            )
            (choice,) = answer.choices
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            (call,) = choice.message.tool_calls
            if call.function.name == "add":
                Draft202012Validator(ADD_SCHEMA).validate(json.loads(call.function.arguments))


async def test_a_named_call_is_of_that_name_once_and_streamed_the_same() -> None:
    async with noise() as create:
        asked: Any = {"tools": [NOW, ADD], "tool_choice": NAMED, "n": 3}
        whole = await create(**asked)
        for choice in whole.choices:
            (call,) = choice.message.tool_calls
            assert call.function.name == "add"
            Draft202012Validator(ADD_SCHEMA).validate(json.loads(call.function.arguments))
        pieces: dict[int, str] = {}
        async for chunk in await create(**asked, stream=True):
            for choice in chunk.choices:
                for delta in choice.delta.tool_calls or ():
                    pieces.setdefault(choice.index, "")
                    pieces[choice.index] += delta.function.arguments
    assert [pieces[i] for i in range(3)] == [
        choice.message.tool_calls[0].function.arguments for choice in whole.choices
    ]


async def test_several_calls_may_be_required_of_some_tools() -> None:
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [NAMED]},
    }
    most = 0
    async with noise() as create:
        for seed in range(12):
            answer = await create(tools=[ADD, NOW], tool_choice=allowed, seed=seed)
            calls = answer.choices[0].message.tool_calls
            assert {call.function.name for call in calls} == {"add"}
            assert len({call.id for call in calls}) == len(calls)
            most = max(most, len(calls))
    assert most > 1


@pytest.mark.parametrize("form", [HERMES, LLAMA3, MISTRAL])
async def test_a_strict_tool_is_called_validly_or_not_at_all(form: ToolFormat) -> None:
    strict = Tool("add", ADD_SCHEMA, True, {})
    free = Tool("free", ADD_SCHEMA, False, {})
    tools = Tools((strict, free), (strict, free), ToolChoice.AUTO)
    wanted = guide(tools, None, form, Thinking.NEVER, GRAMMARS.literal)
    assert wanted is not None

    def allows(text: str) -> bool:
        matcher = GRAMMARS.read(wanted.lark, "tools").begin()
        for token in TOKENIZER.encode(text):
            if not matcher.mask()[token]:
                return False
            matcher.take(token)
        return any(matcher.mask()[token] for token in TOKENIZER.stop_tokens)

    def call(name: str, arguments: str) -> str:
        key, opening = form.arguments, "" if form.bare else form.opening + form.head
        body = f'{{"name": "{name}", "{key}": {arguments}}}'
        return opening + body + form.tail + form.closing

    assert allows("just text < > [ and more")
    assert allows(call("add", '{"a": 1, "unit": "km"}'))
    assert not allows(call("add", '{"a": 1}'))
    assert not allows(call("add", '{"a": 100, "unit": "km"}'))
    assert allows(call("free", '{"b": 1}'))
    assert not allows(call("nobody", "{}"))


async def test_an_answer_is_valid_by_its_schema() -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": ADD_SCHEMA}}
    async with noise() as create:
        answer = await create(response_format=wanted)
        beside = await create(response_format=wanted, tools=[STRICT], n=8)
        anything = await create(response_format={"type": "json_object"}, max_tokens=1000)
    assert answer.choices[0].finish_reason == "stop"
    Draft202012Validator(ADD_SCHEMA).validate(json.loads(answer.choices[0].message.content))
    for choice in beside.choices:
        calls = choice.message.tool_calls
        said = calls[0].function.arguments if calls else choice.message.content
        assert isinstance(json.loads(said), dict)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict)


async def test_thoughts_are_told_apart_and_counted() -> None:
    async with sdk(Speaker("<think>\nhmm\n</think>\n\nhello"), THINKING) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("hello", "hmm")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 3
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "hmm"
    assert "".join(delta.content or "" for delta in deltas) == "hello"


async def test_a_schema_holds_after_the_thoughts() -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}
    opening, closing = TOKENIZER.encode("<think>")[0], TOKENIZER.encode("</think>")
    bias = {str(opening): 100} | {str(token): 3 for token in closing}
    async with noise(THINKING) as create:
        thinking = await create(response_format=wanted, logit_bias=bias, max_tokens=60)
        plain = await create(response_format=wanted, logit_bias=bias, reasoning_effort="none")
    assert thinking.choices[0].message.reasoning_content
    assert plain.choices[0].message.content in ("1", "2")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        (
            {"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
            "tools[0].function.name",
            "must have 1 to 64 letters",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "must be 'function'"),
        ({"tools": [ADD, ADD]}, "tools", "different names"),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice", "must be 'none', 'auto'"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [NOW], "tool_choice": NAMED}, "tool_choice", "names 'add'"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}
                ],
                "tool_choice": "required",
            },
            "tools",
            'Unimplemented keys: ["not"]',
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "must be 'text'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "must be a JSON schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"uniqueItems": True}},
                }
            },
            "response_format",
            'Unimplemented keys: ["uniqueItems"]',
        ),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not supported by this model"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "must be one of"),
        (
            {"extra_body": {"chat_template_kwargs": {"bos_token": "x"}}},
            "chat_template_kwargs",
            "has no variable 'bos_token'",
        ),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"min_tokens": 3}},
            "min_tokens",
            "cannot be kept with a grammar",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    fields: dict[str, Any], param: str, says: str
) -> None:
    async with sdk(Speaker("hello")) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="m", messages=HELLO, **fields)
    assert caught.value.param == param
    assert says in caught.value.message
