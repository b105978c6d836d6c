from __future__ import annotations

import pytest

from gateway.replica.manner import Manner
from gateway.replica.speech import Said, Thinking
from gateway.replica.tool_formats import HERMES, LLAMA3, MISTRAL, ToolFormat, format_of

NAMES = frozenset({"add", "get_weather"})
ADD = '{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}'
ARGUMENTS = '{"a": 1, "b": [2, {"c": "}"}]}'


def heard(text: str, manner: Manner, size: int, *, whole: bool) -> Said:
    """What the text says that comes in pieces of this length."""
    speech = manner.speech()
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return Said.joined([*map(speech.push, pieces), speech.finish(whole)])


def told(
    text: str,
    form: ToolFormat,
    thinking: Thinking = Thinking.NEVER,
    *,
    forced: bool = False,
    whole: bool = True,
) -> tuple[str, str, list]:
    """Thoughts, text and calls, which are the same whatever pieces the text comes in."""
    manner = Manner(thinking, form, NAMES, forced)
    said = [heard(text, manner, size, whole=whole) for size in (1, 2, 3, 7, len(text))]
    every = [(s.reasoning, s.text, [(c.index, c.name, c.arguments) for c in s.calls]) for s in said]
    assert all(one == every[0] for one in every)
    return every[0]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, f"<tool_call>\n{ADD}\n</tool_call>"),
        (HERMES, f"\n<tool_call>{ADD}</tool_call>\n"),
        (HERMES, f"<tool_call>\n{ADD}\n</tool_c"),
        (HERMES, f"<tool_call>\n{ADD}"),  # the model stopped a mark too early
        (MISTRAL, f"[TOOL_CALLS][{ADD}]"),
        (MISTRAL, f"[TOOL_CALLS] [ {ADD} ]"),
        (LLAMA3, ADD),
        (LLAMA3, f"\n{ADD}\n"),
        (LLAMA3, f"<|python_tag|>{ADD}"),
        (LLAMA3, ADD.replace("arguments", "parameters")),
        (LLAMA3, ADD.replace('{"name"', '{"type": "function", "name"')),
    ],
)
def test_a_call_is_told_with_its_arguments_as_they_are_written(form: ToolFormat, text: str) -> None:
    assert told(text, form) == ("", "", [(0, "add", ARGUMENTS)])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, f"<tool_call>\n{ADD}\n</tool_call>\n<tool_call>\n{ADD}\n</tool_call>"),
        (MISTRAL, f"[TOOL_CALLS][{ADD}, {ADD}]"),
        (LLAMA3, f"{ADD}; {ADD}"),
    ],
)
def test_several_calls_are_counted(form: ToolFormat, text: str) -> None:
    assert told(text, form) == ("", "", [(0, "add", ARGUMENTS), (1, "add", ARGUMENTS)])


def test_text_around_calls_is_text() -> None:
    text = f"Let me see.\n\n<tool_call>\n{ADD}\n</tool_call>\nThat was it. "
    assert told(text, HERMES) == ("", "Let me see.That was it. ", [(0, "add", ARGUMENTS)])


@pytest.mark.parametrize(
    "call",
    [
        '{"arguments": {"a": 1}, "name": "add"}',
        '{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}',
        '{"name": "add", "arguments": "{\\"a\\": 1}"}',
    ],
)
def test_a_call_in_another_order_is_told_when_it_is_whole(call: str) -> None:
    assert told(f"<tool_call>{call}</tool_call>", HERMES) == ("", "", [(0, "add", '{"a": 1}')])


def test_a_call_without_arguments_has_none() -> None:
    assert told('<tool_call>{"name": "add"}</tool_call>', HERMES)[2] == [(0, "add", "{}")]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "no calls at all"),
        (HERMES, "a < b <tool"),
        (HERMES, "<tool_call> nothing"),
        (HERMES, "<tool_call>"),
        (HERMES, '<tool_call>{"name": "add", "argum'),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"nome": "add"}</tool_call>'),
        (HERMES, "<tool_call>{broken}</tool_call>"),
        (HERMES, "<tool_call>" + "{[" * 5000),
        (MISTRAL, "[TOOL_CALLS]get_weather"),
        (MISTRAL, "[1, 2]"),
        (LLAMA3, '{"a": 1}'),
        (LLAMA3, '{"name": "nobody", "parameters": {}}'),
        (LLAMA3, "an answer with {braces}"),
        (LLAMA3, '["name"]'),
    ],
)
def test_what_is_no_call_stays_text(form: ToolFormat, text: str) -> None:
    assert told(text, form) == ("", text, [])


