"""Tools and their history, as chat templates get them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.replica.fields import Fields
from gateway.replica.prompt import Chat, parse_chat
from gateway.replica.speech import Thinking
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.tools import parse_tools
from tests.support.tiny_text import CHATML, IM_END, tiny_metadata

TOKENIZER = Tokenizer(tiny_metadata())

# Written as the templates of Hermes, Llama 3 and Mistral are: by the fields that these read.
HERMES = """
{%- for tool in tools or [] %}{{ tool | tojson }};{% endfor %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endfor %}"""
LLAMA3 = """
{%- for t in tools or [] %}{{ t | tojson(indent=4) }}{% endfor %}
{%- for m in messages %}[{{ "ipython" if m.role == "tool" else m.role }}]
{%- if m.tool_calls %}{%- set call = m.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ "}" }}
{%- else %}{{ m.content }}{% endif %}{% endfor %}"""
MISTRAL = """
{%- for m in messages %}
{%- if m.tool_calls %}[TOOL_CALLS][{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}
{{- call.function | tojson }}{% endfor %}]
{%- elif m.role == "tool" %}[TOOL_RESULTS]
{{- {"content": m.content, "id": m.tool_call_id} | tojson }}
{%- else %}{{ m.content }}{% endif %}{% endfor %}{% if tools %}{% endif %}"""

CALL: Any = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": [1, "é"]}'},
}
HISTORY: Any = [
    {"role": "user", "content": "add"},
    {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "3"}]},
]
TOOLS: Any = [{"type": "function", "function": {"name": "add", "description": "adds", "strict": 1}}]


def chat(messages: Any = HISTORY, **fields: Any) -> Chat:
    given = Fields({"messages": messages, **fields})
    return parse_chat(given, parse_tools(given).prompt)


def rendered(source: str, asked: Chat) -> str:
    return TOKENIZER.decode(ChatTemplate(source, TOKENIZER).encode(asked))


def test_calls_and_results_of_earlier_turns_are_written_as_the_template_has_them() -> None:
    asked = chat()
    assert rendered(HERMES, asked) == (
        '[user]add[assistant]<tool_call>\n{"name": "add", "arguments": {"a": [1, "é"]}}\n'
        "</tool_call>[tool]3"
    )
    assert rendered(LLAMA3, asked) == (
        '[user]add[assistant]{"name": "add", "parameters": {"a": [1, "é"]}}[ipython]3'
    )
    assert rendered(MISTRAL, asked) == (
        'add[TOOL_CALLS][{"name": "add", "arguments": {"a": [1, "é"]}}]'
        '[TOOL_RESULTS]{"content": "3", "id": "abcdefghi"}'
    )


def test_arguments_that_are_no_object_stay_as_the_model_wrote_them() -> None:
    call = {**CALL, "function": {"name": "add", "arguments": '{"a": '}}
    text = rendered(HERMES, chat([{"role": "assistant", "tool_calls": [call]}]))
    assert '"arguments": "{\\"a\\": "' in text


def test_tools_are_told_as_they_were_sent_without_what_is_ours() -> None:
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    asked = chat([{"role": "user", "content": "hi"}], tools=tools)
    assert rendered(HERMES, asked) == (
        '{"type": "function", "function": {"name": "add", "description": "adds", "parameters": '
        '{"type": "object", "properties": {}, "additionalProperties": false}}};[user]hi'
    )


def test_a_template_that_knows_no_tools_has_them_told_in_words() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    system = {"role": "system", "content": "Be brief."}
    text = rendered(CHATML, chat([system, *HISTORY, HISTORY[-1]], tools=tools))
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call")
    assert '<tools>\n{"type": "function", "function": {"name": "add", ' in text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": [1, "é"]}}\n</tool_call>' in text
    # results that follow each other are one turn
    result = "<tool_response>\n3\n</tool_response>"
    assert f"<|im_start|>user\n{result}\n{result}<|im_end|>" in text
    alone = rendered(CHATML, chat(HISTORY[:1], tools=tools))
    assert alone.startswith("<|im_start|>system\nYou may call")


@pytest.mark.parametrize("empty", ["", {}, 0, False])
def test_what_is_empty_and_no_list_is_refused_all_the_same(empty: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^tools must be a list"):
        chat(tools=empty)
    with pytest.raises(InvalidRequest, match=r"^messages\[0\].tool_calls must be a list"):
        chat([{"role": "assistant", "content": "x", "tool_calls": empty}])


@pytest.mark.parametrize("template", [HERMES, CHATML])
def test_no_part_of_a_tool_or_a_call_can_forge_markup(template: str) -> None:
    bad = "<|im_end|>"
    call = {"id": bad, "function": {"name": bad, "arguments": f'{{"{bad}": ["{bad}"]}}'}}
    messages = [
        {"role": "assistant", "tool_calls": [call], "reasoning_content": bad},
        {"role": "tool", "tool_call_id": bad, "name": bad, "content": bad},
    ]
    parameters = {"type": "object", "properties": {bad: {"description": bad}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    plain = ChatTemplate(template, TOKENIZER).encode(chat([{"role": "user", "content": ""}] * 2))
    tokens = ChatTemplate(template, TOKENIZER).encode(chat(messages, tools=tools))
    turns = 3 if template == CHATML else 0  # the system's message tells the tools
    assert tokens.count(IM_END) == turns
    assert plain.count(IM_END) == min(turns, 2)


THINKER = (
    "{{ messages[-1].content }}{{ '<think></think>' if enable_thinking is false else '' }}"
    "{{ reasoning_effort or '' }}"
)


@pytest.mark.parametrize(
    ("fields", "text", "thinking"),
    [
        ({}, "hi", Thinking.PERHAPS),
        ({"reasoning_effort": "none"}, "hi<think></think>none", Thinking.PERHAPS),
        ({"reasoning_effort": "high"}, "hihigh", Thinking.PERHAPS),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            "hi<think></think>",
            Thinking.NEVER,
        ),
    ],
)
def test_the_effort_goes_to_the_template(
    fields: dict[str, Any], text: str, thinking: Thinking
) -> None:
    asked = chat([{"role": "user", "content": "hi"}], **fields)
    template = ChatTemplate(THINKER, TOKENIZER)
    tokens = template.encode(asked)
    assert TOKENIZER.decode(tokens) == text
    assert template.thinking(tokens) is thinking


def test_a_prompt_that_opens_the_thoughts_is_seen() -> None:
    template = ChatTemplate("{{ messages[0].content }}<think>\n{# </think> #}", TOKENIZER)
    tokens = template.encode(chat([{"role": "user", "content": "hi"}]))
    assert template.thinking(tokens) is Thinking.BEGUN
    without = ChatTemplate(CHATML, TOKENIZER)
    assert without.thinking(tokens) is Thinking.NEVER


def test_a_variable_that_the_template_has_not_is_refused_with_those_it_has() -> None:
    asked = chat([{"role": "user", "content": "hi"}], chat_template_kwargs={"thinker": 1})
    with pytest.raises(InvalidRequest, match="it has: enable_thinking, reasoning_effort"):
        ChatTemplate(THINKER, TOKENIZER).encode(asked)
    with pytest.raises(InvalidRequest, match="it has: none"):
        ChatTemplate(CHATML, TOKENIZER).encode(asked)
