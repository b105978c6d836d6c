"""What a request needs is read off its fields."""

from __future__ import annotations

import pytest

from tests.support.requests import chat, completion, parsed

PICTURE = {"type": "image_url", "image_url": {"url": "http://p/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
TOOL = {"type": "function", "function": {"name": "f"}}


def with_parts(*parts):
    return parsed({"model": "m", "messages": [{"role": "user", "content": list(parts)}]})


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (chat(), set()),
        (chat(n=1, logprobs=False, tools=[], response_format={"type": "text"}), set()),
        (chat(tools=[TOOL]), {"tools"}),
        (chat(tools=[TOOL], tool_choice="none"), set()),
        (chat(response_format={"type": "json_object"}), {"json_schema"}),
        (chat(response_format={"type": "json_schema", "json_schema": {}}), {"json_schema"}),
        (chat(logprobs=True, n=2), {"logprobs", "n"}),
        (completion(logprobs=0), {"logprobs"}),
        (with_parts({"type": "text", "text": "hi"}), set()),
        (with_parts({"type": "text", "text": "hi"}, PICTURE), {"vision"}),
        (with_parts(SOUND), {"audio"}),
        (chat(modalities=["text", "audio"]), {"audio"}),
        (chat(modalities=5, response_format={"type": ["x"]}), set()),  # the endpoint's to judge
        (completion(messages=["x", {"content": [1]}]), set()),
    ],
)
def test_needs(request_, needs) -> None:
    assert request_.needs == needs
