"""A loop of tools with Anthropic's SDK: anthropic_loop.py URL whole|stream."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from anthropic import AsyncAnthropic
from anthropic.types import Message

WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
        "required": ["city"],
    },
}


async def say(client: AsyncAnthropic, how: str, messages: list[Any], choice: str) -> Message:
    asked: Any = {
        "model": "m",
        "max_tokens": 60,
        "extra_body": {"temperature": 0},  # which open models have
        "messages": messages,
        "tools": [WEATHER],
        "tool_choice": {"type": choice, "disable_parallel_tool_use": True},
    }
    if how == "whole":
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


async def main(url: str, how: str) -> None:
    asked: list[Any] = []
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    async with AsyncAnthropic(base_url=url, api_key="none needed", max_retries=0) as client:
        while True:
            message = await say(client, how, messages, "auto" if asked else "any")
            messages.append({"role": "assistant", "content": message.content})
            calls = [block for block in message.content if block.type == "tool_use"]
            if not calls:
                break
            asked += [call.input["city"] for call in calls]
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls
            ]
            messages.append({"role": "user", "content": results})
    text = "".join(block.text for block in message.content if block.type == "text")
    told = {"text": text, "asked": asked, "tokens": message.usage.output_tokens}
    print(json.dumps(told))


asyncio.run(main(*sys.argv[1:]))