def test_a_broken_call_after_a_good_one_is_text() -> None:
    text = f"<tool_call>{ADD}</tool_call><tool_call>oops</tool_call>"
    assert told(text, HERMES)[1:] == ("<tool_call>oops</tool_call>", [(0, "add", ARGUMENTS)])


def test_arguments_come_as_they_are_written_and_the_name_before_them() -> None:
    speech = Manner(form=HERMES, callable=NAMES).speech()
    assert not speech.push('<tool_call>\n{"name": "add", "arguments": ')
    first = speech.push('{"a": ')
    assert [(c.name, c.arguments) for c in first.calls] == [("add", ""), (None, '{"a": ')]
    assert first.calls[0].id is not None
    assert [(c.id, c.name, c.arguments) for c in speech.push("12").calls] == [(None, None, "12")]
    assert [c.arguments for c in speech.push("}}\n</tool").calls] == ["}"]
    assert not speech.push("_call>") + speech.finish()


def test_a_call_that_is_cut_keeps_what_it_has() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": "x'
    assert told(text, HERMES) == ("", "", [(0, "add", '{"a": "x')])


@pytest.mark.parametrize("form", [HERMES, MISTRAL])
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("size", [0, 1, 8, 20])
def test_a_call_that_was_cut_before_its_name_is_certain_is_left_out(
    form: ToolFormat, forced: bool, size: int
) -> None:
    before = "" if forced else "Well. "
    text = f"{before}{form.opening}{form.head}{ADD[:size]}"
    assert told(text, form, forced=forced, whole=False) == ("", before.rstrip(), [])


@pytest.mark.parametrize("text", ["<tool", f"<tool_call>\n{ADD}\n</tool_call>\n<tool"])
def test_a_mark_that_was_cut_is_text_only_where_an_answer_may_be_text(text: str) -> None:
    assert told(text, HERMES, forced=True, whole=False)[1] == ""
    assert told(text, HERMES, forced=False, whole=False)[1] == "<tool"


@pytest.mark.parametrize("text", ['{"', '{"name": "add", "par'])
def test_an_object_that_was_cut_is_text_unless_it_had_to_be_a_call(text: str) -> None:
    assert told(text, LLAMA3, forced=True, whole=False) == ("", "", [])
    assert told(text, LLAMA3, forced=False, whole=False) == ("", text, [])


@pytest.mark.parametrize(
    ("form", "text"),
    [(MISTRAL, f'[TOOL_CALLS][{ADD}, {{"name"'), (LLAMA3, f'{ADD}; {{"name"')],
)
def test_after_a_call_what_was_cut_is_one_too(form: ToolFormat, text: str) -> None:
    assert told(text, form, whole=False) == ("", "", [(0, "add", ARGUMENTS)])


def test_thoughts_are_told_apart_and_calls_in_them_are_none() -> None:
    thought = f"Hm. <tool_call>{ADD}</tool_call>"
    text = f"<think>\n{thought}\n</think>\n\nWell: 1 < 2"
    assert told(text, HERMES, Thinking.PERHAPS) == (thought, "Well: 1 < 2", [])
    assert told(text.removeprefix("<think>"), HERMES, Thinking.BEGUN)[0] == thought
    assert told("no <think> here", HERMES, Thinking.PERHAPS) == ("", "no <think> here", [])
    assert told("never done </thin", HERMES, Thinking.BEGUN)[0] == "never done </thin"
    assert told(" \n", HERMES, Thinking.PERHAPS) == ("", " \n", [])
    after = f"a</think>\n<tool_call>{ADD}</tool_call>"
    assert told(after, HERMES, Thinking.BEGUN) == ("a", "", [(0, "add", ARGUMENTS)])


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{{ '<tool_call>\n' }}", HERMES),
        ("{{ '[TOOL_CALLS] [' }}", MISTRAL),
        ("{{ '<|python_tag|>' }}", LLAMA3),
        ("{{ messages[0].content }}", HERMES),
    ],
)
def test_the_template_says_how_calls_are_written(source: str, form: ToolFormat) -> None:
    assert format_of(source) is form


def test_mistrals_ids_are_as_short_as_its_templates_want() -> None:
    assert len(MISTRAL.new_id()) == 9
    assert HERMES.new_id().startswith("call_")
